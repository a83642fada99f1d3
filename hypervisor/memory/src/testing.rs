//! For tests only: brings the direct map into states that nothing in the product makes, so that merging can be tried from every start.
//!
//! A frame is held by allocating it; everything else is here. Compiled only with the feature `test-interface`.

use crate::address::{GIGABLOCK_ORDER, Level, Pfn, REGION_ORDER};
use crate::direct_map::DirectMap;
use crate::frame::allocator::OutOfMemory;
use crate::frame::state::FrameState;
use crate::host::HostMemory;
use crate::layout::direct;
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::format::{Decoded, LongMode};
use crate::tlb::FlushBatch;

/// Bits of a leaf that a test can turn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Hardware has used the leaf.
    Accessed,
    /// Hardware has written through it.
    Dirty,
    /// It survives a change of the address space.
    Global,
    /// It may not be written.
    ReadOnly,
    /// It is uncached: another memory type than its neighbours'.
    Uncached,
}

impl Mark {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Accessed,
        Self::Dirty,
        Self::Global,
        Self::ReadOnly,
        Self::Uncached,
    ];

    /// The bit (Intel SDM vol. 3A, tables 4-17 to 4-20): writable, cache-disable, accessed, dirty, global.
    const fn bit(self) -> u64 {
        match self {
            Self::ReadOnly => 1 << 1,
            Self::Uncached => 1 << 4,
            Self::Accessed => 1 << 5,
            Self::Dirty => 1 << 6,
            Self::Global => 1 << 8,
        }
    }

    /// Whether leaves that differ in it may be merged.
    pub const fn merges(self) -> bool {
        matches!(self, Self::Accessed | Self::Dirty)
    }
}

/// There is no leaf of that size around the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// No such leaf, or no such table.
    NotThere,
    /// No frame for a table.
    OutOfMemory(OutOfMemory),
}

impl HostMemory<'_> {
    /// First frame and order of each extent that is out of the direct map and no guest's, ascending: what the records say, whoever has it.
    pub fn test_hidden(&self, mut visit: impl FnMut(Pfn, u8)) {
        self.frames.each_extent(|pfn, state| match state {
            FrameState::Hidden { order }
            | FrameState::PoolFree { order }
            | FrameState::Unmapped { order } => {
                visit(pfn, order);
            }
            _ => {}
        });
    }

    /// Splits the leaf of a level (2M or 1G) around a frame.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub fn test_split<M: Machine>(&mut self, machine: &M, pfn: Pfn, level: Level) -> Result<(), NotDone> {
        let slot = slot(&self.direct_map, machine, pfn, level).ok_or(NotDone::NotThere)?;
        let Decoded::Leaf(start, attributes) = slot.decode::<LongMode>() else {
            return Err(NotDone::NotThere);
        };
        let mut table = self
            .frames
            .reserve_tables(machine, 1)
            .map_err(NotDone::OutOfMemory)?;
        let table = table.pop(&self.frames).ok_or(NotDone::NotThere)?;
        slot.split::<LongMode>(&mut self.frames, (start, attributes), table);
        if level == Level::L3 {
            self.stats.level3_splits += 1;
        } else {
            self.stats.level2_splits += 1;
        }
        if level == Level::L2
            && let Some(above) = table_above(&self.direct_map, machine, pfn)
        {
            self.frames.add_canonical(above, -1);
        }
        Ok(())
    }

    /// Merges the table of a level (its entries are 4K for 2M, 2M for 1G) around a frame as a restore does; whether it could.
    pub fn test_merge<M: Machine>(&mut self, machine: &M, pfn: Pfn, level: Level) -> bool {
        let Some(slot) = slot(&self.direct_map, machine, pfn, level) else {
            return false;
        };
        let order = if level == Level::L3 {
            GIGABLOCK_ORDER
        } else {
            REGION_ORDER
        };
        let mut batch = FlushBatch::new();
        let above = table_above(&self.direct_map, machine, pfn);
        let merged = crate::direct_map::merge(
            machine,
            &mut self.frames,
            &mut self.stats,
            &slot,
            &mut batch,
            (pfn, order),
        );
        if merged
            && level == Level::L2
            && let Some(above) = above
        {
            self.frames.add_canonical(above, 1);
        }
        self.flusher.defer(&mut self.frames, batch);
        merged
    }

    /// Turns a bit of the leaf around a frame over; false when nothing maps it. Break before make: the leaf goes, every CPU forgets it, the
    /// changed one comes, so that no CPU has both (Intel SDM vol. 3A, 12.11.9 asks that for memory types).
    pub fn test_mark<M: Machine>(&mut self, machine: &M, pfn: Pfn, mark: Mark) -> bool {
        for level in [Level::L1, Level::L2, Level::L3] {
            let Some(at) = direct(pfn.hpa()) else { return false };
            let Found::Slot(slot) = find::<LongMode, M>(machine, self.direct_map.root, at, level) else {
                continue;
            };
            if matches!(slot.decode::<LongMode>(), Decoded::Leaf(..)) {
                slot.toggle(mark.bit(), || {
                    let cpu = machine.cpu();
                    cpu.wait(machine, cpu.request());
                    // A flush leaves what is global.
                    machine.invalidate(at);
                });
                return true;
            }
        }
        false
    }
}

fn slot<'a, M: Machine>(map: &DirectMap, machine: &'a M, pfn: Pfn, level: Level) -> Option<Slot<'a, M>> {
    match find::<LongMode, M>(machine, map.root, direct(pfn.hpa())?, level) {
        Found::Slot(slot) => Some(slot),
        Found::Leaf | Found::Absent => None,
    }
}

/// The level-2 table around a frame.
fn table_above<M: Machine>(map: &DirectMap, machine: &M, pfn: Pfn) -> Option<Pfn> {
    match slot(map, machine, pfn, Level::L3)?.decode::<LongMode>() {
        Decoded::Table(table) => Some(table),
        _ => None,
    }
}
