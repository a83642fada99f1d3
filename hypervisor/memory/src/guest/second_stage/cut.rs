//! The second stage of a guest that has ended.

use super::{SecondStage, SecondStageKind, as_index, pages, shared, table_below, with_format};
use crate::address::{Gfn, Level, Pfn};
use crate::frame::records::FrameTable;
use crate::frame::table_frame::{TableFrame, TableList};
use crate::machine::Machine;
use crate::paging::edit::Slot;
use crate::paging::ept::Ept;
use crate::paging::format::{Format, LongMode};

/// Regions in a gigabyte.
const REGIONS: u64 = Level::L3.frames() / Level::L2.frames();

/// Tables that no new walk reaches.
#[derive(Debug)]
pub(in crate::guest) struct CutSecondStage {
    kind: SecondStageKind,
    root: Pfn,
    /// The level-3 table of the private alias.
    middle: Option<Pfn>,
    /// That of the shared alias, and the index of its first entry there.
    shared: Option<(Pfn, usize)>,
    /// Regions of the shared alias that are still to be freed.
    shared_left: core::ops::Range<u64>,
    /// GiB of the guest's memory, the last one perhaps in part, and those whose tables of the private alias are still to be freed.
    gigabytes: usize,
    private_left: core::ops::Range<usize>,
    /// Some of the private alias is mapped by 4K leaves.
    small: bool,
    /// Tables that were never linked, and tables that no longer are.
    spare: TableList,
    unlinked: TableList,
    released: TableList,
}

impl SecondStage {
    /// Cuts the tree at its root: no new walk finds anything. Cached translations are the caller's to flush.
    pub(in crate::guest) fn cut<M: Machine>(self, machine: &M) -> CutSecondStage {
        let slot = |gfn: Gfn| Slot::of(machine, self.root, as_index(gfn.gpa()).index(4), Level::L4);
        let below = |slot: &Slot<'_, M>| with_format!(self.kind, F => table_below::<F, M>(slot));
        let first_shared = self.shared_alias(Gfn::default());
        let (private, shared) = (slot(Gfn::default()), slot(first_shared));
        let middle = below(&private);
        let shared_middle = below(&shared).map(|table| (table, as_index(first_shared.gpa()).index(3)));
        private.clear();
        shared.clear();
        CutSecondStage {
            kind: self.kind,
            root: self.root,
            middle,
            shared: shared_middle,
            shared_left: 0..self.gigabytes as u64 * REGIONS,
            gigabytes: self.gigabytes,
            small: !self.patched.is_empty() || self.divided || self.kind.splits(),
            private_left: 0..self.gigabytes,
            spare: self.spare,
            unlinked: self.unlinked,
            released: self.released,
        }
    }
}

impl CutSecondStage {
    /// The host frame that was behind a guest frame of the private alias, or was kept for it, and how many frames from there on stand in the same
    /// entry.
    pub(in crate::guest) fn backing<M: Machine>(&self, machine: &M, gfn: Gfn) -> (Option<Pfn>, u64) {
        let Some(middle) = self.middle else {
            return (None, Level::L4.frames());
        };
        let looked = with_format!(self.kind, F => pages::look::<F, M>(machine, (middle, Level::L3), gfn));
        (looked.pfn, looked.left(gfn))
    }

    /// Frees the ordinary frames behind 2 MiB of the shared alias, and the table that led to them. False when there was nothing left.
    pub(in crate::guest) fn free_shared_some<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
    ) -> bool {
        while let Some(region) = self.shared_left.next() {
            let Some(low) = self.shared_low(machine, region / REGIONS) else {
                self.shared_left.start = (region / REGIONS + 1) * REGIONS;
                continue;
            };
            let slot = Slot::of(machine, low, region as usize, Level::L2);
            if let Some(table) = with_format!(self.kind, F => table_below::<F, M>(&slot)) {
                with_format!(self.kind, F => shared::free_leaves::<F, M>(machine, frames, table));
                frames.free_table(TableFrame::unlinked(table));
                return true;
            }
        }
        false
    }

    /// The level-2 table of a gigabyte of the shared alias.
    fn shared_low<M: Machine>(&self, machine: &M, gigabyte: u64) -> Option<Pfn> {
        let (middle, first) = self.shared?;
        let slot = Slot::of(machine, middle, first + gigabyte as usize, Level::L3);
        with_format!(self.kind, F => table_below::<F, M>(&slot))
    }

    /// Frees some of the tables that led to 4K and 2M leaves: 512 that were never linked or no longer are, or all that serve one gigabyte, which
    /// are one more at most, or those of the shared alias, which is empty. False when none were left, but for those that [`Self::free`] takes.
    ///
    /// The guest's translations, and with them every CPU's copies of these tables' entries, have been flushed, and nothing is looked up in
    /// them any more.
    pub(in crate::guest) fn free_some<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
    ) -> bool {
        for list in [&mut self.spare, &mut self.unlinked, &mut self.released] {
            if frames.free_some_tables(list, REGIONS) > 0 {
                return true;
            }
        }
        if self.free_shared_tables(machine, frames) {
            return true;
        }
        let Some(middle) = self.middle else {
            return false;
        };
        for gigabyte in self.private_left.by_ref() {
            let slot = Slot::of(machine, middle, gigabyte, Level::L3);
            if let Some(low) = with_format!(self.kind, F => table_below::<F, M>(&slot)) {
                if self.small {
                    with_format!(self.kind, F => free_small::<F, M>(machine, frames, low));
                }
                frames.free_table(TableFrame::unlinked(low));
                return true;
            }
        }
        false
    }

    /// Frees the tables of levels 2 and 3 of the shared alias: at most one for each gigabyte, and one more. False when that is done, or there
    /// are none.
    fn free_shared_tables<M: Machine>(&mut self, machine: &M, frames: &mut FrameTable<'_>) -> bool {
        for gigabyte in 0..self.gigabytes as u64 {
            if let Some(low) = self.shared_low(machine, gigabyte) {
                frames.free_table(TableFrame::unlinked(low));
            }
        }
        let Some((table, _)) = self.shared.take() else {
            return false;
        };
        if Some(table) != self.middle {
            frames.free_table(TableFrame::unlinked(table));
        }
        true
    }

    /// Frees what [`Self::free_some`] has left: the two tables at the top.
    pub(in crate::guest) fn free<M: Machine>(mut self, machine: &M, frames: &mut FrameTable<'_>) {
        while self.free_some(machine, frames) {}
        if let Some(middle) = self.middle {
            frames.free_table(TableFrame::unlinked(middle));
        }
        frames.free_table(TableFrame::unlinked(self.root));
    }
}

/// Frees the tables of 4K leaves below a level-2 table.
fn free_small<F: Format, M: Machine>(machine: &M, frames: &mut FrameTable<'_>, low: Pfn) {
    for index in 0..REGIONS as usize {
        if let Some(small) = table_below::<F, M>(&Slot::of(machine, low, index, Level::L2)) {
            frames.free_table(TableFrame::unlinked(small));
        }
    }
}
