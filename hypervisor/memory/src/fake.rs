//! A machine for unit tests that look inside this crate: frames for tables, and CPUs that cache nothing. What depends on caches, on
//! contents, or on the order of stores is tested on the model machine (`model-machine`), through the public face.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::vec::Vec;

use crate::address::{ENTRIES, Hpa, Hva, Level, PAGE_SIZE, Pfn};
use crate::frame::FrameTable;
use crate::frame::records::RecordsLayout;
use crate::host::HostMemory;
use crate::machine::{Machine, Table, TableAt, WindowSpan};
use crate::memory_map::{FrameRange, MemoryMap, RawEntry};
use crate::paging::TableBuilder;
use crate::tlb::shootdown::{Cpu, CpuIndex, CpuLine, Outstanding, Processor, Shootdown};
use crate::trace::{Traced, Tracer};
use crate::window::Windows;

/// How far the clock goes on at each look at it.
pub(crate) const TICK: u64 = 7;
/// RAM in bytes. Miri needs minutes for the records of 1 GiB.
const RAM: u64 = if cfg!(miri) { 16 << 20 } else { 1 << 30 };

/// One CPU, and the frames that are, or could be, tables, from 0 on.
pub(crate) struct Fake {
    frames: Vec<OnceLock<Box<Table>>>,
    shootdown: Shootdown<'static>,
    now: AtomicU64,
    /// What was noted, for tests that look.
    pub(crate) noted: RefCell<Vec<Traced>>,
}

impl Tracer for Fake {
    fn note(&self, event: Traced) {
        self.noted.borrow_mut().push(event);
    }
}

impl Fake {
    /// A machine with [`RAM`], and its memory as booted.
    pub(crate) fn boot() -> (&'static Self, HostMemory<'static>, Windows) {
        let machine: &Self = Box::leak(Box::new(Self {
            frames: (0..RAM / PAGE_SIZE).map(|_| OnceLock::new()).collect(),
            shootdown: Shootdown::new(Box::leak(Box::new([CpuLine::new()]))),
            now: AtomicU64::new(0),
            noted: RefCell::default(),
        }));
        assert!(machine.cpu().announce() && machine.cpu().join(machine).is_ok());
        let ram = RawEntry {
            start: Hpa::new(0),
            bytes: RAM,
            ram: true,
        };
        let map = MemoryMap::new([ram].into_iter()).unwrap();
        let in_use = FrameRange {
            start: Pfn::new(0x100),
            end: Pfn::new(0x200),
        };
        let mut tables = (in_use.start.get()..in_use.end.get()).map(Pfn::new);
        let mut builder = TableBuilder::new(machine, Level::L3, || tables.next()).unwrap();
        builder.map_ram(&map).unwrap();
        let (_, windows) = Windows::for_cpu(&mut builder).unwrap();
        let root = builder.root();
        let storage = std::vec![0; RecordsLayout::new(&map).storage_words()];
        let frames = FrameTable::new(&map, &[in_use], storage.leak()).unwrap();
        (machine, HostMemory::new(machine, frames, root), windows)
    }

    /// A table, made if it was never touched.
    pub(crate) fn frame(&self, pfn: Pfn) -> &Table {
        self.frames[pfn.get() as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; ENTRIES]))
    }
}

impl Machine for Fake {
    fn table(&self, at: TableAt) -> &Table {
        self.frame(at.pfn())
    }

    fn clear(&self, at: TableAt) {
        for entry in self.frame(at.pfn()) {
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// Nobody looks at contents here.
    fn zero(&self, _: WindowSpan) {}

    fn copy_in(&self, _: WindowSpan, _: &[u8]) {}

    fn copy_out(&self, _: WindowSpan, data: &mut [u8]) {
        data.fill(0);
    }

    fn invalidate(&self, _: Hva) {}

    fn now(&self) -> u64 {
        self.now.fetch_add(TICK, Ordering::Relaxed)
    }

    fn tracer(&self) -> Option<&dyn Tracer> {
        Some(self)
    }

    fn cpu(&self) -> Cpu<'_> {
        self.shootdown.cpu(CpuIndex::new(0)).unwrap()
    }
}

impl Processor for Fake {
    fn flush(&self) {}

    fn interrupt(&self, cpu: CpuIndex) {
        panic!("there is no {cpu}")
    }

    fn pause(&self, outstanding: &Outstanding) {
        panic!("nobody else runs: {outstanding}")
    }
}
