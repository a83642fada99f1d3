//! The machine: RAM with a gap for devices below 4 GiB, as q35 has it, and its direct map at boot.

use anyhow::{Context, Result, anyhow};
use audit::{Format, Pa, PhysicalRead, Tables, Va};
use memory::HostMemory;
use memory::address::{Hpa, Level, Pfn};
use memory::frame::FrameTable;
use memory::frame::records::RecordsLayout;
use memory::layout::{DIRECT_MAP_BASE, DIRECT_MAP_BYTES};
use memory::memory_map::{FrameRange, MemoryMap, RawEntry};
use memory::paging::TableBuilder;
use memory::window::Windows;
use memory_benches::NativeMachine;
use tools::tlb::Mapping;
use workloads::Extent;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// RAM below the gap, and where it goes on.
const BELOW: u64 = 2 * GIB;
const ABOVE: u64 = 4 * GIB;

/// A machine, its RAM, and its tables.
pub struct Board {
    /// The machine.
    pub machine: NativeMachine,
    map: MemoryMap,
    in_use: FrameRange,
    root: Pfn,
    windows: Windows,
}

/// What the walker reads.
struct Outside<'m>(&'m NativeMachine);

impl PhysicalRead for Outside<'_> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        self.0.word(Hpa::new(pa.get()))
    }
}

impl Board {
    /// A machine with so many bytes of RAM, whose direct map has leaves of at most `largest`.
    ///
    /// # Errors
    /// There is too little RAM, or the system gives no mapping.
    pub fn new(bytes: u64, largest: Level) -> Result<Self> {
        anyhow::ensure!(
            bytes >= ABOVE && bytes.is_multiple_of(GIB),
            "RAM in whole GiB, at least 4, is needed"
        );
        let entry = |start: u64, end: u64| RawEntry {
            start: Hpa::new(start),
            bytes: end - start,
            ram: true,
        };
        let end = ABOVE + bytes - BELOW;
        let ram = [entry(0, 640 << 10), entry(MIB, BELOW), entry(ABOVE, end)];
        let map = MemoryMap::new(ram.into_iter()).map_err(|error| anyhow!("{error}"))?;
        // Enough for what the boot builds, and where it is out of the way of whole gigablocks as far as it can be.
        let tables = match largest {
            Level::L1 => bytes / (2 * MIB) + bytes / GIB + 1024,
            _ => bytes / GIB + 2048,
        };
        let start = if tables << 12 < BELOW / 2 { 16 * MIB } else { ABOVE };
        let in_use = FrameRange {
            start: Pfn::new(start >> 12),
            end: Pfn::new((start >> 12) + tables),
        };
        let machine = NativeMachine::whole(end).context("reserve address space for the machine's RAM")?;
        let mut frames = (in_use.start.get()..in_use.end.get()).map(Pfn::new);
        let built = TableBuilder::new(&machine, largest, || frames.next()).and_then(|mut builder| {
            builder.map_ram(&map)?;
            let (root, windows) = Windows::for_cpu(&mut builder)?;
            Ok((builder.root(), root, windows))
        });
        let (shared, root, windows) = built.map_err(|error| anyhow!("the machine's tables: {error}"))?;
        machine.set_root(root);
        Ok(Self {
            machine,
            map,
            in_use,
            root: shared,
            windows,
        })
    }

    /// Storage for the frame records.
    pub fn storage(&self) -> Vec<u64> {
        // Zeroed by the system when it is touched.
        vec![0; RecordsLayout::new(&self.map).storage_words()]
    }

    /// The memory subsystem, booted, and the windows of the one CPU.
    ///
    /// # Errors
    /// The storage does not fit.
    pub fn boot<'s>(&mut self, storage: &'s mut [u64]) -> Result<HostMemory<'s>> {
        let frames = FrameTable::new(&self.map, &[self.in_use], storage)
            .map_err(|error| anyhow!("frame records: {error:?}"))?;
        Ok(HostMemory::new(&self.machine, frames, self.root))
    }

    /// Machine and windows, for what needs both.
    pub fn parts(&mut self) -> (&NativeMachine, &mut Windows) {
        (&self.machine, &mut self.windows)
    }

    /// RAM, ascending.
    pub fn ram(&self) -> Vec<Extent> {
        let extent = |range: &FrameRange| Extent {
            start: range.start,
            frames: range.end.get() - range.start.get(),
        };
        self.map.ranges().iter().map(extent).collect()
    }

    /// The direct map, as the independent walker meets it now.
    ///
    /// # Errors
    /// The tables are malformed.
    pub fn direct_map(&self) -> Result<Mapping> {
        let memory = Outside(&self.machine);
        let tables = Tables::new(&memory, Format::host(false, 52), self.root.hpa().get());
        let base = DIRECT_MAP_BASE.get();
        Mapping::take(&tables, Va::new(base), Va::new(base + (DIRECT_MAP_BYTES - 1)))
            .map_err(|error| anyhow!("the direct map: {error}"))
    }
}
