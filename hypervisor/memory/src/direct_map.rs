//! Hiding regions from the direct map, and putting them back.
//!
//! A region is hidden by clearing its one second-level entry. The first hole of a gigablock replaces the 1G leaf by a table of 512 leaves;
//! the last possible hole takes the third-level entry away too, and the table is parked in the gigablock's record. Restore
//! goes the same way back and needs nothing: the table is there, parked or live, from the first hole to the last.

use core::fmt;

use crate::address::{GIGABLOCK_ORDER, Hva, Level, Pfn, REGION_ORDER};
use crate::frame::allocator::OutOfMemory;
use crate::frame::list::{Carved, Clean, FreeRun, RegionList, TableList};
use crate::frame::records::FrameTable;
use crate::layout::direct;
use crate::machine::{Machine, TableAt};
use crate::paging::edit::{Found, Slot, find};
use crate::paging::format::{Attributes, Decoded, LongMode};
use crate::stats::Stats;
use crate::tlb::FlushBatch;

/// Why regions were not hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HideCause {
    /// A table for splitting a 1G leaf could not be had.
    OutOfMemory(OutOfMemory),
    /// The direct map has no leaf of 2M or more for this region, or one that is not ordinary data.
    NotALeaf(Pfn),
}

impl fmt::Display for HideCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory(error) => error.fmt(f),
            Self::NotALeaf(pfn) => {
                write!(
                    f,
                    "the direct map has no large page of ordinary data at {}: the region there cannot be hidden",
                    pfn.hpa()
                )
            }
        }
    }
}

/// Regions that were not hidden, none of them, and why.
#[derive(Debug)]
pub struct HideError {
    /// The regions, still in the direct map.
    pub regions: RegionList<Carved>,
    /// Why.
    pub cause: HideCause,
}

/// The direct map, in the tables under one top-level table.
pub struct DirectMap {
    pub(crate) root: Pfn,
}

/// A gigablock with a table, while entries of it are being cleared.
struct Open<'a, M: Machine> {
    number: u64,
    /// Its third-level entry.
    slot: Slot<'a, M>,
    /// Its level-2 table.
    table: Pfn,
    /// Entries cleared so far.
    cleared: u16,
}

impl<M: Machine> Open<'_, M> {
    fn clear(&mut self, machine: &M, pfn: Pfn) {
        Slot::of(machine, self.table, address(pfn).index(2), Level::L2).clear();
        self.cleared += 1;
    }

    /// Notes what was cleared, and parks the table if nothing is left in it.
    fn close(self, frames: &mut FrameTable<'_>, stats: &mut Stats) {
        let first = Pfn::new(self.number << GIGABLOCK_ORDER);
        let Some(index) = frames.gigablock_of(first) else {
            unreachable_shape(first)
        };
        let gigablock = frames.gigablock_mut(index);
        gigablock.holes += self.cleared;
        let whole_at_boot = gigablock.whole_at_boot();
        if gigablock.holes == 512 {
            // The table stays this gigablock's: a CPU that still walks it finds 512 absent entries, and only a restore here
            // fills them again.
            gigablock.set_parked(Some(self.table));
            self.slot.clear();
            stats.tables_parked += 1;
        }
        if whole_at_boot {
            frames.add_canonical(self.table, -i32::from(self.cleared));
        }
    }
}

impl DirectMap {
    /// Takes over the direct map that the boot built, and remembers which gigablocks have a 1G leaf.
    pub fn adopt<M: Machine>(machine: &M, frames: &mut FrameTable<'_>, root: Pfn) -> Self {
        for index in frames.gigablock_indices() {
            let Some(at) = direct(frames.gigablock_pfn(index).hpa()) else {
                continue;
            };
            if let Found::Slot(slot) = find::<LongMode, M>(machine, root, at, Level::L3)
                && matches!(slot.decode::<LongMode>(), Decoded::Leaf(..))
            {
                frames.gigablock_mut(index).set_whole_at_boot();
            }
        }
        Self { root }
    }

    /// Takes the regions out of the direct map. They are hidden when the batch is flushed.
    ///
    /// # Errors
    /// When a table frame is missing or a region is not mapped as a whole; then nothing was changed and the regions come back.
    pub fn hide<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        regions: RegionList<Carved>,
    ) -> Result<FlushBatch, HideError> {
        let mut reserve = match self.reserve_tables(machine, frames, &regions) {
            Ok(reserve) => reserve,
            Err(cause) => return Err(HideError { regions, cause }),
        };
        // From here on nothing can fail: each region was seen to be a leaf, each 1G leaf has a table in the reserve.
        let mut batch = FlushBatch::new();
        let mut open: Option<Open<'_, M>> = None;
        let unmapped = regions.unmapped(frames, |frames, pfn| {
            let gigablock = match open.take() {
                Some(same) if same.number == pfn.gigablock_number() => open.insert(same),
                other => {
                    other.into_iter().for_each(|done| done.close(frames, stats));
                    open.insert(self.open(machine, frames, stats, &mut reserve, pfn))
                }
            };
            gigablock.clear(machine, pfn);
        });
        open.into_iter().for_each(|done| done.close(frames, stats));
        stats.regions_hidden += unmapped.len();
        batch.push_regions(frames, unmapped);
        // Left over when regions of one gigablock were not next to each other on the list; never linked, so free at once.
        while let Some(table) = reserve.pop(frames) {
            frames.free_table(table);
        }
        Ok(batch)
    }

    /// Checks every region and takes a table for each 1G leaf that will be split.
    fn reserve_tables<M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        regions: &RegionList<Carved>,
    ) -> Result<TableList, HideCause> {
        let mut wanted = 0_u64;
        // The gigablock in turn, and its table if it has one: looked up once for all regions in it.
        let mut seen: Option<(u64, Option<Pfn>)> = None;
        for pfn in regions.pfns(frames) {
            let number = pfn.gigablock_number();
            let table = match seen {
                Some((same, table)) if same == number => table,
                _ => {
                    let Found::Slot(slot) = find::<LongMode, M>(machine, self.root, address(pfn), Level::L3)
                    else {
                        return Err(HideCause::NotALeaf(pfn));
                    };
                    // Restore writes data leaves again: only what is one now may go.
                    let start = Pfn::new(number << GIGABLOCK_ORDER);
                    let table = match slot.decode::<LongMode>() {
                        Decoded::Table(table) => Some(table),
                        Decoded::Leaf(..) if slot.says::<LongMode>(start, Attributes::DATA) => {
                            wanted += 1;
                            None
                        }
                        Decoded::Leaf(..) | Decoded::Absent => return Err(HideCause::NotALeaf(pfn)),
                    };
                    seen = Some((number, table));
                    table
                }
            };
            if let Some(table) = table {
                let slot = Slot::of(machine, table, address(pfn).index(2), Level::L2);
                if !slot.says::<LongMode>(pfn, Attributes::DATA) {
                    return Err(HideCause::NotALeaf(pfn));
                }
            }
        }
        // A split writes every entry, so these need no zeroing.
        frames
            .reserve_frames(wanted, |_| {})
            .map_err(HideCause::OutOfMemory)
    }

    /// Finds the table of the gigablock around `pfn`, splitting its 1G leaf if it has one.
    fn open<'a, M: Machine>(
        &self,
        machine: &'a M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        reserve: &mut TableList,
        pfn: Pfn,
    ) -> Open<'a, M> {
        let Found::Slot(slot) = find::<LongMode, M>(machine, self.root, address(pfn), Level::L3) else {
            unreachable_shape(pfn)
        };
        let table = match slot.decode::<LongMode>() {
            Decoded::Table(table) => table,
            Decoded::Leaf(start, attributes) => {
                stats.level3_splits += 1;
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
        Open {
            number: pfn.gigablock_number(),
            slot,
            table,
            cleared: 0,
        }
    }

    /// Puts the next regions on the list, all that lie in one gigablock, back into the direct map, merges what is whole again, and frees the
    /// regions. False when the list was empty. Cannot fail and allocates nothing.
    pub fn restore<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        regions: &mut RegionList<Clean>,
        batch: &mut FlushBatch,
    ) -> bool {
        let Some(first) = regions.pop(frames) else {
            return false;
        };
        let (pfn, index) = (first.pfn(), first.gigablock());
        let Found::Slot(slot) = find::<LongMode, M>(machine, self.root, address(pfn), Level::L3) else {
            unreachable_shape(pfn)
        };
        let parked = frames.gigablock_mut(index).parked();
        let table = match (parked, slot.decode::<LongMode>()) {
            (Some(table), _) | (None, Decoded::Table(table)) => table,
            _ => unreachable_shape(pfn),
        };
        if parked.is_some() {
            // First of all: nothing is freed that the direct map does not show yet.
            slot.link::<LongMode>(table);
        }
        let mut filled = 0;
        let mut next = Some(first);
        let mut run = FreeRun::default();
        while let Some(region) = next {
            fill(machine, table, region.pfn());
            run.add(frames, region);
            filled += 1;
            next = regions.pop_in(frames, index);
        }
        run.end(frames);
        stats.regions_restored += u64::from(filled);
        let gigablock = frames.gigablock_mut(index);
        gigablock.holes -= filled;
        gigablock.set_parked(None);
        if gigablock.whole_at_boot() && frames.add_canonical(table, i32::from(filled)) == 512 {
            match slot.merge::<LongMode>() {
                Some(table) => {
                    batch.push_table(frames, table);
                    stats.level3_collapses += 1;
                }
                None => stats.merges_blocked += 1,
            }
        }
        true
    }
}

/// Writes the leaf of a region over its hole.
fn fill<M: Machine>(machine: &M, table: Pfn, pfn: Pfn) {
    let slot = Slot::of(machine, table, address(pfn).index(2), Level::L2);
    let filled = slot.fill::<LongMode>(pfn, Attributes::DATA);
    assert!(filled, "broken invariant: the hole at {} is not empty", pfn.hpa());
}

/// The direct-map address of a frame that a region made of RAM starts with.
fn address(pfn: Pfn) -> Hva {
    match direct(pfn.hpa()) {
        Some(at) => at,
        None => unreachable_shape(pfn),
    }
}

/// The direct map is not what it was when the regions were checked.
fn unreachable_shape(pfn: Pfn) -> ! {
    panic!(
        "broken invariant: the direct map around {} changed behind the frame records",
        pfn.hpa()
    )
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

    /// Takes `count` frames for tables, all or none, each prepared by `prepare`.
    fn reserve_frames(&mut self, count: u64, prepare: impl Fn(Pfn)) -> Result<TableList, OutOfMemory> {
        let mut reserve = TableList::new();
        for _ in 0..count {
            match self.allocate_table(&prepare) {
                Ok(table) => reserve.push(self, table),
                Err(error) => {
                    while let Some(table) = reserve.pop(self) {
                        self.free_table(table);
                    }
                    return Err(error);
                }
            }
        }
        Ok(reserve)
    }
}

// The entry index of a region is that of a level-2 table.
const _: () = assert!(1 << REGION_ORDER == Level::L2.frames());
