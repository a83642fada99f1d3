//! The area of stacks and per-CPU data: for each CPU a main stack, four exception stacks and its descriptor tables, each
//! between guard pages that are never mapped. In the area's upper half are the CPUs' lines of the shootdown protocol, in one piece.

use memory::address::{Hva, PAGE_SIZE};
use memory::layout::{SLOT_BYTES, STACK_BASE};
use memory::tlb::shootdown::CpuLine;

use crate::cpu::descriptor::CpuTables;
use crate::cpu::stack::{IstStacks, Stack};

/// Address space for each CPU.
const STRIDE: u64 = 1 << 20;
/// Where the lines are.
const LINES: Hva = Hva::new(STACK_BASE.get() + SLOT_BYTES / 2);
/// CPUs that the area has room for.
const CPUS: u64 = SLOT_BYTES / 2 / STRIDE;
const TABLE_PAGES: u64 = (size_of::<CpuTables>() as u64).div_ceil(PAGE_SIZE);

/// What a CPU has, in ascending order: name and pages. An unoptimised build was measured to need more than 64 KiB of main stack. Of an exception stack's 16,384 bytes a fault report takes 6,160 (measured
/// in a release build: page fault, with describer and JSON verdict).
const PARTS: [(&str, u64); 6] = [
    ("main stack", 48),
    ("exception stack", 4),
    ("NMI stack", 4),
    ("machine-check stack", 4),
    ("double-fault stack", 4),
    ("descriptor tables", TABLE_PAGES),
];
const MAIN: usize = 0;
const FAULT: usize = 1;
const NMI: usize = 2;
const MACHINE_CHECK: usize = 3;
const DOUBLE_FAULT: usize = 4;
const TABLES: usize = 5;

/// The place of one CPU's area.
#[derive(Clone, Copy, Debug)]
pub struct CpuArea {
    cpu: u64,
}

/// A mapped part of an area.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// First byte.
    pub start: Hva,
    /// Pages.
    pub pages: u64,
}

impl CpuArea {
    /// The area of the CPU with this number; `None` when the area has no room for it.
    pub fn new(cpu: u64) -> Option<Self> {
        (cpu < CPUS).then_some(Self { cpu })
    }

    /// The mapped parts, in ascending order.
    pub fn parts(self) -> impl Iterator<Item = Part> {
        // A guard page before each part, and the next CPU's after the last.
        let mut at = STACK_BASE.get() + self.cpu * STRIDE + PAGE_SIZE;
        PARTS.iter().map(move |&(name, pages)| {
            let part = Part {
                name,
                start: Hva::new(at),
                pages,
            };
            at += (pages + 1) * PAGE_SIZE;
            part
        })
    }

    fn part(self, number: usize) -> Part {
        let mut before = STACK_BASE.get() + self.cpu * STRIDE + PAGE_SIZE;
        for (_, pages) in &PARTS[..number] {
            before += (pages + 1) * PAGE_SIZE;
        }
        Part {
            name: PARTS[number].0,
            start: Hva::new(before),
            pages: PARTS[number].1,
        }
    }

    /// A part as a stack.
    ///
    /// # Safety
    /// The area must be mapped, in every top-level table that is ever used, and each stack serve once.
    unsafe fn stack(self, number: usize) -> Stack {
        let part = self.part(number);
        let top = Hva::new(part.start.get() + part.pages * PAGE_SIZE);
        // SAFETY: the caller vouches for the mapping; parts do not overlap.
        unsafe { Stack::new(part.start, top) }
    }

    /// The stack for ordinary code.
    ///
    /// # Safety
    /// The area must be mapped, in every top-level table that is ever used, and the stack serve once.
    pub unsafe fn main_stack(self) -> Stack {
        // SAFETY: the caller vouches for it.
        unsafe { self.stack(MAIN) }
    }

    /// The stacks for exceptions.
    ///
    /// # Safety
    /// As for [`Self::main_stack`].
    pub unsafe fn exception_stacks(self) -> IstStacks {
        // SAFETY: the caller vouches for it.
        unsafe {
            IstStacks {
                fault: self.stack(FAULT),
                nmi: self.stack(NMI),
                machine_check: self.stack(MACHINE_CHECK),
                double_fault: self.stack(DOUBLE_FAULT),
            }
        }
    }

    /// Makes the CPU's descriptor tables in their place.
    ///
    /// # Safety
    /// The area must be mapped, in every top-level table that is ever used. To be called once for each CPU.
    pub unsafe fn make_tables(self) -> &'static mut CpuTables {
        const { assert!(align_of::<CpuTables>() <= PAGE_SIZE as usize) };
        let place =
            core::ptr::with_exposed_provenance_mut::<CpuTables>(self.part(TABLES).start.get() as usize);
        // SAFETY: the part is mapped for ever, aligned, large enough, and nobody else's: the caller calls once.
        unsafe {
            place.write(CpuTables::new(self.cpu as u32));
            &mut *place
        }
    }
}

/// The descriptor tables of the CPU with this number; `None` when the area has no room for it.
///
/// # Safety
/// The CPU must have made them.
pub unsafe fn tables_of(number: u32) -> Option<&'static CpuTables> {
    let at = CpuArea::new(number.into())?.part(TABLES).start;
    let place = core::ptr::with_exposed_provenance::<CpuTables>(at.get() as usize);
    // SAFETY: the caller vouches for them; they stay for ever, and are only shared once they are loaded.
    Some(unsafe { &*place })
}

/// The part for the lines of so many CPUs; it is to be mapped in every top-level table, like the others.
pub fn lines(cpus: u32) -> Part {
    Part {
        name: "CPUs' lines",
        start: LINES,
        pages: (u64::from(cpus) * size_of::<CpuLine>() as u64).div_ceil(PAGE_SIZE),
    }
}

/// Makes the lines of so many CPUs in their place.
///
/// # Safety
/// [`lines`] must be mapped for as many. To be called once.
pub unsafe fn make_lines(cpus: u32) -> &'static [CpuLine] {
    let first = core::ptr::with_exposed_provenance_mut::<CpuLine>(LINES.get() as usize);
    for number in 0..cpus as usize {
        // SAFETY: the part is mapped for ever, aligned to a page, large enough, and nobody else's: the caller calls once.
        unsafe { first.add(number).write(CpuLine::new()) };
    }
    // SAFETY: all of them were just written.
    unsafe { core::slice::from_raw_parts(first, cpus as usize) }
}

/// What an address in the area belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A mapped part.
    Part {
        /// The CPU.
        cpu: u64,
        /// The part.
        name: &'static str,
    },
    /// The guard page between two parts.
    Guard {
        /// The CPU.
        cpu: u64,
        /// The part that begins after it. Stacks grow downwards: it is what ran over, if a stack did.
        below: &'static str,
        /// The part that ends before it; `None` for a CPU's first guard page.
        above: Option<&'static str>,
    },
}

/// What an address in the area is, for fault reports; `None` beyond a CPU's last part.
pub fn describe(at: Hva) -> Option<Place> {
    let offset = at.get().checked_sub(STACK_BASE.get())?;
    let area = CpuArea::new(offset / STRIDE)?;
    let cpu = area.cpu;
    let mut above = None;
    for Part { name, start, pages } in area.parts() {
        if at < start {
            return Some(Place::Guard {
                cpu,
                below: name,
                above,
            });
        }
        if at.get() < start.get() + pages * PAGE_SIZE {
            return Some(Place::Part { cpu, name });
        }
        above = Some(name);
    }
    None
}
