//! Hiding memory from the direct map, and putting it back.
//!
//! A region is hidden by clearing its one second-level entry, a whole gigablock by clearing its one third-level entry. The first hole of
//! a gigablock that is not hidden whole replaces its 1G leaf by a table of 512 leaves; the last possible hole takes the third-level entry
//! away too, and the table is parked in the gigablock's record. Only when no whole region was free is a 2M leaf split, and single runs
//! are hidden by clearing first-level entries. `check` looks at everything first and takes the tables that splits need; then `hide` cannot
//! fail. Both go in steps. `restore` goes the same way back and needs nothing: each table is there, parked or live, from the first hole to the last.

mod check;
mod hide;
mod restore;

pub(crate) use check::{Checked, Lock};
pub use hide::{HideCause, HideError};
#[cfg(feature = "test-interface")]
pub(crate) use restore::merge;

use crate::address::{Hva, Level, Pfn, REGION_ORDER};
use crate::frame::records::FrameTable;
use crate::layout::direct;
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::format::{Decoded, LongMode};
use crate::trace::{Action, Traced};

/// The direct map, in the tables under one top-level table.
pub struct DirectMap {
    pub(crate) root: Pfn,
    /// Whether tables are merged away when they are whole again: always, but for measurements (`baseline`).
    pub(crate) merging: bool,
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
                frames.set_whole_at_boot(index);
            }
        }
        Self { root, merging: true }
    }

    /// The third-level entry of the gigablock around a frame.
    fn third_level<'a, M: Machine>(&self, machine: &'a M, pfn: Pfn) -> Option<Slot<'a, M>> {
        match find::<LongMode, M>(machine, self.root, address(pfn), Level::L3) {
            Found::Slot(slot) => Some(slot),
            Found::Leaf | Found::Absent => None,
        }
    }
}

/// Tells whoever wants to know.
fn trace<M: Machine>(machine: &M, action: Action, pfn: Pfn, order: u8) {
    if let Some(tracer) = machine.tracer() {
        tracer.note(Traced::extent(machine.now(), action, pfn, order));
    }
}

/// The second-level entry, in a known table, of the region around a frame.
fn second_level<M: Machine>(machine: &M, table: Pfn, pfn: Pfn) -> Slot<'_, M> {
    Slot::of(machine, table, address(pfn).index(2), Level::L2)
}

/// The first-level entry, in a known table, of a frame.
fn first_level<M: Machine>(machine: &M, table: Pfn, pfn: Pfn) -> Slot<'_, M> {
    Slot::of(machine, table, address(pfn).index(1), Level::L1)
}

/// The direct-map address of a frame of RAM.
fn address(pfn: Pfn) -> Hva {
    match direct(pfn.hpa()) {
        Some(at) => at,
        None => unreachable_shape(pfn),
    }
}

/// The direct map is not what it was when the extents were checked.
fn unreachable_shape(pfn: Pfn) -> ! {
    panic!(
        "broken invariant: the direct map around {} changed behind the frame records",
        pfn.hpa()
    )
}

// The entry index of a region is that of a level-2 table.
const _: () = assert!(1 << REGION_ORDER == Level::L2.frames());
