//! Sharing in place: the shared alias leads to a page's own hidden frame. The private alias keeps it, marked, and stays absent meanwhile, so the
//! frame is reached at one address of one guest, as ever.

use super::{
    PageState, Part, SecondStage, SecondStageFormat, SecondStageKind, as_index, lookup, with_format,
};
use crate::address::{Gfn, Level, Pfn};
use crate::frame::records::FrameTable;
use crate::frame::state::{FrameState, GuestId};
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::edit::Slot;
use crate::paging::ept::Ept;
use crate::paging::format::LongMode;

impl SecondStage {
    /// Maps the part's own hidden frames at the shared alias. No translation of the private alias leads to them any more.
    ///
    /// # Panics
    /// When a frame's record does not say that it is this guest's, at this page: the owner is checked before an entry is written.
    pub(in crate::guest) fn map_in_place<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        guest: GuestId,
        part: Part,
        tables: &mut TableList,
    ) {
        with_format!(self.kind, F => {
            let table = self.shared_table::<F, M>(machine, frames, part, tables);
            for gfn in part.gfns() {
                let pfn = self.backing(machine, gfn).filter(|pfn| is_own(frames, guest, gfn, *pfn));
                let slot = Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1);
                let filled = pfn.is_some_and(|pfn| slot.fill::<F>(pfn, <F as SecondStageFormat>::GUEST_RAM));
                assert!(filled, "broken invariant: guest frame {gfn} can't be shared in place");
            }
        });
    }

    /// Takes the part's pages off the shared alias. What stands at the private alias has their frames.
    pub(in crate::guest) fn unmap_in_place<M: Machine>(&mut self, machine: &M, part: Part) {
        with_format!(self.kind, F => self.each_shared::<F, M>(machine, part, |slot| slot.clear()));
    }

    /// The hidden frame that a page is shared by in place: if it is marked so, the shared alias leads to the same frame, and the frame's record
    /// agrees.
    pub(in crate::guest) fn in_place_frame<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        guest: GuestId,
        gfn: Gfn,
    ) -> Option<Pfn> {
        let pfn = self.mapped_in_place(machine, gfn)?;
        is_own(frames, guest, gfn, pfn).then_some(pfn)
    }

    /// The hidden frame of a page that is marked as shared in place, if the shared alias leads to it.
    pub(in crate::guest) fn mapped_in_place<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        let (PageState::SharedInPlace, Some(pfn), _) = self.alike(machine, gfn) else {
            return None;
        };
        let at = self.shared_alias(gfn);
        let mapped = with_format!(self.kind, F => lookup::<F, M>(machine, (self.root, Level::L4), at));
        (mapped == Some(pfn)).then_some(pfn)
    }
}

/// Whether a frame's record says that it is the hidden frame of this page.
fn is_own(frames: &FrameTable<'_>, guest: GuestId, page: Gfn, pfn: Pfn) -> bool {
    matches!(frames.state(pfn), FrameState::Private { owner, gfn, .. } if (owner, gfn) == (guest, page))
}
