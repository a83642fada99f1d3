//! The machine: RAM in an ordinary sparse mapping, of which, for callgrind, only the two ends are there.
//!
//! Tables come from the highest gigablock, those of the boot and the first regions from the lowest. What lies between is hidden and given
//! back, but nobody looks at it, so a machine of 1 TiB takes two mappings of 1 GiB: callgrind gives a program less than 64 GiB in all.
//! Where tables may be anywhere, [`NativeMachine::whole`] has all of RAM.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use memory::address::{ENTRIES, Hpa, Hva, PAGE_SIZE, Pfn};
use memory::layout::{PAGE_WINDOW_BASE, WINDOW_BASE};
use memory::machine::{Machine, Table, TableAt, WindowSpan};
use memory::tlb::shootdown::{
    Cpu, CpuIndex, CpuLine, Kicker, Outstanding, Processor, Shootdown, StillInside,
};

use crate::zeroing::Zeroing;

/// The address in an entry (AMD APM vol. 2, 5.3).
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes at each end of RAM that are there.
const END: u64 = 1 << 30;

/// RAM from 0 on that costs memory only where it is touched.
struct Ram {
    low: MmapRaw,
    /// Bytes in each of the two mappings.
    low_bytes: u64,
    high: MmapRaw,
    high_bytes: u64,
    /// Where `high` begins.
    high_start: u64,
}

/// A machine as one of its CPUs sees it; one for each thread. Nothing caches translations: tables are used in place, windows are looked up in
/// their tables, and a flush has nothing to do. So the CPUs count as asleep, and nobody is interrupted.
pub struct NativeMachine {
    ram: Arc<Ram>,
    number: u32,
    /// The tables that lead to the windows: of 2 MiB, of 4 KiB.
    windows: Cell<Option<(Pfn, Pfn)>>,
    /// How memory is zeroed; left as it is, when zeroing is not what is measured.
    pub zeroing: Cell<Option<Zeroing>>,
    shootdown: &'static Shootdown<'static>,
}

impl NativeMachine {
    /// The first CPU of a machine with so many CPUs and bytes of RAM, a multiple of 4 KiB and at least 2 GiB.
    ///
    /// # Errors
    /// When the system gives no mapping, or there is too little RAM.
    pub fn new(bytes: u64, cpus: u32) -> std::io::Result<Self> {
        if bytes < 2 * END {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        Self::with_mappings(END, bytes - END, END, cpus)
    }

    /// A machine with one CPU and all of its RAM there; what is touched costs memory, 4 KiB at a time.
    ///
    /// # Errors
    /// When the system gives no mapping.
    pub fn whole(bytes: u64) -> std::io::Result<Self> {
        let machine = Self::with_mappings(bytes, bytes, PAGE_SIZE, 1)?;
        // Tables lie far apart, and a large page for each would take 512 times their size. Where advice is not taken there are none.
        let _ = machine.ram.low.advise(memmap2::Advice::NoHugePage);
        Ok(machine)
    }

    fn with_mappings(low_bytes: u64, high_start: u64, high_bytes: u64, cpus: u32) -> std::io::Result<Self> {
        let sparse = |bytes: u64| {
            MmapOptions::new()
                .len(bytes as usize)
                .no_reserve_swap()
                .map_anon()
        };
        // Some lines of 64 bytes a machine, never freed: the protocol borrows them.
        let lines: Vec<_> = (0..cpus).map(|_| CpuLine::new()).collect();
        let machine = Self {
            ram: Arc::new(Ram {
                low: sparse(low_bytes)?.into(),
                low_bytes,
                high: sparse(high_bytes)?.into(),
                high_bytes,
                high_start,
            }),
            number: 0,
            windows: Cell::new(None),
            zeroing: Cell::new(None),
            shootdown: Box::leak(Box::new(Shootdown::new(lines.leak()))),
        };
        for number in 0..cpus {
            let cpu = machine.seen_by(number);
            let joined = cpu.cpu().announce() && cpu.cpu().join(&cpu).is_ok();
            assert!(joined, "CPU {number} joins");
            // Of one alone nobody asks anything.
            if cpus > 1 {
                cpu.cpu().sleep();
            }
        }
        Ok(machine)
    }

    /// The same machine as another of its CPUs sees it, with windows of its own.
    pub fn seen_by(&self, number: u32) -> Self {
        Self {
            ram: Arc::clone(&self.ram),
            number,
            windows: Cell::new(None),
            zeroing: self.zeroing.clone(),
            shootdown: self.shootdown,
        }
    }

    /// Says where the windows' tables are: what the MMU finds out by itself.
    pub fn set_root(&self, root: Pfn) {
        let below = |table: Pfn, index: usize| {
            let entry = self.frame(table)[index].load(Ordering::Relaxed);
            Pfn::new((entry & ADDRESS) >> 12)
        };
        let third = below(root, WINDOW_BASE.index(4));
        let second = below(third, WINDOW_BASE.index(3));
        self.windows
            .set(Some((second, below(second, PAGE_WINDOW_BASE.index(2)))));
    }

    /// The word at an address of the low mapping, as an outside observer reads it; `None` elsewhere.
    pub fn word(&self, at: Hpa) -> Option<u64> {
        let last = at.get().checked_add(8)?;
        (last <= self.ram.low_bytes)
            .then(|| self.frame(at.pfn())[(at.get() % PAGE_SIZE / 8) as usize].load(Ordering::Relaxed))
    }

    /// Where the byte at a host-physical address is, with as many after it.
    fn bytes(&self, at: u64, count: u64) -> *mut u8 {
        let ram = &*self.ram;
        let (end, length, offset) = if at < ram.high_start {
            (&ram.low, ram.low_bytes, at)
        } else {
            (&ram.high, ram.high_bytes, at - ram.high_start)
        };
        assert!(
            offset.checked_add(count).is_some_and(|last| last <= length),
            "{count} bytes at {at:#x} are not there"
        );
        end.as_mut_ptr().wrapping_add(offset as usize)
    }

    fn frame(&self, pfn: Pfn) -> &Table {
        let table = self.bytes(pfn.hpa().get(), PAGE_SIZE).cast::<Table>();
        // SAFETY: the frame lies in a mapping that lives as long as `self`, and is aligned to 4 KiB as that is. Its bytes are used through
        // atomics, or exclusively by `each_piece`, which only frames come to that are no tables.
        unsafe { &*table }
    }

    /// Calls `visit` for each piece of memory that a span of a window shows.
    fn each_piece(&self, span: WindowSpan, mut visit: impl FnMut(&mut [u8])) {
        let Some((second, first)) = self.windows.get() else {
            panic!("no window is open before the boot has ended")
        };
        let (mut at, end) = (span.start().get(), span.start().get() + span.bytes() as u64);
        while at < end {
            let here = Hva::new(at);
            let (table, level) = if here < PAGE_WINDOW_BASE {
                (second, 2)
            } else {
                (first, 1)
            };
            let size = PAGE_SIZE << (9 * (level - 1));
            let entry = self.frame(table)[here.index(level)].load(Ordering::Relaxed);
            assert!(entry & 1 == 1, "nothing is mapped at {here}");
            let offset = at % size;
            let length = (size - offset).min(end - at);
            let start = (entry & ADDRESS & !(size - 1)) + offset;
            let bytes = self.bytes(start, length);
            // SAFETY: the bytes lie in a mapping. Only an open window of this CPU leads here, so they are hidden memory, which is no table
            // and which nobody else has a reference to.
            visit(unsafe { core::slice::from_raw_parts_mut(bytes, length as usize) });
            at += length;
        }
    }
}

impl Machine for NativeMachine {
    fn table(&self, at: TableAt) -> &Table {
        self.frame(at.pfn())
    }

    fn clear(&self, at: TableAt) {
        for entry in self.frame(at.pfn()) {
            entry.store(0, Ordering::Relaxed);
        }
    }

    fn zero(&self, span: WindowSpan) {
        if let Some(way) = self.zeroing.get() {
            self.each_piece(span, |bytes| way.fill(bytes));
        }
    }

    fn copy_in(&self, span: WindowSpan, mut data: &[u8]) {
        self.each_piece(span, |bytes| {
            let (now, later) = data.split_at(bytes.len());
            bytes.copy_from_slice(now);
            data = later;
        });
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        let mut done = 0;
        self.each_piece(span, |bytes| {
            data[done..][..bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        });
    }

    fn invalidate(&self, _: Hva) {}

    fn now(&self) -> u64 {
        // SAFETY: every CPU with 64-bit mode has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn cpu(&self) -> Cpu<'_> {
        match self.shootdown.cpu(CpuIndex::new(self.number)) {
            Some(cpu) => cpu,
            None => panic!("the machine has no CPU {}", self.number),
        }
    }
}

impl Processor for NativeMachine {
    fn flush(&self) {}

    fn interrupt(&self, cpu: CpuIndex) {
        panic!("{cpu} is asleep")
    }

    fn pause(&self, outstanding: &Outstanding) {
        panic!("all others are asleep: {outstanding}")
    }
}

impl Kicker for NativeMachine {
    fn kick(&self, cpu: CpuIndex) {
        panic!("{cpu} is in no guest: nothing runs here")
    }

    fn pause_outside(&self, inside: &StillInside) {
        panic!("nothing runs here: {inside}")
    }
}

const _: () = assert!(size_of::<Table>() == ENTRIES * size_of::<AtomicU64>());
