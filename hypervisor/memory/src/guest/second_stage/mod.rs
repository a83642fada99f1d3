//! The second stage of one guest, in the layout that the CPU's virtualization wants: 1G leaves first, where whole gigablocks back the
//! guest, then 2M leaves, and 4K leaves at the end where there were no whole regions.
//!
//! The private alias is address 0 up to the guest's size: `pages` has the states of its pages. The shared alias is the same addresses with the
//! shared bit set, in tables that are made when they are needed (`shared`): to ordinary frames, or to the hidden ones themselves (`in_place`).
//! `bare` has the pages that have no memory. `cut` is what is left when the guest has ended.

mod bare;
mod cut;
mod in_place;
mod pages;
mod shared;

pub(super) use cut::CutSecondStage;
pub use pages::PageState;
pub(super) use pages::{Part, Promotion};

use crate::address::{ENTRIES, Gfn, Gpa, Hva, Level, Pfn};
use crate::frame::extent::{Extent, Private};
use crate::frame::records::FrameTable;
use crate::frame::state::GuestId;
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::ept::{Ept, EptAttributes};
use crate::paging::format::{Attributes, Decoded, Format, LongMode};

/// Bytes of guest-physical address space that the tables of one guest cover: one entry of the top-level table.
pub(super) const MAX_BYTES: u64 = Level::L4.bytes();

/// Bits of guest-physical address that four levels of tables translate (AMD APM vol. 2, 15.25.3; Intel SDM vol. 3C, 29.3.2).
pub(crate) const MOST_GUEST_BITS: u8 = 48;

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
    pub(super) const fn splits(self) -> bool {
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
use with_format;

/// A guest's tables, owned.
#[derive(Debug)]
pub(super) struct SecondStage {
    kind: SecondStageKind,
    root: Pfn,
    /// Entries of the level-3 table that are in use.
    gigabytes: usize,
    /// Regions' worth of guest addresses whose tables for 4K leaves are linked: some of those at the end that are mapped so from the start.
    patched: core::ops::Range<u64>,
    /// For splits.
    spare: TableList,
    /// The bit that tells the shared alias of an address from the private one.
    shared_bit: u8,
    /// Some leaf or mark was split by a change, and how many 2M leaves nobody has counted yet.
    divided: bool,
    splits: u64,
    /// Tables that were merged away and that a CPU may still walk until the guest is flushed.
    unlinked: TableList,
    /// Those for which it has been.
    released: TableList,
}

/// How much of a guest's memory is mapped by which leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Guest memory in bytes.
    pub(super) bytes: u64,
    /// GiB at the start that get 1G leaves.
    pub(super) gigablocks: u64,
    /// Regions' worth of guest addresses at the end that get 4K leaves.
    pub(super) patched: u64,
    /// The number of the shared bit, at least 30.
    pub(super) shared_bit: u8,
}

impl Shape {
    fn gigabytes(&self) -> core::ops::Range<u64> {
        self.gigablocks..self.bytes.div_ceil(Level::L3.bytes())
    }

    fn patched(&self) -> core::ops::Range<u64> {
        let regions = self.bytes / Level::L2.bytes();
        regions - self.patched..regions
    }

    /// Tables that it needs: the top level, one level-3 table, a level-2 table for each GiB without a 1G leaf, a level-1 table for each
    /// 2 MiB of 4K leaves, and where leaves may be split, one for each of the others.
    pub(super) fn tables(&self, kind: SecondStageKind) -> u64 {
        let splits = if kind.splits() { self.patched().start } else { 0 };
        2 + (self.gigabytes().end - self.gigabytes().start) + self.patched + splits
    }
}

impl SecondStage {
    /// Links the tables for a guest's memory, but for those of 4K leaves, which [`SecondStage::link_some`] links; all entries of the lowest
    /// ones are absent. `reserve` holds [`Shape::tables`] zeroed frames; `None` if it does not.
    pub(super) fn new<M: Machine>(
        machine: &M,
        kind: SecondStageKind,
        frames: &mut FrameTable<'_>,
        mut reserve: TableList,
        shape: Shape,
    ) -> Option<Self> {
        let root = with_format!(kind, F => build::<F, M>(machine, frames, &mut reserve, shape))?;
        Some(Self {
            kind,
            root,
            gigabytes: shape.gigabytes().end as usize,
            patched: shape.patched().start..shape.patched().start,
            spare: reserve,
            shared_bit: shape.shared_bit,
            divided: false,
            splits: 0,
            unlinked: TableList::new(),
            released: TableList::new(),
        })
    }

    /// Links tables for 4K leaves at the end of the guest's memory, a table's worth of them. False when there was none left to link.
    pub(super) fn link_some<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        shape: &Shape,
    ) -> bool {
        let from = self.patched.end;
        let to = shape.patched().end.min(from + ENTRIES as u64);
        for region in from..to {
            let at = as_index(Gfn::new(region * Level::L2.frames()).gpa());
            let linked = with_format!(self.kind, F => match find::<F, M>(machine, self.root, at, Level::L2) {
                Found::Slot(slot) => self.spare.pop(frames).map(|table| slot.link::<F>(table.link(frames, 0))),
                _ => None,
            });
            assert!(
                linked.is_some(),
                "broken invariant: too few second-stage tables were reserved"
            );
        }
        self.patched.end = to;
        to > from
    }

    /// Whether there is a table for each 2 MiB, so that its leaf can be split at any time.
    pub(super) fn splits(&self) -> bool {
        self.kind.splits()
    }

    pub(super) fn root(&self) -> Pfn {
        self.root
    }

    /// Maps a private extent where its record says that it belongs. The record is the reverse map: one owner, one address. Returns how
    /// many leaves that took.
    ///
    /// # Errors
    /// When the extent is not this guest's (nothing was changed then), or something is mapped there.
    pub(super) fn map<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        guest: GuestId,
        extent: &Extent<Private>,
    ) -> Result<u64, NotMapped> {
        let gfn = match extent.place(frames) {
            Some((owner, gfn)) if owner == guest => gfn,
            _ => return Err(NotMapped),
        };
        if self.kind.splits() && extent.is_regions() {
            return map::<Ept, M>(machine, self.root, extent, gfn, EptAttributes::GUEST_DATA);
        }
        with_format!(self.kind, F => map::<F, M>(machine, self.root, extent, gfn, <F as SecondStageFormat>::GUEST_RAM))
    }

    /// The host frame behind a guest frame, if the guest can reach it.
    pub(super) fn translate<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        with_format!(self.kind, F => lookup::<F, M>(machine, (self.root, Level::L4), gfn))
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
        if !matches!(slot.decode::<Ept>(), Decoded::Leaf(..)) {
            return false;
        }
        self.split_to_execute(frames, &slot);
        true
    }

    /// Splits a large leaf, for which a table was reserved at launch, and lets the small ones be executed. Returns their table.
    fn split_to_execute<M: Machine>(&mut self, frames: &mut FrameTable<'_>, slot: &Slot<'_, M>) -> Pfn {
        let table = match (slot.decode::<Ept>(), self.spare.pop(frames)) {
            (Decoded::Leaf(pfn, attributes), Some(table)) => {
                slot.split::<Ept>(frames, (pfn, attributes), table)
            }
            _ => None,
        };
        let Some(table) = table else {
            panic!("broken invariant: too few tables were reserved to split a guest's leaves")
        };
        for index in 0..ENTRIES {
            let permitted = slot.below(table, index).permit::<Ept>(EptAttributes::GUEST_RAM);
            assert!(
                permitted,
                "broken invariant: a leaf was split into something else"
            );
        }
        table
    }
}

fn build<F: Format, M: Machine>(
    machine: &M,
    frames: &mut FrameTable<'_>,
    reserve: &mut TableList,
    shape: Shape,
) -> Option<Pfn> {
    let mut take = |frames: &mut FrameTable<'_>| Some(reserve.pop(frames)?.link(frames, 0));
    let root = take(frames)?;
    let middle = take(frames)?;
    Slot::of(machine, root, 0, Level::L4).link::<F>(middle);
    for gigabyte in shape.gigabytes() {
        let low = take(frames)?;
        Slot::of(machine, middle, gigabyte as usize, Level::L3).link::<F>(low);
    }
    Some(root)
}

/// An extent was not mapped: it is another guest's, or something is mapped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotMapped;

/// Writes the leaves of an extent, as large as the tables allow; how many.
fn map<F: Format, M: Machine>(
    machine: &M,
    root: Pfn,
    extent: &Extent<Private>,
    start: Gfn,
    attributes: F::Attributes,
) -> Result<u64, NotMapped> {
    let mut done = 0;
    let mut leaves = 0;
    while done < extent.frames() {
        let gfn = Gfn::new(start.get() + done);
        let (table, level) = lowest_table::<F, M>(machine, (root, Level::L4), gfn).ok_or(NotMapped)?;
        // From its entry on, all that this table translates.
        for index in as_index(gfn.gpa()).index(level as u8)..ENTRIES {
            if done == extent.frames() {
                break;
            }
            let slot = Slot::of(machine, table, index, level);
            if !slot.fill::<F>(extent.pfn().add(done), attributes) {
                return Err(NotMapped);
            }
            done += level.frames();
            leaves += 1;
        }
    }
    Ok(leaves)
}

/// The last table on the way from a table to a guest frame, whose entry is absent or a leaf.
fn lowest_table<F: Format, M: Machine>(
    machine: &M,
    (mut table, mut level): (Pfn, Level),
    gfn: Gfn,
) -> Option<(Pfn, Level)> {
    let at = as_index(gfn.gpa());
    while let Decoded::Table(below) = Slot::of(machine, table, at.index(level as u8), level).decode::<F>() {
        (table, level) = (below, level.below()?);
    }
    Some((table, level))
}

/// The host frame behind a guest frame.
fn lookup<F: Format, M: Machine>(machine: &M, from: (Pfn, Level), gfn: Gfn) -> Option<Pfn> {
    let (table, level) = lowest_table::<F, M>(machine, from, gfn)?;
    let at = as_index(gfn.gpa());
    match Slot::of(machine, table, at.index(level as u8), level).decode::<F>() {
        Decoded::Leaf(pfn, _) => Some(pfn.add(gfn.get() & (level.frames() - 1))),
        _ => None,
    }
}

/// The table that an entry leads to.
fn table_below<F: Format, M: Machine>(slot: &Slot<'_, M>) -> Option<Pfn> {
    match slot.decode::<F>() {
        Decoded::Table(table) => Some(table),
        _ => None,
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
    use crate::address::REGION_ORDER;
    use crate::fake::Fake;

    /// Rule 2: the owner is checked before an entry is written.
    #[test]
    fn an_extent_of_another_guest_is_not_mapped() {
        let (machine, mut memory, mut windows) = Fake::boot();
        let (own, other) = (GuestId::new(1).unwrap(), GuestId::new(2).unwrap());
        let reserve = memory.frames.reserve_tables(machine, 3).unwrap();
        let shape = Shape {
            bytes: 4 << 20,
            gigablocks: 0,
            patched: 0,
            shared_bit: 47,
        };
        let kind = SecondStageKind::Nested;
        let tables = SecondStage::new(machine, kind, &mut memory.frames, reserve, shape).unwrap();

        let region = memory
            .allocate_private(machine, &mut windows, REGION_ORDER)
            .unwrap();
        let region = region.assign(&mut memory.frames, other, Gfn::new(512));
        let frames = &memory.frames;

        assert_eq!(tables.map(machine, frames, own, &region), Err(NotMapped));
        assert_eq!(tables.translate(machine, Gfn::new(512)), None);
        assert_eq!(tables.map(machine, frames, other, &region), Ok(1));
        // Nor twice at the same place.
        assert_eq!(tables.map(machine, frames, other, &region), Err(NotMapped));
        assert_eq!(
            tables.translate(machine, Gfn::new(513)),
            Some(region.pfn().add(1))
        );
    }

    /// An extent may begin in one gigabyte of the guest and end in the next.
    #[test]
    fn an_extent_is_mapped_across_the_border_of_two_tables() {
        let (machine, mut memory, mut windows) = Fake::boot();
        let guest = GuestId::new(1).unwrap();
        let reserve = memory.frames.reserve_tables(machine, 4).unwrap();
        let shape = Shape {
            bytes: 2 << 30,
            gigablocks: 0,
            patched: 0,
            shared_bit: 47,
        };
        let kind = SecondStageKind::Nested;
        let tables = SecondStage::new(machine, kind, &mut memory.frames, reserve, shape).unwrap();
        let regions = memory
            .allocate_private(machine, &mut windows, REGION_ORDER + 1)
            .unwrap();
        let last = Gfn::new(511 << REGION_ORDER);
        let regions = regions.assign(&mut memory.frames, guest, last);
        assert_eq!(tables.map(machine, &memory.frames, guest, &regions), Ok(2));
        for frame in [0, 511, 512, 1023] {
            let found = tables.translate(machine, last.add(frame));
            assert_eq!(found, Some(regions.pfn().add(frame)));
        }
    }
}
