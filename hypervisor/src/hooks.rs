//! Deliberate mistakes, in test builds only. Most are faults, made here: each must end in a report that names what was done. Others
//! leave something out, where it would have been done, or write something wrong (`control_block`), or damage nothing that the hypervisor relies
//! on and must be found by whoever looks from outside.

pub mod control_block;
pub mod host_access;
pub mod mark;
pub mod pool;
pub mod stale_read;
pub mod stress;

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicUsize, Ordering};

use boot_config::Hook;
use memory::address::{Hva, Level, Pfn, REGION_ORDER};
use memory::layout::{DIRECT_MAP_BASE, direct};

use crate::boot::image;
use crate::checks::Memories;
use crate::cpu::{registers, tlb};
use crate::frames::{Frames, with_memory};
use crate::println;

/// The mistake that this run makes, as its place in [`Hook::ALL`] plus one; 0 before it is known, and when there is none.
static SET: AtomicUsize = AtomicUsize::new(0);

/// Notes the mistake that this run makes.
pub fn set(hook: Hook) {
    let place = Hook::ALL.iter().position(|known| *known == hook);
    SET.store(place.map_or(0, |place| place + 1), Ordering::Relaxed);
}

/// Whether this run makes this mistake.
pub fn is_set(hook: Hook) -> bool {
    let place = SET.load(Ordering::Relaxed);
    place > 0 && Hook::ALL.get(place - 1) == Some(&hook)
}

/// Where a hidden region is shown: an entry of the top-level table, of the lower half, in which the hypervisor has nothing.
const ALIAS_SLOT: u64 = 1;
const ALIAS: Hva = Hva::new(ALIAS_SLOT << 39);
/// Present and writable (SDM vol. 3A, 4.5; APM vol. 2, 5.4.1); and that as a 2M leaf without execution.
const TABLE: u64 = 0b11;
const LEAF: u64 = TABLE | 1 << 7 | 1 << 63;
/// Bits 51:12 of CR3.
const ROOT: u64 = 0x000f_ffff_ffff_f000;

/// Makes the fault that `hook` names, if it names one, while these guests live. Returns true only when nothing caught it.
pub fn commit(hook: Hook, guests: &dyn Memories) -> bool {
    println!("test hook: {hook}");
    match hook {
        Hook::SilentCpu
        | Hook::NoKick
        | Hook::Pool
        | Hook::HostAccess
        | Hook::Control
        | Hook::MeasureAnyway => return false,
        // It has to notice by itself.
        Hook::NoInterrupt if stress::is_on() => return false,
        Hook::StaleRead | Hook::NoInterrupt => stale_read::provoke(),
        Hook::ReadHole => {
            if let Some(at) = hole(guests).and_then(|pfn| direct(pfn.hpa())) {
                touch(Hva::new(at.get() + 0x1238), false);
            }
        }
        Hook::WriteText => {
            let text = image::sections()[0].hpa();
            touch(Hva::new(DIRECT_MAP_BASE.get() + text.get()), true);
        }
        Hook::StackOverflow => {
            println!("recursed {} times", recurse(0));
        }
        Hook::ShowHole => {
            if let Some(hole) = hole(guests) {
                show(hole);
            }
        }
        Hook::KeepCopy => {
            if let (Some(hole), Ok(copy)) = (hole(guests), Frames::zeroed(REGION_ORDER)) {
                keep(hole, copy);
            }
        }
        // Done already, in every control block.
        Hook::BadControlBlock => return control_block::was_taken(),
    }
    true
}

/// A region of a guest.
fn hole(guests: &dyn Memories) -> Option<Pfn> {
    let mut found = None;
    guests.each(&mut |guest| {
        found = found.or_else(|| {
            with_memory(|memory| guest.regions(&crate::hardware::Hardware, &memory.frames).next())
        });
    });
    found
}

/// Maps a region at [`ALIAS`], with tables that are never freed. Returns the entry that maps it.
fn show(hole: Pfn) -> Option<*mut u64> {
    let mut entry = DIRECT_MAP_BASE.get() + (registers::read_cr3() & ROOT) + 8 * ALIAS_SLOT;
    for _ in [Level::L3, Level::L2] {
        let table = ManuallyDrop::new(Frames::zeroed(0).ok()?);
        let pointer = core::ptr::with_exposed_provenance_mut::<u64>(entry as usize);
        // SAFETY: an entry of the top-level table that nothing else uses, or of the new table, both in the direct map.
        unsafe { pointer.write_volatile(table.hpa().get() | TABLE) };
        entry = table.as_ptr().expose_provenance() as u64;
    }
    let pointer = core::ptr::with_exposed_provenance_mut::<u64>(entry as usize);
    // SAFETY: the first entry of the new level-2 table. What it maps is not touched but by `keep`: the mistake is that it could be.
    unsafe { pointer.write_volatile(hole.hpa().get() | LEAF) };
    Some(pointer)
}

/// Copies a region and leaves the copy, but no way to the region.
fn keep(hole: Pfn, copy: Frames) {
    let copy = ManuallyDrop::new(copy);
    let Some(entry) = show(hole) else { return };
    let from = core::ptr::with_exposed_provenance::<u8>(ALIAS.get() as usize);
    // SAFETY: `show` has just mapped the region there, whose guest does not run on this CPU now; the copy is ours alone and as large.
    unsafe { core::ptr::copy_nonoverlapping(from, copy.as_ptr(), copy.bytes()) };
    // SAFETY: the entry that `show` made, in a table that nobody else uses.
    unsafe { entry.write_volatile(0) };
    tlb::invlpg(ALIAS);
}

/// Reads a word, or writes it back.
fn touch(at: Hva, write: bool) {
    let pointer = core::ptr::with_exposed_provenance_mut::<u64>(at.get() as usize);
    // SAFETY: none can be given: the access is the fault that the test asks for. It reads, and at most writes back what it read, so
    // that nothing is damaged even if nothing catches it.
    unsafe {
        let value = pointer.read_volatile();
        if write {
            pointer.write_volatile(value);
        }
    }
}

/// Uses up any stack.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let filler = core::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1).wrapping_add(filler[7])
    }
}
