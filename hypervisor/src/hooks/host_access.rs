//! Every way in which host code touches memory, tried on memory that a guest owns: by each kind of access, by the routines that copy, zero and
//! walk, across the border of a hole, through a pointer from before the hide, and through windows that are closed. Each must be a page fault
//! that is named for what it is, and none after the memory was given back.
//!
//! A page fault of an access that is tried comes back here ([`caught`]) instead of ending the run. What the run's end looks like is shown by
//! `read-hole`.

use core::arch::naked_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use audit::{Pa, PhysicalRead};
use boot_config::MIN_MEMORY;
use heapless::String;
use memory::address::{Gpa, Hva, Level, PAGE_SIZE, Pfn, REGION_ORDER};
use memory::frame::{GuestId, HostFrames};
use memory::guest::{GuestFlushed, GuestMemory, SecondStageKind};
use memory::layout::{DIRECT_MAP_BASE, PAGE_WINDOW_BASE, WINDOW_BASE, direct};
use memory::machine::Table;
use memory::region::Watermarks;
use memory::window::Windows;
use report::{Check, Event};
use x86::irq::PAGE_FAULT_VECTOR;

use crate::cpu::exception::Frame;
use crate::cpu::registers::read_cr2;
use crate::frames::{Frames, with_memory};
use crate::guests::backing;
use crate::hardware::{Hardware, WalkerView, fill_with_zeros};
use crate::reporting::json;
use crate::{describe, println};

/// Error code of a page fault: a write, a fetch (SDM vol. 3A, 4.7). Clear: not present, supervisor.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;
/// Bytes that are copied and zeroed, by routines, which may begin with any of them.
const BYTES: usize = 64;

/// Where the access that is being tried goes on after a fault, and with which stack; 0 when none is.
static RESUME: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);
/// The fault: its error code and its address.
static ERROR: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Whether this exception is the fault of an access that is tried. If so, it is noted and the frame changed to go on behind it.
pub fn caught(frame: &mut Frame) -> bool {
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if frame.vector != u64::from(PAGE_FAULT_VECTOR) || resume == 0 {
        return false;
    }
    ERROR.store(frame.error_code, Ordering::Relaxed);
    ADDRESS.store(read_cr2(), Ordering::Relaxed);
    frame.rip = resume;
    frame.rsp = STACK.load(Ordering::Relaxed);
    true
}

/// An access: it gets an address, and must own nothing that would have to be dropped.
type Access = unsafe extern "sysv64" fn(u64);

/// Calls `access`, and returns 0, or 1 when a page fault ended it.
///
/// # Safety
/// As for `access`; what a fault leaves half done must not matter.
#[unsafe(naked)]
unsafe extern "sysv64" fn guarded(access: Access, at: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // With this word the stack is a multiple of 16 before the call.
        "push 0",
        "mov [rip + {stack}], rsp",
        "lea rax, [rip + 2f]",
        "mov [rip + {resume}], rax",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "xor eax, eax",
        "jmp 3f",
        "2:",
        "mov eax, 1",
        "3:",
        "mov qword ptr [rip + {resume}], 0",
        "pop rcx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        stack = sym STACK,
        resume = sym RESUME,
    )
}

/// Tries an access. The fault's error code and address, if one came.
fn attempt(access: Access, at: Hva) -> Option<(u64, Hva)> {
    // SAFETY: the addresses are holes, whose access faults (or shows that the test fails, after which nothing counts), and memory
    // that nobody uses.
    let faulted = unsafe { guarded(access, at.get()) } == 1;
    faulted.then(|| {
        let address = ADDRESS.load(Ordering::Relaxed);
        (ERROR.load(Ordering::Relaxed), Hva::new(address))
    })
}

fn pointer<T>(at: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(at as usize)
}

/// Makes the accesses. Each has the contract that its address is in the direct map, or in a window slot, and nobody uses what is there.
macro_rules! accesses {
    ($($name:ident |$at:ident| $body:expr;)*) => {
        $(
            /// # Safety
            /// The address may fault; if it does not, nobody uses what is there.
            unsafe extern "sysv64" fn $name($at: u64) {
                // SAFETY: as the caller promises.
                unsafe { $body }
            }
        )*
    };
}
accesses! {
    read |at| {
        core::hint::black_box(pointer::<u64>(at).read_volatile());
    };
    read_byte |at| {
        core::hint::black_box(pointer::<u8>(at).read_volatile());
    };
    read_unaligned |at| {
        core::hint::black_box(pointer::<u64>(at).read_unaligned());
    };
    write |at| pointer::<u64>(at).write_volatile(0);
    execute |at| {
        let code: extern "sysv64" fn() = core::mem::transmute(pointer::<u8>(at));
        code();
    };
    copy_out |at| {
        let mut to = [0_u8; BYTES];
        core::ptr::copy_nonoverlapping(pointer::<u8>(at), to.as_mut_ptr(), core::hint::black_box(BYTES));
        core::hint::black_box(&to);
    };
    copy_in |at| {
        let from = core::hint::black_box([0_u8; BYTES]);
        core::ptr::copy_nonoverlapping(from.as_ptr(), pointer::<u8>(at), core::hint::black_box(BYTES));
    };
    zero |at| fill_with_zeros(at, BYTES as u64);
    entry |at| {
        // As `Hardware::table` and a walk do.
        let table: &Table = &*pointer(at & !(PAGE_SIZE - 1));
        core::hint::black_box(table[0].load(Ordering::Relaxed));
    };
}

/// As the checks do. Where it reads, it reads as `read` does.
extern "sysv64" fn walk(at: u64) {
    let view = WalkerView::new(Pfn::new(u64::MAX / PAGE_SIZE));
    core::hint::black_box(view.read_u64(Pa::new(at - DIRECT_MAP_BASE.get())));
}

/// A place in a hole, which may be as small as a page.
#[derive(Clone, Copy)]
enum Place {
    /// So many bytes behind its start.
    Start(i64),
    /// Behind its middle.
    Middle,
    /// So many bytes before its end.
    End(u64),
}

/// A hole in the direct map.
#[derive(Clone, Copy)]
struct Hole {
    start: Hva,
    bytes: u64,
}

impl Hole {
    fn at(self, place: Place) -> Hva {
        let start = self.start.get();
        Hva::new(match place {
            Place::Start(offset) => start.wrapping_add_signed(offset),
            Place::Middle => start + self.bytes / 2,
            Place::End(offset) => start + self.bytes - offset,
        })
    }
}

/// What is tried on a hole: a name, the access, where in the hole, the error code of its fault, and at how many bytes from there it may come.
const TRIED: [(&str, Access, Place, u64, u64); 14] = [
    ("a read", read, Place::Start(0x238), 0, 1),
    ("a read of its first byte", read_byte, Place::Start(0), 0, 1),
    ("a read of its last byte", read_byte, Place::End(1), 0, 1),
    ("a read across its border", read_unaligned, Place::Start(-4), 0, 1),
    ("a write", write, Place::Start(0x340), WRITE, 1),
    ("a write of its first word", write, Place::Start(0), WRITE, 1),
    ("a write of its last word", write, Place::End(8), WRITE, 1),
    ("execution", execute, Place::Start(0x400), FETCH, 1),
    (
        "the copy routine, out of it",
        copy_out,
        Place::Start(0x500),
        0,
        BYTES as u64,
    ),
    (
        "the copy routine, into it",
        copy_in,
        Place::Start(0x600),
        WRITE,
        BYTES as u64,
    ),
    (
        "the routine that scrubs",
        zero,
        Place::Start(0x700),
        WRITE,
        BYTES as u64,
    ),
    ("a page table in it", entry, Place::Start(0), 0, 1),
    ("the independent walker", walk, Place::End(0x700), 0, 1),
    ("a read of its middle", read, Place::Middle, 0, 1),
];

/// What went wrong, counted.
struct Outcome {
    held: u64,
    failed: u64,
}

impl Outcome {
    /// An access must fault, with this error code, at one of these addresses, and be called this.
    fn faults(
        &mut self,
        name: &'static str,
        access: Access,
        at: Hva,
        error: u64,
        places: Range<Hva>,
        called: &str,
    ) {
        let came = attempt(access, at);
        let mut words: String<160> = String::new();
        if let Some((_, address)) = came {
            // What does not fit would not be what is looked for.
            let _ = describe::address(address, &mut words);
        }
        let held = came.is_some_and(|(code, address)| code == error && places.contains(&address))
            && words.contains(called);
        match came {
            Some((code, address)) => println!("{name}: page fault, error {code:#x}, at {address}: {words}"),
            None => println!("{name}: no fault at {at}"),
        }
        if !held {
            println!(
                "FAILED: {name}: should be error {error:#x} from {}: {called}",
                places.start
            );
        }
        self.note(name, held);
    }

    /// An access must do what it does.
    fn passes(&mut self, name: &'static str, access: Access, at: Hva) {
        let came = attempt(access, at);
        if let Some((error, address)) = came {
            println!("FAILED: {name}: page fault, error {error:#x}, at {address}");
        }
        self.note(name, came.is_none());
    }

    fn note(&mut self, name: &'static str, held: bool) {
        self.held += u64::from(held);
        self.failed += u64::from(!held);
        let detail = if held { "held" } else { "see the text" };
        json::event(&Event::Check(Check { name, held, detail }));
    }
}

/// Tries everything; before the first guest. Returns how many did not hold.
pub fn try_all(kind: SecondStageKind, windows: &mut Windows) -> u64 {
    let mut outcome = Outcome { held: 0, failed: 0 };
    let done = try_each(kind, windows, &mut outcome);
    if done.is_none() {
        println!("FAILED: there is no memory to try it with");
        outcome.failed += 1;
    }
    println!(
        "accesses of the host: {} as they must be, {} not",
        outcome.held, outcome.failed
    );
    outcome.failed
}

fn try_each(kind: SecondStageKind, windows: &mut Windows, outcome: &mut Outcome) -> Option<()> {
    // Taken and given back, the same regions are the next to be taken; so these pointers are from before the hide.
    let at = with_memory(|memory| {
        let regions = memory.frames.carve(MIN_MEMORY / Level::L2.bytes()).ok()?;
        let first = regions.extents(&memory.frames).map(|(pfn, _)| pfn).next();
        memory.frames.uncarve(regions);
        direct(first?.hpa())
    })?;
    outcome.passes("a read before the hide", read, at);
    outcome.passes("a write before the hide", write, at);

    let id = GuestId::new(u16::MAX)?;
    let guest = backing::private_memory(kind, windows, id, MIN_MEMORY, &mut || true).ok()?;
    let hole = with_memory(|memory| guest.regions(&Hardware, &memory.frames).next())?;
    let start = direct(hole.hpa())?;
    println!("a guest of {} MiB, with a hole at {start}", guest.bytes() >> 20);
    if start != at {
        println!("FAILED: the hole is not where the memory was taken from: {at}");
        outcome.failed += 1;
    }
    let hole = Hole {
        start,
        bytes: Level::L2.bytes(),
    };
    try_hole(hole, outcome)?;

    windows_that_are_closed(&guest, windows, outcome);
    let flushed = GuestFlushed::new(guest.id());
    backing::take_back(guest, flushed, windows, &mut || ());
    outcome.passes("a read after it was given back", read, start);
    outcome.passes("the routine that scrubs, after it was given back", zero, start);
    freed_frames(outcome);
    small_holes(kind, windows, outcome)
}

/// Everything on one hole.
fn try_hole(hole: Hole, outcome: &mut Outcome) -> Option<()> {
    let called: String<32> = String::try_from("hole of guest 65535").ok()?;
    for (name, access, place, error, bytes) in TRIED {
        let at = hole.at(place);
        // The one that begins before the hole faults at its first byte.
        let first = at.get().max(hole.start.get());
        outcome.faults(
            name,
            access,
            at,
            error,
            Hva::new(first)..Hva::new(first + bytes),
            &called,
        );
    }
    outcome.passes("a read below the hole", read, hole.at(Place::Start(-8)));
    Some(())
}

/// The same on a hole that is smaller than 2 MiB: in the memory of a guest that was launched when hardly a whole region was free, so that the direct map
/// has 4K leaves around its pieces.
fn small_holes(kind: SecondStageKind, windows: &mut Windows, outcome: &mut Outcome) -> Option<()> {
    let id = GuestId::new(u16::MAX)?;
    let hiding = with_memory(|memory| {
        let marks = memory.pool().watermarks();
        memory.set_watermarks(Watermarks::default());
        // The lower halves of some regions become free again, the upper ones do not.
        let mut halves: [Option<HostFrames>; 4] =
            core::array::from_fn(|_| memory.frames.allocate(REGION_ORDER - 1).ok());
        for half in &mut halves {
            if half
                .as_ref()
                .is_some_and(|half| half.pfn().is_aligned(Level::L2.frames()))
                && let Some(lower) = half.take()
            {
                memory.frames.free(lower);
            }
        }
        let whole = memory.frames.free_regions().saturating_sub(1);
        let all = memory.frames.carve(whole);
        let hiding = memory.launch(&Hardware, kind, id, MIN_MEMORY);
        if let Ok(all) = all {
            memory.frames.uncarve(all);
        }
        for half in halves.into_iter().flatten() {
            memory.frames.free(half);
        }
        memory.set_watermarks(marks);
        hiding
    });
    let mut launching = hiding.ok()?.wait(&Hardware);
    while with_memory(|memory| launching.step(memory, &Hardware, windows)) {}
    let guest = with_memory(|memory| launching.finish(memory, &Hardware, windows));
    // One with ordinary memory on both sides.
    let found = with_memory(|memory| {
        let pieces = || guest.pieces(&Hardware, &memory.frames);
        let touch = |(first, order): (Pfn, u8), (second, _): (Pfn, u8)| first.add(1 << order) == second;
        pieces().find(|piece| !pieces().any(|other| touch(other, *piece) || touch(*piece, other)))
    });
    let done = found.and_then(|(pfn, order)| {
        let hole = Hole {
            start: direct(pfn.hpa())?,
            bytes: PAGE_SIZE << order,
        };
        println!(
            "a guest with a hole of {} KiB at {}",
            hole.bytes >> 10,
            hole.start
        );
        try_hole(hole, outcome)?;
        outcome.passes("a read above the hole", read, hole.at(Place::End(0)));
        Some(hole)
    });
    let flushed = GuestFlushed::new(guest.id());
    backing::take_back(guest, flushed, windows, &mut || ());
    let hole = done?;
    outcome.passes("a read after it was given back", read, hole.start);
    outcome.passes(
        "a write of its last word, after that",
        write,
        hole.at(Place::End(8)),
    );
    Some(())
}

/// A window shows memory while it is open, and nothing afterwards.
fn windows_that_are_closed(guest: &GuestMemory, windows: &mut Windows, outcome: &mut Outcome) {
    let mut word = [1; 8];
    let read_it =
        with_memory(|memory| guest.read(&Hardware, &memory.frames, windows, Gpa::new(0), &mut word));
    outcome.note("a read through a window", read_it.is_ok() && word == [0; 8]);
    for (name, base) in [
        ("the window of 2 MiB, closed", WINDOW_BASE),
        ("the windows of pages, closed", PAGE_WINDOW_BASE),
    ] {
        outcome.faults(
            name,
            read,
            base,
            0,
            base..Hva::new(base.get() + 1),
            "window slot of this CPU",
        );
    }
}

/// Ordinary memory that was freed is in the direct map still: what is tried above is the hiding, not the freeing.
fn freed_frames(outcome: &mut Outcome) {
    let Ok(frames) = Frames::zeroed(0) else { return };
    let at = Hva::new(frames.as_ptr().expose_provenance() as u64);
    drop(frames);
    outcome.passes("a read of freed ordinary memory", read, at);
}
