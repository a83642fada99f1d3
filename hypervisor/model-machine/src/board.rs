//! A machine with its memory subsystem, booted the way the hypervisor does it.

use memory::HostMemory;
use memory::address::{Hpa, Level, Pfn};
use memory::frame::FrameTable;
use memory::frame::records::RecordsLayout;
use memory::memory_map::{FrameRange, MemoryMap, RawEntry};
use memory::paging::TableBuilder;
use memory::window::Windows;

use crate::machine::ModelMachine;

/// A booted model machine: the memory subsystem and each CPU's windows.
pub struct Booted<'m> {
    /// The memory subsystem.
    pub memory: HostMemory<'m>,
    /// The windows of each CPU.
    pub windows: Vec<Windows>,
}

/// A machine, and the storage of its frame records.
pub struct Board {
    machine: ModelMachine,
    storage: Vec<u64>,
    map: MemoryMap,
    windows: Vec<Windows>,
}

/// Table frames that the model's boot may use, from 1 MiB on: it needs one for each GiB that has no 1G leaf, and three for each CPU.
const BOOT_TABLES: u64 = 1024;

/// The frames that are in use at boot.
const IN_USE: FrameRange = FrameRange {
    start: Pfn::new(0x100),
    end: Pfn::new(0x100 + BOOT_TABLES),
};

impl Board {
    /// A machine with RAM at these byte ranges (start, length) and some CPUs, with leaves of at most `largest` in its direct map. One range
    /// must hold 4 MiB from 1 MiB on.
    ///
    /// # Panics
    /// When the ranges make no machine.
    pub fn new(ram: &[(u64, u64)], cpus: usize, largest: Level) -> Self {
        let entries = ram.iter().map(|&(start, bytes)| RawEntry {
            start: Hpa::new(start),
            bytes,
            ram: true,
        });
        let map = MemoryMap::new(entries).unwrap();
        let mut tables = (IN_USE.start.get()..IN_USE.end.get()).map(Pfn::new);
        let mut machine = ModelMachine::new(map.ranges());
        let (mut roots, mut windows) = (Vec::new(), Vec::new());
        let boot_cpu = machine.cpu(0);
        let mut builder = TableBuilder::new(&boot_cpu, largest, || tables.next()).unwrap();
        builder.map_ram(&map).unwrap();
        let shared_root = builder.root();
        for _ in 0..cpus {
            let (root, of_cpu) = Windows::for_cpu(&mut builder).unwrap();
            windows.push(of_cpu);
            roots.push(root);
        }
        machine.begin(shared_root, &roots);
        Self {
            machine,
            storage: vec![0; RecordsLayout::new(&map).storage_words()],
            map,
            windows,
        }
    }

    /// The machine and its memory, at boot, with all CPUs started.
    ///
    /// # Panics
    /// When it has been booted before.
    pub fn boot(&mut self) -> (&ModelMachine, Booted<'_>) {
        self.boot_with(usize::MAX)
    }

    /// The same with only so many CPUs started; the others may be later.
    ///
    /// # Panics
    /// When it has been booted before.
    pub fn boot_with(&mut self, started: usize) -> (&ModelMachine, Booted<'_>) {
        for index in 0..self.machine.cpus().min(started) {
            self.machine.cpu(index).come();
        }
        let frames = FrameTable::new(&self.map, &[IN_USE], &mut self.storage).unwrap();
        let memory = HostMemory::new(&self.machine.cpu(0), frames, self.machine.shared_root());
        let windows = std::mem::take(&mut self.windows);
        assert!(!windows.is_empty(), "a board boots once");
        (&self.machine, Booted { memory, windows })
    }
}

impl ModelMachine {
    /// A board's machine and memory, for tests that make few of them: the board is never freed.
    pub fn boot(ram: &[(u64, u64)], cpus: usize, largest: Level) -> (&'static Self, Booted<'static>) {
        Box::leak(Box::new(Board::new(ram, cpus, largest))).boot()
    }
}
