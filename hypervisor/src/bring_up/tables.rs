//! The page tables that stay: the direct map, the image, stacks, the APIC's registers, and the boot CPU's window slot.

use core::cell::Cell;
use core::fmt;

use memory::address::{GIGABLOCK_ORDER, Hpa, Hva, Level, PAGE_SIZE, Pfn};
use memory::layout::{DEVICE_BASE, direct};
use memory::memory_map::FrameRange;
use memory::paging::{Attributes, BuildError, TableBuilder};
use memory::window::Windows;

use super::cpu_area::{self, CpuArea};
use super::ram::{Ram, RamError};
use crate::boot::image;
use crate::hardware::Hardware;

/// Frames for tables and stacks besides those that depend on RAM: for the direct map's upper levels, the image, the device page, one
/// CPU's stacks and windows. Measured: 85 taken of 173 on a 4 GiB machine, 84 of 169 on one of 512 MiB.
const POOL_FRAMES: u64 = 160;
/// Table frames for each range of RAM: at each of its ends a table of 4K leaves and one of 2M leaves.
const FRAMES_A_RANGE: u64 = 4;
/// log2 of the frames that one top-level entry covers (512 GiB).
const TOP_ENTRY_ORDER: u8 = 27;

/// Why the tables could not be built.
#[derive(Debug)]
pub enum TablesError {
    /// No RAM for them.
    Ram(RamError),
    /// See [`BuildError`].
    Build(BuildError),
    /// An address without a place in the direct map.
    Beyond(Hpa),
}

impl From<BuildError> for TablesError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::Beyond(at) => write!(f, "{at} lies beyond the reach of the direct map"),
        }
    }
}

/// The finished tables.
pub struct BootTables {
    /// The top-level table whose slots all CPUs share; no CPU uses it itself.
    pub shared_root: Pfn,
    /// The boot CPU's top-level table.
    pub cpu_root: Pfn,
    /// The boot CPU's windows.
    pub windows: Windows,
    /// Where the local APIC's registers are.
    pub apic: Hva,
}

/// Builds the tables in frames that it takes from `ram`. `largest` is the largest leaf that the CPU knows.
///
/// # Errors
/// See [`TablesError`].
/// `cpus` is how many CPUs there may be.
pub fn build(
    ram: &mut Ram,
    largest: Level,
    area: CpuArea,
    apic: Hpa,
    cpus: u32,
) -> Result<BootTables, TablesError> {
    let ranges = ram.map.ranges().len() as u64;
    // One third-level table for each top-level entry in use.
    let third_level = ram.blocks(TOP_ENTRY_ORDER);
    // Without 1G leaves each gigablock with RAM in it needs a table of 2M leaves.
    let second_level = if largest == Level::L3 {
        0
    } else {
        ram.blocks(GIGABLOCK_ORDER)
    };
    let lines = cpu_area::lines(cpus);
    let frames = POOL_FRAMES + lines.pages + FRAMES_A_RANGE * ranges + third_level + second_level;
    let pool = ram.take_low("page tables", frames).map_err(TablesError::Ram)?;
    let next = Cell::new(pool.start);
    let take = || {
        let frame = next.get();
        next.set(frame.add(1));
        (frame < pool.end).then_some(frame)
    };

    let mut builder = TableBuilder::new(&Hardware, largest, take)?;
    for range in ram.map.ranges() {
        for (piece, attributes) in without_constants(*range) {
            let at = direct(piece.start.hpa()).ok_or(TablesError::Beyond(piece.start.hpa()))?;
            builder.map(at, piece, attributes)?;
        }
    }
    for section in image::sections() {
        let attributes = match (section.executable, section.writable) {
            (true, _) => Attributes::CODE,
            (false, false) => Attributes::READ_ONLY,
            (false, true) => Attributes::DATA,
        };
        let frames = FrameRange::covering(section.hpa(), section.bytes());
        let frames = frames.ok_or(TablesError::Beyond(section.hpa()))?;
        builder.map(section.start, frames, attributes)?;
    }
    for part in area.parts().chain([lines]) {
        for page in 0..part.pages {
            // From the pool, too, but no table.
            let frame = take().ok_or(BuildError::NoTableFrame)?;
            let at = Hva::new(part.start.get() + page * PAGE_SIZE);
            builder.map(
                at,
                FrameRange {
                    start: frame,
                    end: frame.add(1),
                },
                Attributes::DATA,
            )?;
        }
    }
    let device = FrameRange {
        start: apic.pfn(),
        end: apic.pfn().add(1),
    };
    builder.map(DEVICE_BASE, device, Attributes::DEVICE)?;

    let shared_root = builder.root();
    let (cpu_root, windows) = Windows::for_cpu(&mut builder)?;
    Ok(BootTables {
        shared_root,
        cpu_root,
        windows,
        apic: DEVICE_BASE,
    })
}

/// Cuts a range of RAM where the image's code and constants are: those are read-only in the direct map, too.
fn without_constants(range: FrameRange) -> impl Iterator<Item = (FrameRange, Attributes)> {
    let fixed = |writable: bool| {
        let mut sections = image::sections()
            .into_iter()
            .filter(move |section| section.writable == writable);
        sections.next().map(|section| section.hpa().pfn())
    };
    // Code and constants come first in the image, then all that is writable.
    let start = fixed(false).unwrap_or(range.end);
    let end = fixed(true).unwrap_or(start);
    let cut = FrameRange { start, end };
    let below = FrameRange {
        start: Pfn::new(0),
        end: cut.start,
    };
    let above = FrameRange {
        start: cut.end,
        end: Pfn::new(u64::MAX),
    };
    [
        (below, Attributes::DATA),
        (cut, Attributes::READ_ONLY),
        (above, Attributes::DATA),
    ]
    .into_iter()
    .map(move |(part, attributes)| (range.intersection(&part), attributes))
    .filter(|(part, _)| part.frames() > 0)
}
