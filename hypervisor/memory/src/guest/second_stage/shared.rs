//! The shared alias: leaves to ordinary frames, and the tables that lead to them.

use super::{
    Part, SecondStage, SecondStageFormat, SecondStageKind, as_index, lookup, lowest_table, with_format,
};
use crate::address::{ENTRIES, Gfn, Level, PAGE_SHIFT, Pfn};
use crate::frame::allocator::HostFrames;
use crate::frame::records::FrameTable;
use crate::frame::state::{FrameState, GuestId};
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::edit::Slot;
use crate::paging::ept::Ept;
use crate::paging::format::{Decoded, Format, LongMode};
use crate::paging::mark::Mark;

impl SecondStage {
    /// The bit that tells the aliases apart.
    pub(in crate::guest) fn shared_bit(&self) -> u8 {
        self.shared_bit
    }

    /// Where a guest frame of the private alias is at the shared one. The bit lies above all of the guest's memory.
    pub(in crate::guest) fn shared_alias(&self, gfn: Gfn) -> Gfn {
        gfn.add(1 << (u32::from(self.shared_bit) - PAGE_SHIFT))
    }

    /// The ordinary frame that a guest frame is shared through, if it is shared and the frame's record agrees.
    pub(in crate::guest) fn shared_frame<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        guest: GuestId,
        gfn: Gfn,
    ) -> Option<Pfn> {
        let at = self.shared_alias(gfn);
        let pfn = with_format!(self.kind, F => lookup::<F, M>(machine, (self.root, Level::L4), at))?;
        (frames.state(pfn) == FrameState::Shared { owner: guest, gfn }).then_some(pfn)
    }

    /// Tables that the part's shared alias lacks. Those that serve other parts, too, are counted with the first part of a range
    /// (`first`) or of a gigabyte.
    pub(in crate::guest) fn shared_tables_for<M: Machine>(
        &self,
        machine: &M,
        part: Part,
        first: bool,
    ) -> u64 {
        let at = self.shared_alias(part.start);
        let lowest = with_format!(self.kind, F => lowest_table::<F, M>(machine, (self.root, Level::L4), at));
        let first_in_gigabyte = u64::from(first || part.begins_gigabyte());
        match lowest.map(|(_, level)| level) {
            Some(Level::L4) => 1 + first_in_gigabyte + u64::from(first),
            Some(Level::L3) => 1 + first_in_gigabyte,
            Some(Level::L2) => 1,
            Some(Level::L1) | None => 0,
        }
    }

    /// Maps a zeroed frame for each page of the part, at the shared alias.
    pub(in crate::guest) fn map_shared<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        guest: GuestId,
        part: Part,
        tables: &mut TableList,
        pages: &mut TableList,
    ) {
        with_format!(self.kind, F => {
            let table = self.shared_table::<F, M>(machine, frames, part, tables);
            for gfn in part.gfns() {
                let Some(page) = pages.pop(frames) else {
                    panic!("broken invariant: too few frames were reserved for a conversion")
                };
                let pfn = page.share(frames, guest, gfn);
                let slot = Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1);
                let filled = slot.fill::<F>(pfn, <F as SecondStageFormat>::GUEST_RAM);
                assert!(filled, "broken invariant: guest frame {gfn} is shared already");
            }
        });
    }

    /// The level-1 table of a part's shared alias; what is missing on the way is linked.
    pub(super) fn shared_table<F: SecondStageFormat, M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        part: Part,
        tables: &mut TableList,
    ) -> Pfn {
        let at = self.shared_alias(part.start);
        loop {
            match lowest_table::<F, M>(machine, (self.root, Level::L4), at) {
                Some((table, Level::L1)) => return table,
                Some((table, level)) => {
                    let Some(below) = tables.pop(frames) else {
                        panic!("broken invariant: too few tables were reserved for a conversion")
                    };
                    let below = below.link(frames, 0);
                    let index = as_index(at.gpa()).index(level as u8);
                    Slot::of(machine, table, index, level).link::<F>(below);
                }
                None => panic!("broken invariant: no table leads to guest frame {at}"),
            }
        }
    }

    /// Takes the part's pages off the shared alias. Their frames stay noted there until [`SecondStage::free_shared`], after a flush.
    pub(in crate::guest) fn unmap_shared<M: Machine>(&mut self, machine: &M, part: Part) {
        with_format!(self.kind, F => self.each_shared::<F, M>(machine, part, |slot| {
            if let Decoded::Leaf(pfn, _) = slot.decode::<F>() {
                slot.mark(Mark::Leaving, pfn);
            }
        }));
    }

    /// Frees the frames that the part's pages had at the shared alias, which no CPU can reach through the guest's tables any more.
    pub(in crate::guest) fn free_shared<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        part: Part,
    ) {
        with_format!(self.kind, F => self.each_shared::<F, M>(machine, part, |slot| {
            if let Some((Mark::Leaving, pfn)) = slot.marked() {
                slot.clear();
                frames.free(HostFrames::from_pfn(pfn, 0));
            }
        }));
    }

    pub(super) fn each_shared<F: Format, M: Machine>(
        &self,
        machine: &M,
        part: Part,
        mut visit: impl FnMut(&Slot<'_, M>),
    ) {
        let at = self.shared_alias(part.start);
        let lowest = lowest_table::<F, M>(machine, (self.root, Level::L4), at);
        let Some((table, Level::L1)) = lowest else {
            panic!("broken invariant: no table leads to guest frame {at}, which is shared")
        };
        for gfn in part.gfns() {
            visit(&Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1));
        }
    }
}

/// Frees the ordinary frames that the entries of a level-1 table of the shared alias lead to, or led to until lately. Hidden ones, shared in
/// place, are not freed from here: the private alias has them.
pub(super) fn free_leaves<F: Format, M: Machine>(machine: &M, frames: &mut FrameTable<'_>, table: Pfn) {
    for index in 0..ENTRIES {
        let slot = Slot::of(machine, table, index, Level::L1);
        let pfn = match (slot.decode::<F>(), slot.marked()) {
            (Decoded::Leaf(pfn, _), _) | (_, Some((Mark::Leaving, pfn))) => pfn,
            _ => continue,
        };
        if matches!(frames.state(pfn), FrameState::Private { .. }) {
            continue;
        }
        frames.free(HostFrames::from_pfn(pfn, 0));
    }
}
