//! Taking extents out of the direct map: check, take tables, then change without a way to fail.

use core::fmt;

use crate::address::{ENTRIES, GIGABLOCK_ORDER, Level, PAGE_SIZE, Pfn, REGION_ORDER};
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::Carved;
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::frame::table_frame::TableList;
use crate::layout::direct;
use crate::machine::{Machine, TableAt, WindowSpan};
use crate::paging::edit::Slot;
use crate::paging::format::{Decoded, LongMode};
use crate::stats::Stats;
use crate::tlb::FlushBatch;

use super::check::{Checked, Lock, take_some};
use super::{Action, DirectMap, first_level, second_level, trace, unreachable_shape};

/// Why memory was not hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HideCause {
    /// A table for splitting a leaf could not be had.
    OutOfMemory(OutOfMemory),
    /// The direct map has no leaf for this memory, or one that is not ordinary data.
    NotALeaf(Pfn),
}

impl fmt::Display for HideCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory(error) => error.fmt(f),
            Self::NotALeaf(pfn) => {
                write!(
                    f,
                    "the direct map does not show {} as ordinary data: the memory there cannot be hidden",
                    pfn.hpa()
                )
            }
        }
    }
}

impl core::error::Error for HideCause {}

/// Extents that were not hidden, none of them, and why.
#[derive(Debug)]
pub struct HideError {
    /// The extents, still in the direct map.
    pub extents: ExtentList<Carved>,
    /// Why.
    pub cause: HideCause,
}

impl DirectMap {
    /// Takes the extents out of the direct map, all in one piece. They are hidden when the batch is flushed.
    ///
    /// # Errors
    /// When a table frame is missing or an extent is not mapped as it should be; then nothing was changed and the extents come back.
    pub fn hide<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        mut extents: ExtentList<Carved>,
    ) -> Result<FlushBatch, HideError> {
        let mut checked = Checked::new(Lock::Kept);
        loop {
            match self.check_some(machine, frames, &mut extents, &mut checked) {
                Ok(true) => {}
                Ok(false) => break,
                Err(cause) => {
                    let (mut all, reserve) = checked.give_up();
                    all.append(frames, extents);
                    frames.free_tables(reserve);
                    return Err(HideError { extents: all, cause });
                }
            }
        }
        let mut batch = FlushBatch::new();
        while self.hide_some(machine, frames, stats, &mut checked, &mut batch) {}
        Ok(batch)
    }

    /// Takes some of the extents out of the direct map and puts them into the batch. This cannot fail: each extent was seen to be
    /// mapped, each leaf that will be split has a table in the reserve. When all are out, the tables that were not needed are freed. Whether
    /// anything is left to do.
    pub(crate) fn hide_some<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        checked: &mut Checked,
        batch: &mut FlushBatch,
    ) -> bool {
        let (extents, _) = take_some(frames, &mut checked.extents, |_, _| Ok(()));
        if extents.is_empty() {
            // Taken for leaves that were split already, or have not come to be. Never linked, so free at once.
            frames.free_some_tables(&mut checked.reserve, ENTRIES as u64);
            return !checked.reserve.is_empty();
        }
        let reserve = &mut checked.reserve;
        let unmapped = extents.unmapped(frames, |frames, pfn, order| {
            trace(machine, Action::Hide, pfn, order);
            if order == GIGABLOCK_ORDER && self.hide_gigablock(machine, frames, stats, pfn) {
                return;
            }
            let (slot, table) = self.open(machine, frames, stats, reserve, pfn);
            if order < REGION_ORDER {
                hide_piece(machine, frames, stats, reserve, table, (pfn, order));
            } else {
                hide_regions(machine, frames, stats, &slot, table, (pfn, order));
            }
        });
        batch.push_extents(frames, unmapped);
        true
    }

    /// Clears the 1G leaf of a gigablock; false, and nothing changed, when it has a table.
    fn hide_gigablock<M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        pfn: Pfn,
    ) -> bool {
        let (Some(slot), Some(index)) = (self.third_level(machine, pfn), frames.gigablock_of(pfn)) else {
            unreachable_shape(pfn)
        };
        if !matches!(slot.decode::<LongMode>(), Decoded::Leaf(..)) {
            return false;
        }
        slot.clear();
        frames.add_holes(index, 512);
        stats.direct_map_writes += 1;
        stats.gigablocks_hidden += 1;
        stats.regions_hidden += 512;
        true
    }

    /// Finds the third-level entry of the gigablock around `pfn`, and the table it leads to, splitting its 1G leaf if it has one.
    fn open<'a, M: Machine>(
        &self,
        machine: &'a M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        reserve: &mut TableList,
        pfn: Pfn,
    ) -> (Slot<'a, M>, Pfn) {
        let Some(slot) = self.third_level(machine, pfn) else {
            unreachable_shape(pfn)
        };
        let table = match slot.decode::<LongMode>() {
            Decoded::Table(table) => table,
            Decoded::Leaf(start, attributes) => {
                stats.level3_splits += 1;
                trace(machine, Action::Split, start, GIGABLOCK_ORDER);
                stats.direct_map_writes += 1;
                let table = reserve
                    .pop(frames)
                    .and_then(|table| slot.split::<LongMode>(frames, (start, attributes), table));
                match table {
                    Some(table) => table,
                    None => unreachable_shape(pfn),
                }
            }
            Decoded::Absent => unreachable_shape(pfn),
        };
        (slot, table)
    }
}

/// The first frame of each region of an extent.
pub(super) fn regions(pfn: Pfn, order: u8) -> impl Iterator<Item = Pfn> {
    (0..1_u64 << (order - REGION_ORDER)).map(move |region| pfn.add(region << REGION_ORDER))
}

/// The frames of an extent below 2 MiB.
pub(super) fn pages(pfn: Pfn, order: u8) -> impl Iterator<Item = Pfn> {
    (0..1_u64 << order).map(move |frame| pfn.add(frame))
}

/// Clears the second-level entries of whole regions, and parks the table if nothing is left in it. `slot` is the third-level entry, `table` the
/// table that it leads to.
fn hide_regions<M: Machine>(
    machine: &M,
    frames: &mut FrameTable<'_>,
    stats: &mut Stats,
    slot: &Slot<'_, M>,
    table: Pfn,
    extent: (Pfn, u8),
) {
    let (pfn, order) = extent;
    let Some(index) = frames.gigablock_of(pfn) else {
        unreachable_shape(pfn)
    };
    for region in regions(pfn, order) {
        second_level(machine, table, region).clear();
    }
    let count = 1_i16 << (order - REGION_ORDER);
    stats.direct_map_writes += count as u64;
    stats.regions_hidden += count as u64;
    frames.add_canonical(table, -i32::from(count));
    frames.add_holes(index, count);
    if frames.gigablock(index).holes() == 512 {
        // The table stays this gigablock's: a CPU that still walks it finds 512 absent entries, and only a restore here fills them
        // again.
        frames.set_parked(index, Some(table));
        slot.clear();
        stats.direct_map_writes += 1;
        stats.tables_parked += 1;
    }
}

/// Clears the first-level entries of a piece, splitting the 2M leaf around it if there is one. `table` is the level-2 table.
fn hide_piece<M: Machine>(
    machine: &M,
    frames: &mut FrameTable<'_>,
    stats: &mut Stats,
    reserve: &mut TableList,
    table: Pfn,
    piece: (Pfn, u8),
) {
    let (pfn, order) = piece;
    let slot = second_level(machine, table, pfn);
    let low = match slot.decode::<LongMode>() {
        Decoded::Table(low) => low,
        Decoded::Leaf(start, attributes) => {
            stats.level2_splits += 1;
            trace(machine, Action::Split, start, REGION_ORDER);
            stats.direct_map_writes += 1;
            let low = reserve
                .pop(frames)
                .and_then(|low| slot.split::<LongMode>(frames, (start, attributes), low));
            frames.add_canonical(table, -1);
            match low {
                Some(low) => low,
                None => unreachable_shape(pfn),
            }
        }
        Decoded::Absent => unreachable_shape(pfn),
    };
    for page in pages(pfn, order) {
        first_level(machine, low, page).clear();
    }
    frames.add_canonical(low, -(1 << order));
    frames.add_hidden_frames(pfn, 1 << order);
    stats.direct_map_writes += 1 << order;
    stats.pages_hidden += 1 << order;
}

impl FrameTable<'_> {
    /// Takes `count` zeroed frames for tables, all or none.
    pub(crate) fn reserve_tables<M: Machine>(
        &mut self,
        machine: &M,
        count: u64,
    ) -> Result<TableList, OutOfMemory> {
        self.reserve_frames(count, |pfn| machine.clear(TableAt::new(pfn)))
    }

    /// Takes `count` zeroed frames for pages that a guest will share, all or none. Those of whole 2 MiB are a block, if there is one: when the pages
    /// are private again, the block is whole again, too, and can be hidden.
    pub(crate) fn reserve_pages<M: Machine>(
        &mut self,
        machine: &M,
        count: u64,
    ) -> Result<TableList, OutOfMemory> {
        let zero = |pfn: Pfn, bytes: u64| match direct(pfn.hpa()) {
            Some(at) => machine.zero(WindowSpan::new(at, bytes as usize)),
            None => panic!("broken invariant: {} is beyond the direct map", pfn.hpa()),
        };
        if count == Level::L2.frames()
            && let Some((first, list)) = self.allocate_block_of_frames()
        {
            zero(first, Level::L2.bytes());
            return Ok(list);
        }
        self.reserve_frames(count, |pfn| zero(pfn, PAGE_SIZE))
    }

    /// Takes `count` frames for tables, all or none, each prepared by `prepare`.
    pub(super) fn reserve_frames(
        &mut self,
        count: u64,
        prepare: impl Fn(Pfn),
    ) -> Result<TableList, OutOfMemory> {
        let mut reserve = TableList::new();
        for _ in 0..count {
            match self.allocate_table(&prepare) {
                Ok(table) => reserve.push(self, table),
                Err(error) => {
                    self.free_tables(reserve);
                    return Err(error);
                }
            }
        }
        Ok(reserve)
    }

    /// Gives back tables that were never linked.
    pub(crate) fn free_tables(&mut self, mut tables: TableList) {
        self.free_some_tables(&mut tables, u64::MAX);
    }

    /// Gives back at most so many tables that no CPU can still walk; how many.
    pub(crate) fn free_some_tables(&mut self, tables: &mut TableList, most: u64) -> u64 {
        let mut freed = 0;
        while freed < most
            && let Some(table) = tables.pop(self)
        {
            self.free_table(table);
            freed += 1;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::string::ToString;

    use super::*;
    use crate::fake::Fake;
    use crate::host::HostMemory;

    /// Hides and waits for the flush.
    fn hide(memory: &mut HostMemory<'_>, machine: &Fake, extents: ExtentList<Carved>) {
        let HostMemory {
            frames,
            direct_map,
            stats,
            ..
        } = memory;
        let batch = direct_map.hide(machine, frames, stats, extents).unwrap();
        let receipt = memory.post(machine, batch).wait(machine);
        assert!(!memory.complete(machine, receipt).is_empty());
    }

    #[test]
    fn a_page_beside_hidden_ones_needs_no_table() {
        let (machine, mut memory, _) = Fake::boot();
        let pieces = memory.frames.carve_pieces(1).unwrap();
        hide(&mut memory, machine, pieces);
        let splits = memory.stats.level2_splits;
        let pieces = memory.frames.carve_pieces(1).unwrap();
        while memory.frames.allocate(0).is_ok() {}
        hide(&mut memory, machine, pieces);
        assert_eq!((splits, memory.stats.level2_splits), (1, 1));
    }

    #[test]
    fn a_page_in_a_leaf_that_is_not_ordinary_data_is_not_hidden() {
        let (machine, mut memory, _) = Fake::boot();
        // The 1G leaf is split now, if there is one.
        let region = memory.frames.carve(1).unwrap();
        hide(&mut memory, machine, region);
        let pieces = memory.frames.carve_pieces(1).unwrap();
        let (pfn, _) = pieces.extents(&memory.frames).next().unwrap();
        let slot = memory.direct_map.third_level(machine, pfn).unwrap();
        let Decoded::Table(table) = slot.decode::<LongMode>() else {
            panic!("there is no table");
        };
        // A bit that is software's own.
        machine.frame(table)[pfn.region_number() as usize % 512].fetch_or(1 << 9, Ordering::Relaxed);
        let (free, splits) = (memory.frames.free_frames(), memory.stats.level2_splits);
        let HostMemory {
            frames,
            direct_map,
            stats,
            ..
        } = &mut memory;
        let refused = direct_map.hide(machine, frames, stats, pieces).unwrap_err();
        assert_eq!(refused.cause, HideCause::NotALeaf(pfn));
        assert_eq!(
            (memory.frames.free_frames(), memory.stats.level2_splits),
            (free, splits)
        );
    }

    /// Extents that had been looked at already, and the tables taken for them.
    #[test]
    fn all_comes_back_when_one_of_several_cannot_be_hidden() {
        let (machine, mut memory, _) = Fake::boot();
        // The 1G leaf is split now, if there is one.
        let region = memory.frames.carve(1).unwrap();
        hide(&mut memory, machine, region);
        // Two blocks that are partly free.
        let mut held = std::vec![memory.frames.allocate(0).unwrap()];
        while held[0].pfn().region_number() == held[held.len() - 1].pfn().region_number() {
            held.push(memory.frames.allocate(0).unwrap());
        }
        memory.frames.free(held.swap_remove(0));
        let pieces = memory.frames.free_frames() - memory.frames.free_regions() * 512;
        let extents = memory.frames.carve_pieces(pieces).unwrap();
        let (first, _) = extents.extents(&memory.frames).next().unwrap();
        let (pfn, _) = extents.extents(&memory.frames).last().unwrap();
        assert!(first.region_number() != pfn.region_number());
        let slot = memory.direct_map.third_level(machine, pfn).unwrap();
        let Decoded::Table(table) = slot.decode::<LongMode>() else {
            panic!("there is no table");
        };
        machine.frame(table)[pfn.region_number() as usize % 512].fetch_or(1 << 9, Ordering::Relaxed);
        let (all, free) = (extents.frames(), memory.frames.free_frames());
        let HostMemory {
            frames,
            direct_map,
            stats,
            ..
        } = &mut memory;
        let refused = direct_map.hide(machine, frames, stats, extents).unwrap_err();
        assert_eq!(refused.cause, HideCause::NotALeaf(pfn));
        assert_eq!(refused.extents.frames(), all);
        // The table for the first block's leaf among them.
        assert_eq!(memory.frames.free_frames(), free);
    }

    #[test]
    fn what_cannot_be_hidden_is_named() {
        let text = HideCause::NotALeaf(Pfn::new(0x1234)).to_string();
        assert!(text.contains(&Pfn::new(0x1234).hpa().to_string()), "{text}");
    }
}
