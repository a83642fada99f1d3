//! The second stage of one guest: nested tables with 2M leaves.

use core::sync::atomic::Ordering;

use crate::address::{ENTRIES, Gfn, Gpa, Hva, Level, Pfn};
use crate::frame::list::{TableFrame, TableList};
use crate::frame::records::FrameTable;
use crate::frame::state::{FrameState, GuestId};
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::format::{Attributes, Decoded, Format, LongMode};

/// Bytes of guest-physical address space that the tables of one guest cover: one entry of the top-level table.
pub(super) const MAX_BYTES: u64 = Level::L4.bytes();

/// A guest's tables, owned.
#[derive(Debug)]
pub(super) struct SecondStage {
    root: Pfn,
}

/// Tables that `bytes` bytes of guest memory need: the top level, one level-3 table, a level-2 table for each GiB.
pub(super) fn tables_for(bytes: u64) -> u64 {
    2 + bytes.div_ceil(Level::L3.bytes())
}

impl SecondStage {
    /// Links the tables for `bytes` bytes of guest memory, all entries of the lowest ones absent. `reserve` holds at least [`tables_for`]
    /// zeroed frames; `None` if it does not.
    pub(super) fn new<M: Machine>(
        machine: &M,
        frames: &mut FrameTable<'_>,
        reserve: &mut TableList,
        bytes: u64,
    ) -> Option<Self> {
        let mut take = |frames: &mut FrameTable<'_>| Some(reserve.pop(frames)?.link(frames, 0));
        let root = take(frames)?;
        let middle = take(frames)?;
        Slot::of(machine, root, 0, Level::L4).link::<LongMode>(middle);
        for gigabyte in 0..bytes.div_ceil(Level::L3.bytes()) {
            let low = take(frames)?;
            Slot::of(machine, middle, gigabyte as usize, Level::L3).link::<LongMode>(low);
        }
        Some(Self { root })
    }

    pub(super) fn root(&self) -> Pfn {
        self.root
    }

    /// Maps a private region where its record says that it belongs. The record is the reverse map: one owner, one address.
    /// False, and nothing changed, when it is not this guest's, or when something is mapped there.
    #[must_use]
    pub(super) fn map<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        guest: GuestId,
        region: Pfn,
    ) -> bool {
        match frames.state(region) {
            FrameState::Private { owner, gfn } if owner == guest => {
                match find::<LongMode, M>(machine, self.root, as_index(gfn.gpa()), Level::L2) {
                    Found::Slot(slot) => slot.fill::<LongMode>(region, Attributes::GUEST_RAM),
                    Found::Leaf | Found::Absent => false,
                }
            }
            _ => false,
        }
    }

    /// The region mapped at an aligned guest frame.
    pub(super) fn translate<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        match find::<LongMode, M>(machine, self.root, as_index(gfn.gpa()), Level::L2) {
            Found::Slot(slot) => match slot.decode::<LongMode>() {
                Decoded::Leaf(pfn, _) => Some(pfn),
                _ => None,
            },
            _ => None,
        }
    }

    /// Cuts the tree at its root: no new walk finds anything. Cached translations are the caller's to flush.
    pub(super) fn cut<M: Machine>(self, machine: &M) -> CutSecondStage {
        let entry = &machine.table(self.root)[0];
        let middle = match LongMode::decode(Level::L4, entry.load(Ordering::Acquire)) {
            Decoded::Table(middle) => Some(middle),
            _ => None,
        };
        Slot::of(machine, self.root, 0, Level::L4).clear();
        CutSecondStage {
            root: self.root,
            middle,
        }
    }
}

/// Tables that no new walk reaches.
#[derive(Debug)]
pub(super) struct CutSecondStage {
    root: Pfn,
    middle: Option<Pfn>,
}

impl CutSecondStage {
    /// Frees the tables. The guest's translations, and with them every CPU's copies of these tables' entries, have been flushed.
    pub(super) fn free<M: Machine>(self, machine: &M, frames: &mut FrameTable<'_>) {
        if let Some(middle) = self.middle {
            for index in 0..ENTRIES {
                let entry = machine.table(middle)[index].load(Ordering::Acquire);
                if let Decoded::Table(low) = LongMode::decode(Level::L3, entry) {
                    frames.free_table(TableFrame::unlinked(low));
                }
            }
            frames.free_table(TableFrame::unlinked(middle));
        }
        frames.free_table(TableFrame::unlinked(self.root));
    }
}

/// A guest-physical address as the walker takes it: nested tables are indexed like a virtual address (APM vol. 2, 15.25.3).
fn as_index(gpa: Gpa) -> Hva {
    Hva::new(gpa.get())
}
