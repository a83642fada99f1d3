//! The second stage of one guest: tables with 2M leaves, in the layout that the CPU's virtualization wants.

use core::sync::atomic::Ordering;

use crate::address::{ENTRIES, Gfn, Gpa, Hva, Level, Pfn};
use crate::frame::list::{Placed, TableFrame, TableList};
use crate::frame::records::FrameTable;
use crate::frame::state::GuestId;
use crate::machine::{Machine, TableAt};
use crate::paging::edit::{Found, Slot, find};
use crate::paging::ept::{Ept, EptAttributes};
use crate::paging::format::{Attributes, Decoded, Format, LongMode};

/// Bytes of guest-physical address space that the tables of one guest cover: one entry of the top-level table.
pub(super) const MAX_BYTES: u64 = Level::L4.bytes();

/// Whose virtualization walks a guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondStageKind {
    /// AMD's nested tables (NPT).
    Nested,
    /// Intel's extended tables (EPT).
    Extended,
    /// The same for CPUs that an instruction fetch through a large leaf may shut down (iTLB multihit): large leaves can't be executed, and
    /// the first fetch from one splits it ([`GuestMemory::allow_fetch`](super::GuestMemory::allow_fetch)). The tables for all splits are
    /// reserved at launch, a frame for each 2 MiB.
    ExtendedSplit,
}

impl SecondStageKind {
    /// Whether leaves may be split later.
    const fn splits(self) -> bool {
        matches!(self, Self::ExtendedSplit)
    }
}

/// A layout for second-stage tables.
trait SecondStageFormat: Format {
    /// What a leaf for a guest's RAM says.
    const GUEST_RAM: Self::Attributes;
}

impl SecondStageFormat for LongMode {
    const GUEST_RAM: Attributes = Attributes::GUEST_RAM;
}

impl SecondStageFormat for Ept {
    const GUEST_RAM: EptAttributes = EptAttributes::GUEST_RAM;
}

/// Evaluates an expression with `$format` standing for the layout of this kind.
macro_rules! with_format {
    ($kind:expr, $format:ident => $expression:expr) => {
        match $kind {
            SecondStageKind::Nested => {
                type $format = LongMode;
                $expression
            }
            SecondStageKind::Extended | SecondStageKind::ExtendedSplit => {
                type $format = Ept;
                $expression
            }
        }
    };
}

/// A guest's tables, owned.
#[derive(Debug)]
pub(super) struct SecondStage {
    kind: SecondStageKind,
    root: Pfn,
    /// For splits.
    spare: TableList,
}

/// Tables that `bytes` bytes of guest memory need: the top level, one level-3 table, a level-2 table for each GiB, and where leaves may be
/// split, one for each region.
pub(super) fn tables_for(kind: SecondStageKind, bytes: u64) -> u64 {
    let splits = if kind.splits() {
        bytes / Level::L2.bytes()
    } else {
        0
    };
    2 + bytes.div_ceil(Level::L3.bytes()) + splits
}

impl SecondStage {
    /// Links the tables for `bytes` bytes of guest memory, all entries of the lowest ones absent. `reserve` holds [`tables_for`] zeroed
    /// frames; `None` if it does not.
    pub(super) fn new<M: Machine>(
        machine: &M,
        kind: SecondStageKind,
        frames: &mut FrameTable<'_>,
        mut reserve: TableList,
        bytes: u64,
    ) -> Option<Self> {
        let root = with_format!(kind, F => build::<F, M>(machine, frames, &mut reserve, bytes))?;
        Some(Self {
            kind,
            root,
            spare: reserve,
        })
    }

    pub(super) fn root(&self) -> Pfn {
        self.root
    }

    /// Maps a private region where its record says that it belongs. The record is the reverse map: one owner, one address.
    /// `table` is the level-2 table for that address ([`Self::table_at`]). False, and nothing changed, when the region is not
    /// this guest's, or when something is mapped there.
    #[must_use]
    pub(super) fn map<M: Machine>(&self, machine: &M, guest: GuestId, table: Pfn, region: &Placed) -> bool {
        if region.owner != guest {
            return false;
        }
        let slot = Slot::of(machine, table, as_index(region.gfn.gpa()).index(2), Level::L2);
        if self.kind.splits() {
            return slot.fill::<Ept>(region.pfn, EptAttributes::GUEST_DATA);
        }
        with_format!(self.kind, F => slot.fill::<F>(region.pfn, <F as SecondStageFormat>::GUEST_RAM))
    }

    /// The level-2 table that translates a guest frame.
    pub(super) fn table_at<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        with_format!(self.kind, F => match find::<F, M>(machine, self.root, as_index(gfn.gpa()), Level::L3) {
            Found::Slot(slot) => match slot.decode::<F>() {
                Decoded::Table(table) => Some(table),
                _ => None,
            },
            _ => None,
        })
    }

    /// The region mapped at an aligned guest frame.
    pub(super) fn translate<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        with_format!(self.kind, F => lookup::<F, M>(machine, self.root, gfn))
    }

    /// Makes the region at an aligned guest frame executable, by small leaves. False, and nothing changed, when it is no large leaf, or
    /// of a kind that is executable anyway.
    ///
    /// Size and attributes change apart: first 512 small leaves that can't be executed either, then each of them can.
    #[must_use]
    pub(super) fn allow_fetch<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        gfn: Gfn,
    ) -> bool {
        if !self.kind.splits() {
            return false;
        }
        let Found::Slot(slot) = find::<Ept, M>(machine, self.root, as_index(gfn.gpa()), Level::L2) else {
            return false;
        };
        let Decoded::Leaf(pfn, attributes) = slot.decode::<Ept>() else {
            return false;
        };
        let table = self
            .spare
            .pop(frames)
            .and_then(|table| slot.split::<Ept>(frames, (pfn, attributes), table));
        let Some(table) = table else {
            panic!("broken invariant: too few tables were reserved to split a guest's leaves")
        };
        for index in 0..ENTRIES {
            let permitted =
                Slot::of(machine, table, index, Level::L1).permit::<Ept>(EptAttributes::GUEST_RAM);
            assert!(
                permitted,
                "broken invariant: a leaf was split into something else"
            );
        }
        true
    }

    /// Cuts the tree at its root: no new walk finds anything. Cached translations are the caller's to flush.
    pub(super) fn cut<M: Machine>(self, machine: &M) -> CutSecondStage {
        let entry = &machine.table(TableAt::new(self.root))[0];
        let middle = with_format!(self.kind, F => table_of::<F>(Level::L4, entry.load(Ordering::Acquire)));
        Slot::of(machine, self.root, 0, Level::L4).clear();
        CutSecondStage {
            kind: self.kind,
            root: self.root,
            middle,
            spare: self.spare,
        }
    }
}

fn build<F: Format, M: Machine>(
    machine: &M,
    frames: &mut FrameTable<'_>,
    reserve: &mut TableList,
    bytes: u64,
) -> Option<Pfn> {
    let mut take = |frames: &mut FrameTable<'_>| Some(reserve.pop(frames)?.link(frames, 0));
    let root = take(frames)?;
    let middle = take(frames)?;
    Slot::of(machine, root, 0, Level::L4).link::<F>(middle);
    for gigabyte in 0..bytes.div_ceil(Level::L3.bytes()) {
        let low = take(frames)?;
        Slot::of(machine, middle, gigabyte as usize, Level::L3).link::<F>(low);
    }
    Some(root)
}

/// The frame behind an aligned guest frame: what its large leaf says, or the first of the small ones that it was split into.
fn lookup<F: Format, M: Machine>(machine: &M, root: Pfn, gfn: Gfn) -> Option<Pfn> {
    let Found::Slot(slot) = find::<F, M>(machine, root, as_index(gfn.gpa()), Level::L2) else {
        return None;
    };
    let slot = match slot.decode::<F>() {
        Decoded::Table(split) => Slot::of(machine, split, 0, Level::L1),
        _ => slot,
    };
    match slot.decode::<F>() {
        Decoded::Leaf(pfn, _) => Some(pfn),
        _ => None,
    }
}

fn table_of<F: Format>(level: Level, entry: u64) -> Option<Pfn> {
    match F::decode(level, entry) {
        Decoded::Table(table) => Some(table),
        _ => None,
    }
}

/// Tables that no new walk reaches.
#[derive(Debug)]
pub(super) struct CutSecondStage {
    kind: SecondStageKind,
    root: Pfn,
    middle: Option<Pfn>,
    spare: TableList,
}

impl CutSecondStage {
    /// Frees the tables. The guest's translations, and with them every CPU's copies of these tables' entries, have been flushed.
    pub(super) fn free<M: Machine>(mut self, machine: &M, frames: &mut FrameTable<'_>) {
        while let Some(table) = self.spare.pop(frames) {
            frames.free_table(table);
        }
        if let Some(middle) = self.middle {
            for index in 0..ENTRIES {
                let entry = machine.table(TableAt::new(middle))[index].load(Ordering::Acquire);
                if let Some(low) = with_format!(self.kind, F => table_of::<F>(Level::L3, entry)) {
                    if self.kind.splits() {
                        free_splits(machine, frames, low);
                    }
                    frames.free_table(TableFrame::unlinked(low));
                }
            }
            frames.free_table(TableFrame::unlinked(middle));
        }
        frames.free_table(TableFrame::unlinked(self.root));
    }
}

/// Frees the tables below a level-2 table that large leaves were split into.
fn free_splits<M: Machine>(machine: &M, frames: &mut FrameTable<'_>, low: Pfn) {
    for entry in machine.table(TableAt::new(low)) {
        if let Some(split) = table_of::<Ept>(Level::L2, entry.load(Ordering::Acquire)) {
            frames.free_table(TableFrame::unlinked(split));
        }
    }
}

/// A guest-physical address as the walker takes it: second-stage tables are indexed like a virtual address (APM vol. 2, 15.25.3; SDM
/// vol. 3C, 29.3.2).
fn as_index(gpa: Gpa) -> Hva {
    Hva::new(gpa.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::frame::list::RegionList;

    /// Rule 2: the owner is checked before an entry is written.
    #[test]
    fn a_region_of_another_guest_is_not_mapped() {
        let (machine, mut memory, mut windows) = Fake::boot();
        let (own, other) = (GuestId::new(1).unwrap(), GuestId::new(2).unwrap());
        let reserve = memory.frames.reserve_tables(machine, 3).unwrap();
        let kind = SecondStageKind::Nested;
        let tables = SecondStage::new(machine, kind, &mut memory.frames, reserve, 4 << 20).unwrap();
        let table = tables.table_at(machine, Gfn::new(512)).unwrap();

        let regions = memory.frames.carve(1).unwrap();
        let batch = memory
            .direct_map
            .hide(machine, &mut memory.frames, &mut memory.stats, regions)
            .unwrap();
        let receipt = memory.post(machine, batch).wait(machine);
        let mut dirty = memory.complete(machine, receipt);
        let region = dirty.pop(&memory.frames).unwrap();
        let region = memory.scrub(machine, &mut windows, region);
        let mut list = RegionList::new();
        let region = region.assign(&mut memory.frames, other, Gfn::new(512));
        list.push(&mut memory.frames, region);
        let region = list.next(&memory.frames, &mut list.start()).unwrap();

        assert!(!tables.map(machine, own, table, &region));
        assert_eq!(tables.translate(machine, Gfn::new(512)), None);
        assert!(tables.map(machine, other, table, &region));
        // Nor twice at the same place.
        assert!(!tables.map(machine, other, table, &region));
        assert_eq!(tables.translate(machine, Gfn::new(512)), Some(region.pfn));
    }
}
