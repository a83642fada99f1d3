//! Making the host's tables at boot: before there is an allocator and before they are in use, and once more for each further CPU.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::address::{ENTRIES, Hva, Level, Pfn};
use crate::layout::{DIRECT_MAP_BASE, direct};
use crate::machine::{Machine, TableAt};
use crate::memory_map::{FrameRange, MemoryMap};

use super::format::{Attributes, Decoded, Format, LongMode};

/// Why a range could not be mapped. What was mapped before stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// No frame left for a table.
    NoTableFrame,
    /// Something is mapped at this address already.
    AlreadyMapped(Hva),
    /// The virtual address is not a multiple of 4 KiB, or the range leaves the address space.
    BadAddress(Hva),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTableFrame => write!(f, "no memory left for the page tables of the boot"),
            Self::AlreadyMapped(at) => write!(f, "{at} is mapped twice"),
            Self::BadAddress(at) => write!(f, "{at} cannot be mapped"),
        }
    }
}

impl core::error::Error for BuildError {}

/// Builds a tree of tables with the largest leaves that fit.
pub struct TableBuilder<'a, M: Machine, A: FnMut() -> Option<Pfn>> {
    machine: &'a M,
    root: Pfn,
    largest: Level,
    allocate: A,
}

impl<'a, M: Machine, A: FnMut() -> Option<Pfn>> TableBuilder<'a, M, A> {
    /// An empty tree whose leaves are at most of level `largest`. `allocate` gives frames for tables, with any contents.
    ///
    /// # Errors
    /// When there is no frame for the top-level table.
    pub fn new(machine: &'a M, largest: Level, allocate: A) -> Result<Self, BuildError> {
        let mut builder = Self {
            machine,
            root: Pfn::default(),
            largest,
            allocate,
        };
        builder.root = builder.new_table()?;
        Ok(builder)
    }

    /// Goes on with the tree under `root`, which may be in use: only absent entries are written. Otherwise as [`TableBuilder::new`].
    pub fn resume(machine: &'a M, root: Pfn, largest: Level, allocate: A) -> Self {
        Self {
            machine,
            root,
            largest,
            allocate,
        }
    }

    /// The top-level table.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// Maps `range` at `at`, with leaves as large as alignment and length allow.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn map(&mut self, at: Hva, range: FrameRange, attributes: Attributes) -> Result<(), BuildError> {
        let (mut at, mut pfn) = (at, range.start);
        while pfn < range.end {
            let left = range.end.get() - pfn.get();
            let fits = |level: &Level| {
                at.is_aligned(level.bytes()) && pfn.is_aligned(level.frames()) && left >= level.frames()
            };
            let level = [Level::L3, Level::L2, Level::L1]
                .into_iter()
                .filter(|level| *level <= self.largest)
                .find(fits)
                .ok_or(BuildError::BadAddress(at))?;
            let entry = LongMode::leaf(level, pfn, attributes).ok_or(BuildError::BadAddress(at))?;
            let table = self.table_for(at, level)?;
            let (table, index) = (TableAt::new(table), at.index(level as u8));
            if self.machine.table(table)[index].load(Ordering::Relaxed) != 0 {
                return Err(BuildError::AlreadyMapped(at));
            }
            self.machine.write_entry(table, index, entry);
            pfn = pfn.add(level.frames());
            at = at.checked_add(level.bytes()).ok_or(BuildError::BadAddress(at))?;
        }
        Ok(())
    }

    /// Maps all RAM in the direct map, as data.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn map_ram(&mut self, map: &MemoryMap) -> Result<(), BuildError> {
        map.ranges().iter().try_for_each(|range| {
            let at = direct(range.start.hpa()).ok_or(BuildError::BadAddress(DIRECT_MAP_BASE))?;
            self.map(at, *range, Attributes::DATA)
        })
    }

    /// The table of the given level that translates `at`, made if it is missing; its entries may be empty.
    ///
    /// # Errors
    /// When a frame is missing or a larger leaf is in the way.
    pub fn table_for(&mut self, at: Hva, level: Level) -> Result<Pfn, BuildError> {
        let mut table = self.root;
        let mut current = Level::L4;
        while current > level {
            let (above, index) = (TableAt::new(table), at.index(current as u8));
            let entry = self.machine.table(above)[index].load(Ordering::Relaxed);
            table = match LongMode::decode(current, entry) {
                Decoded::Table(below) => below,
                Decoded::Leaf(..) => return Err(BuildError::AlreadyMapped(at)),
                Decoded::Absent => {
                    let below = self.new_table()?;
                    self.machine.write_entry(above, index, LongMode::table(below));
                    below
                }
            };
            current = current.below().ok_or(BuildError::BadAddress(at))?;
        }
        Ok(table)
    }

    /// Goes on in another top-level table; returns the one so far.
    pub(crate) fn switch_root(&mut self, root: Pfn) -> Pfn {
        core::mem::replace(&mut self.root, root)
    }

    /// A copy of the top-level table that shares everything below it.
    ///
    /// # Errors
    /// When a frame is missing.
    pub(crate) fn copy_root(&mut self) -> Result<Pfn, BuildError> {
        let copy = self.new_table()?;
        for (index, from) in self.machine.table(TableAt::new(self.root)).iter().enumerate() {
            self.machine
                .write_entry(TableAt::new(copy), index, from.load(Ordering::Relaxed));
        }
        Ok(copy)
    }

    fn new_table(&mut self) -> Result<Pfn, BuildError> {
        let pfn = (self.allocate)().ok_or(BuildError::NoTableFrame)?;
        for index in 0..ENTRIES {
            self.machine.write_entry(TableAt::new(pfn), index, 0);
        }
        Ok(pfn)
    }
}
