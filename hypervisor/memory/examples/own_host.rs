//! A host of one's own: all that `memory` needs of a machine, written out.
//!
//! `cargo run -p memory --example own_host`
//!
//! This one is as small as it gets: 64 MiB of RAM in a slice, one CPU, and no caches of translations. What a real host does instead stands
//! at each method.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use memory::HostMemory;
use memory::address::{ENTRIES, Gpa, Hpa, Hva, Level, Pfn};
use memory::frame::records::RecordsLayout;
use memory::frame::{FrameTable, GuestId};
use memory::guest::{GuestFlushed, SecondStageKind};
use memory::layout::direct;
use memory::machine::{Machine, Table, TableAt, WindowSpan};
use memory::memory_map::{FrameRange, MemoryMap, RawEntry};
use memory::paging::{Decoded, Format, LongMode, TableBuilder};
use memory::tlb::shootdown::{Cpu, CpuIndex, CpuLine, Outstanding, Processor, Shootdown};
use memory::window::Windows;

type Anything = Box<dyn std::error::Error>;

const RAM: u64 = 64 << 20;
/// In use from the start: 256 KiB from 1 MiB on, for the tables of the boot.
const IN_USE: FrameRange = FrameRange {
    start: Pfn::new(0x100),
    end: Pfn::new(0x140),
};

struct MyMachine {
    ram: Vec<Table>,
    /// The top-level table that the CPU is on: CR3.
    root: Cell<Pfn>,
    /// Every CPU's line in the shootdown protocol. A real host keeps them in its image: they are read before a CPU has flushed.
    shootdown: Shootdown<'static>,
    flushes: Cell<u64>,
}

impl MyMachine {
    fn new() -> Self {
        let table = |_| [const { AtomicU64::new(0) }; ENTRIES];
        Self {
            ram: (0..RAM / 4096).map(table).collect(),
            root: Cell::default(),
            shootdown: Shootdown::new(Box::leak(Box::new([CpuLine::new()]))),
            flushes: Cell::default(),
        }
    }

    /// What the MMU does: a walk from CR3.
    fn translate(&self, at: Hva) -> Option<Hpa> {
        let (mut table, mut level) = (self.root.get(), Level::L4);
        loop {
            let entry = self.ram[table.get() as usize][at.index(level as u8)].load(Ordering::Acquire);
            match LongMode::decode(level, entry) {
                Decoded::Absent => return None,
                Decoded::Leaf(pfn, _) => return Some(Hpa::new(pfn.hpa().get() + at.get() % level.bytes())),
                Decoded::Table(next) => (table, level) = (next, level.below()?),
            }
        }
    }

    /// The word of RAM that holds byte `offset` of a span, and the byte's place in it.
    fn byte(&self, span: WindowSpan, offset: usize) -> (&AtomicU64, u32) {
        let at = Hva::new(span.start().get() + offset as u64);
        match self.translate(at) {
            Some(hpa) => {
                let word = (hpa.get() % 4096 / 8) as usize;
                (
                    &self.ram[hpa.pfn().get() as usize][word],
                    8 * (hpa.get() % 8) as u32,
                )
            }
            None => panic!("a page fault at {at}"),
        }
    }
}

/// Memory, as the CPU that calls sees it.
impl Machine for MyMachine {
    /// A real host: a reference to `DIRECT_MAP_BASE + frame`. Tables are never hidden.
    fn table(&self, at: TableAt) -> &Table {
        &self.ram[at.pfn().get() as usize]
    }

    /// A frame that is about to be a table.
    fn clear(&self, at: TableAt) {
        self.table(at)
            .iter()
            .for_each(|entry| entry.store(0, Ordering::Relaxed));
    }

    /// A real host: `rep stosq` at the span's address. Whole pages.
    fn zero(&self, span: WindowSpan) {
        for offset in (0..span.bytes()).step_by(8) {
            self.byte(span, offset).0.store(0, Ordering::Relaxed);
        }
    }

    /// A real host: a plain copy, as for the next one.
    fn copy_in(&self, span: WindowSpan, data: &[u8]) {
        for (offset, byte) in data.iter().enumerate().take(span.bytes()) {
            let (word, shift) = self.byte(span, offset);
            let others = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(others | u64::from(*byte) << shift, Ordering::Relaxed);
        }
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        for (offset, byte) in data.iter_mut().enumerate().take(span.bytes()) {
            let (word, shift) = self.byte(span, offset);
            *byte = (word.load(Ordering::Relaxed) >> shift) as u8;
        }
    }

    /// A real host: INVLPG. This CPU caches nothing.
    fn invalidate(&self, _: Hva) {}

    /// A real host: RDTSC. Only the counters of costs use it.
    fn now(&self) -> u64 {
        0
    }

    /// A real host: the line of the CPU that runs this, by its number.
    fn cpu(&self) -> Cpu<'_> {
        match self.shootdown.cpu(CpuIndex::new(0)) {
            Some(cpu) => cpu,
            None => unreachable!("there is one line"),
        }
    }
}

/// What the shootdown protocol needs.
impl Processor for MyMachine {
    /// A real host: write CR3 (and INVPCID or CR4.PGE, where it has global translations).
    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }

    /// A real host: an interrupt to that CPU, whose handler calls `Cpu::answer`.
    fn interrupt(&self, cpu: CpuIndex) {
        unreachable!("there is no {cpu}")
    }

    /// A real host: PAUSE, and a word on the console after a while.
    fn pause(&self, outstanding: &Outstanding) {
        unreachable!("nobody else runs: {outstanding}")
    }
}

fn main() -> Result<(), Anything> {
    let machine = MyMachine::new();

    // 1. The firmware's memory map, in any order.
    let ram = RawEntry {
        start: Hpa::new(0),
        bytes: RAM,
        ram: true,
    };
    let map = MemoryMap::new([ram].into_iter())?;

    // 2. Tables: the direct map, in leaves of 2M at most, and the CPU's own top-level table with its windows. A real host maps its image and
    //    stacks with the same builder, then loads CR3.
    let mut frames = (IN_USE.start.get()..IN_USE.end.get()).map(Pfn::new);
    let mut builder = TableBuilder::new(&machine, Level::L2, || frames.next())?;
    builder.map_ram(&map)?;
    let shared_root = builder.root();
    let (root, mut windows) = Windows::for_cpu(&mut builder)?;
    machine.root.set(root);

    // 3. The CPU takes part in shootdowns from here on.
    ensure(machine.cpu().announce(), "the CPU was not announced before")?;
    machine.cpu().join(&machine)?;

    // 4. The frame records, in memory that the host sets aside, 0.2 % of RAM; and all of it together.
    let mut storage = vec![0; RecordsLayout::new(&map).storage_words()];
    let frames = FrameTable::new(&map, &[IN_USE], &mut storage)?;
    let mut memory = HostMemory::new(&machine, frames, shared_root);
    let free = memory.frames.free_frames();
    println!("{} MiB of RAM, {} MiB free.", RAM >> 20, free >> 8);

    // A guest with 8 MiB: checked and taken, hidden, flushed, zeroed, mapped. A host with a lock around `memory` does not hold it while it
    // waits for the flush.
    let id = GuestId::new(1).ok_or("0 is no guest")?;
    let hiding = memory.launch(&machine, SecondStageKind::Nested, id, 8 << 20)?;
    let mut guest = hiding.wait(&machine).finish(&mut memory, &machine, &mut windows);
    println!(
        "A guest has 8 MiB; its nested tables begin at {}.",
        guest.second_stage()
    );
    guest.write(&machine, &memory.frames, &mut windows, Gpa::new(0x1234), b"code")?;
    let regions: Vec<Pfn> = guest.regions(&machine, &memory.frames).collect();
    for region in &regions {
        let at = direct(region.hpa()).ok_or("RAM has an address in the direct map")?;
        ensure(
            machine.translate(at).is_none(),
            "the host cannot reach its memory",
        )?;
    }
    println!(
        "The host has no translation for any of its {} regions.",
        regions.len()
    );

    // Its end: revoked, scrubbed, restored, merged, freed. The host says that no CPU runs it any more and that its translations are flushed.
    let revoked = guest.revoke(&machine);
    let restored = revoked
        .reclaim(GuestFlushed::new(id))
        .finish(&mut memory, &machine, &mut windows);
    restored.wait(&machine).release(&mut memory, &machine);
    ensure(memory.frames.free_frames() == free, "nothing is missing")?;
    ensure(memory.frames.holes() == (0, 0), "the direct map has no hole")?;
    let at = direct(Hpa::new(regions[0].hpa().get() + 0x1234)).ok_or("as above")?;
    let hpa = machine
        .translate(at)
        .ok_or("the direct map shows the memory again")?;
    let word = machine.ram[hpa.pfn().get() as usize][(hpa.get() % 4096 / 8) as usize].load(Ordering::Relaxed);
    ensure(word == 0, "nothing is left of what was in it")?;
    println!(
        "After it everything is free and zero again; the CPU has flushed {} times.",
        machine.flushes.get()
    );
    Ok(())
}

fn ensure(holds: bool, what: &str) -> Result<(), Anything> {
    if holds {
        Ok(())
    } else {
        Err(format!("this does not hold: {what}").into())
    }
}
