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
    /// The next region of the shared alias to be freed.
    next_shared: u64,
    gigabytes: usize,
    /// Some of the private alias is mapped by 4K leaves.
    small: bool,
    /// Tables that were never linked, and tables that no longer are.
    spare: TableList,
    unlinked: TableList,
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
            next_shared: 0,
            gigabytes: self.gigabytes,
            small: !self.patched.is_empty() || self.divided || self.kind.splits(),
            spare: self.spare,
            unlinked: self.unlinked,
        }
    }
}

impl CutSecondStage {
    /// The host frame that was behind a guest frame of the private alias, or was kept for it.
    pub(in crate::guest) fn backing<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        let from = (self.middle?, Level::L3);
        with_format!(self.kind, F => pages::look::<F, M>(machine, from, gfn)).pfn
    }

    /// Frees the ordinary frames behind 2 MiB of the shared alias, and the table that led to them. False when there was nothing left.
    pub(in crate::guest) fn free_shared_some<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
    ) -> bool {
        while self.next_shared < self.gigabytes as u64 * REGIONS {
            let region = self.next_shared;
            let Some(low) = self.shared_low(machine, region / REGIONS) else {
                self.next_shared = (region / REGIONS + 1) * REGIONS;
                continue;
            };
            self.next_shared += 1;
            let slot = Slot::of(machine, low, (region % REGIONS) as usize, Level::L2);
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

    /// Frees the tables. The guest's translations, and with them every CPU's copies of these tables' entries, have been flushed, and the
    /// shared alias is empty.
    pub(in crate::guest) fn free<M: Machine>(mut self, machine: &M, frames: &mut FrameTable<'_>) {
        frames.free_tables(core::mem::take(&mut self.spare));
        frames.free_tables(core::mem::take(&mut self.unlinked));
        for gigabyte in 0..self.gigabytes as u64 {
            if let Some(low) = self.shared_low(machine, gigabyte) {
                frames.free_table(TableFrame::unlinked(low));
            }
        }
        if let Some((table, _)) = self.shared.filter(|(table, _)| Some(*table) != self.middle) {
            frames.free_table(TableFrame::unlinked(table));
        }
        if let Some(middle) = self.middle {
            for index in 0..self.gigabytes {
                let slot = Slot::of(machine, middle, index, Level::L3);
                if let Some(low) = with_format!(self.kind, F => table_below::<F, M>(&slot)) {
                    if self.small {
                        with_format!(self.kind, F => free_small::<F, M>(machine, frames, low));
                    }
                    frames.free_table(TableFrame::unlinked(low));
                }
            }
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
