//! The model machine: RAM in ordinary memory, and CPUs whose TLBs and paging-structure caches stay *stale until flushed*.
//!
//! No emulator keeps what real hardware may keep: here a translation that was ever used, and every table entry that a walk
//! ever read, is used again until a flush, so a missing flush or a table that is reused too early shows as a wrong access.
//! [`ram`] is the memory, [`cpu`] the caches and the walk, [`ModelMachine`] puts them together and boots the way the
//! hypervisor does.

pub mod cpu;
pub mod ram;

use core::ops::Range;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use crate::address::{Hpa, Hva, Level, Pfn};
use crate::frame::FrameTable;
use crate::frame::records::RecordsLayout;
use crate::host::HostMemory;
use crate::layout::direct;
use crate::machine::{Machine, Table, TableAt, WindowSpan};
use crate::memory_map::{FrameRange, MemoryMap, RawEntry};
use crate::paging::{Attributes, TableBuilder};
use crate::tlb::shootdown::{Cpu, CpuIndex, CpuLine, Outstanding, Processor, Shootdown};
use crate::window::Windows;
use cpu::{Caches, Fault};
use ram::Ram;

/// RAM and CPUs.
pub struct ModelMachine {
    ram: Ram,
    cpus: Vec<Mutex<Caches>>,
    shootdown: Shootdown<'static>,
    shared_root: Pfn,
}

/// One CPU of a model machine: what [`Machine`] is for.
#[derive(Clone, Copy)]
pub struct ModelCpu<'a> {
    machine: &'a ModelMachine,
    index: usize,
}

/// A booted model machine: the memory subsystem and each CPU's windows.
pub struct Booted {
    /// The memory subsystem.
    pub memory: HostMemory<'static>,
    /// The windows of each CPU.
    pub windows: Vec<Windows>,
}

/// Table frames that the model's boot may use, taken from the first RAM at or above 1 MiB.
const BOOT_TABLES: u64 = 1024;

impl ModelMachine {
    /// Boots a machine with RAM at these byte ranges (start, length) and some CPUs, with leaves of at most `largest`. One range must hold
    /// 4 MiB from 1 MiB on.
    ///
    /// # Panics
    /// When the ranges make no machine; this is for tests.
    pub fn boot(ram: &[(u64, u64)], cpus: usize, largest: Level) -> (&'static Self, Booted) {
        let entries = ram.iter().map(|&(start, bytes)| RawEntry {
            start: Hpa::new(start),
            bytes,
            ram: true,
        });
        let map = match MemoryMap::new(entries) {
            Ok(map) => map,
            Err(error) => panic!("{error}"),
        };
        let ram = Ram::new(map.ranges());
        let first = Pfn::new(0x100);
        let mut next = first;
        // The machine while its tables are being made: no CPU uses them yet.
        let unborn = Self {
            ram: ram.clone(),
            cpus: Vec::new(),
            shootdown: Shootdown::new(&[]),
            shared_root: first,
        };
        let boot_cpu = unborn.cpu(0);
        let mut builder = match TableBuilder::new(&boot_cpu, largest, || {
            next = next.add(1);
            (next.get() < first.get() + BOOT_TABLES).then(|| Pfn::new(next.get() - 1))
        }) {
            Ok(builder) => builder,
            Err(error) => panic!("{error}"),
        };
        for range in map.ranges() {
            let at = direct(range.start.hpa()).map(|at| builder.map(at, *range, Attributes::DATA));
            assert!(matches!(at, Some(Ok(()))), "the model's direct map: {at:?}");
        }
        let shared_root = builder.root();
        let mut roots = Vec::new();
        let mut windows = Vec::new();
        for _ in 0..cpus {
            let Ok(root) = builder.copy_root() else {
                panic!("no frame for a root")
            };
            builder.switch_root(root);
            let Ok(window) = Windows::new(&mut builder) else {
                panic!("no frame for windows")
            };
            builder.switch_root(shared_root);
            roots.push(root);
            windows.push(window);
        }
        let cpus: Vec<_> = roots
            .into_iter()
            .map(|root| Mutex::new(Caches::new(root)))
            .collect();
        let lines: Vec<CpuLine> = cpus.iter().map(|_| CpuLine::new()).collect();
        let machine: &'static Self = Box::leak(Box::new(Self {
            ram,
            cpus,
            shootdown: Shootdown::new(Box::leak(lines.into_boxed_slice())),
            shared_root,
        }));
        for index in 0..machine.cpus.len() {
            let cpu = machine.cpu(index);
            let joined = cpu.cpu().announce().then(|| cpu.cpu().join(&cpu));
            assert_eq!(joined, Some(Ok(())), "the model's CPU {index}");
        }
        let storage = Box::leak(std::vec![0; RecordsLayout::new(&map).storage_words()].into_boxed_slice());
        let in_use = FrameRange {
            start: first,
            end: first.add(BOOT_TABLES),
        };
        let Ok(frames) = FrameTable::new(&map, &[in_use], storage) else {
            panic!("storage too small")
        };
        let memory = HostMemory::new(&machine.cpu(0), frames, shared_root);
        (machine, Booted { memory, windows })
    }

    /// One of the CPUs.
    pub fn cpu(&self, index: usize) -> ModelCpu<'_> {
        ModelCpu { machine: self, index }
    }

    /// The RAM, as an outside observer sees it.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The top-level table that every CPU's was copied from.
    pub fn shared_root(&self) -> Pfn {
        self.shared_root
    }
}

impl ModelCpu<'_> {
    fn caches(&self) -> std::sync::MutexGuard<'_, Caches> {
        match self.machine.cpus[self.index].lock() {
            Ok(caches) => caches,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Reads eight bytes (aligned) by way of this CPU's caches.
    ///
    /// # Errors
    /// A page fault.
    pub fn load(&self, at: Hva) -> Result<u64, Fault> {
        let hpa = self.caches().translate(&self.machine.ram, at, false)?;
        Ok(self.machine.ram.load(hpa))
    }

    /// Writes eight bytes (aligned) by way of this CPU's caches.
    ///
    /// # Errors
    /// A page fault.
    pub fn store(&self, at: Hva, value: u64) -> Result<(), Fault> {
        let hpa = self.caches().translate(&self.machine.ram, at, true)?;
        self.machine.ram.store(hpa, value);
        Ok(())
    }

    /// Starts running a guest: from now on a shootdown flags this CPU instead of flushing it.
    pub fn enter_guest(&self) {
        self.cpu().enter_guest();
        self.caches().in_guest = true;
    }

    /// Back from the guest: flushes first if the CPU was flagged.
    pub fn leave_guest(&self) {
        self.caches().in_guest = false;
        self.cpu().back(self);
    }

    /// Visits the words of RAM that a span touches: where each is, and which of its bytes are which bytes of the span.
    fn each_word(
        &self,
        span: WindowSpan,
        write: bool,
        mut visit: impl FnMut(Hpa, Range<usize>, Range<usize>),
    ) {
        let mut done = 0;
        while done < span.bytes() {
            let at = Hva::new(span.start().get() + done as u64);
            let first = (at.get() % 8) as usize;
            let count = (8 - first).min(span.bytes() - done);
            match self.caches().translate(&self.machine.ram, at, write) {
                Ok(hpa) => visit(hpa.align_down(8), first..first + count, done..done + count),
                Err(fault) => panic!("the host faulted at a window: {fault:?}"),
            }
            done += count;
        }
    }
}

impl Machine for ModelCpu<'_> {
    fn table(&self, at: TableAt) -> &Table {
        self.machine.ram.table(at.pfn())
    }

    fn clear(&self, at: TableAt) {
        self.machine.ram.clear(at.pfn());
    }

    fn zero(&self, span: WindowSpan) {
        // Page by page: frames never touched are zero already and stay untouched.
        for page in (0..span.bytes()).step_by(4096) {
            let at = Hva::new(span.start().get() + page as u64);
            match self.caches().translate(&self.machine.ram, at, true) {
                Ok(hpa) => self.machine.ram.clear(hpa.pfn()),
                Err(fault) => panic!("the host faulted at a window: {fault:?}"),
            }
        }
    }

    fn copy_in(&self, span: WindowSpan, data: &[u8]) {
        self.each_word(span, true, |hpa, bytes, of_data| {
            let mut word = self.machine.ram.load(hpa).to_le_bytes();
            word[bytes].copy_from_slice(&data[of_data]);
            self.machine.ram.store(hpa, u64::from_le_bytes(word));
        });
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        self.each_word(span, false, |hpa, bytes, of_data| {
            let word = self.machine.ram.load(hpa).to_le_bytes();
            data[of_data].copy_from_slice(&word[bytes]);
        });
    }

    fn invalidate(&self, at: Hva) {
        self.caches().invalidate(at);
    }

    fn now(&self) -> u64 {
        0
    }

    fn cpu(&self) -> Cpu<'_> {
        match u32::try_from(self.index)
            .ok()
            .and_then(|index| self.machine.shootdown.cpu(CpuIndex::new(index)))
        {
            Some(cpu) => cpu,
            None => panic!("the model has no CPU {}", self.index),
        }
    }
}

impl Processor for ModelCpu<'_> {
    fn flush(&self) {
        self.caches().flush();
    }

    /// Taken at once.
    fn interrupt(&self, cpu: CpuIndex) {
        let other = self.machine.cpu(cpu.get() as usize);
        other.cpu().answer(&other);
    }

    fn pause(&self, outstanding: &Outstanding) {
        panic!("nobody else runs, so it would never come: {outstanding}")
    }
}
