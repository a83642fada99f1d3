//! The private alias where pages have no hidden frame. A page that is shared or given back keeps its own, zeroed, so that it can have it again; but
//! 2 MiB that are all given back keep nothing, and what is kept can be taken for other uses when memory is low ([`SecondStage::forget`]). Before such
//! a page is private again it gets another frame ([`SecondStage::keep`], [`SecondStage::keep_region`]).
//!
//! A table of 4K leaves stays where it is, with nothing in it.

use super::pages::{Entries, PageState, Part};
use super::{SecondStage, SecondStageKind, as_index, with_format};
use crate::address::{Gfn, Level, Pfn};
use crate::frame::records::FrameTable;
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::ept::Ept;
use crate::paging::format::{Decoded, LongMode};
use crate::paging::mark::Mark;

impl SecondStage {
    /// Whether all pages of a part are in this state, and none has a hidden frame.
    pub(in crate::guest) fn is_bare<M: Machine>(&self, machine: &M, part: Part, state: PageState) -> bool {
        let mut runs = self.runs(machine, part);
        runs.all(|(found, pfn, _)| found == state && pfn.is_none())
    }

    /// Pages of a part that have no hidden frame.
    pub(in crate::guest) fn bare_pages<M: Machine>(&self, machine: &M, part: Part) -> u64 {
        let bare = self.runs(machine, part).filter(|(_, pfn, _)| pfn.is_none());
        bare.map(|(_, _, pages)| pages).sum()
    }

    /// The pages of a part by entries: state, first hidden frame, and how many.
    pub(in crate::guest) fn runs<M: Machine>(
        &self,
        machine: &M,
        part: Part,
    ) -> impl Iterator<Item = (PageState, Option<Pfn>, u64)> {
        let mut at = part.start;
        core::iter::from_fn(move || {
            if at >= part.end() {
                return None;
            }
            let (state, pfn, alike) = self.alike(machine, at);
            let pages = alike.min(part.end().get() - at.get());
            at = at.add(pages);
            Some((state, pfn, pages))
        })
    }

    /// Forgets the hidden frames that are kept for the pages of a part: of all that are shared or given back.
    pub(in crate::guest) fn forget<M: Machine>(&mut self, machine: &M, part: Part) {
        self.each_entry(machine, part, |slot, _| match slot.marked() {
            Some((Mark::Kept, _)) => slot.mark(Mark::Taken, Pfn::new(0)),
            Some((Mark::Given, _)) => slot.clear(),
            _ => {}
        });
    }

    /// Notes a region's frames behind 2 MiB of pages, none of which has one. What they are stays as it is.
    pub(in crate::guest) fn keep_region<M: Machine>(&mut self, machine: &M, whole: Part, region: Pfn) {
        self.each_entry(machine, whole, |slot, index| {
            let kept = keep(slot, region.add(index));
            assert!(
                kept,
                "broken invariant: guest frame {} has hidden memory already",
                whole.start
            );
        });
    }

    /// Notes a frame behind each page of a part that has none, in a table of 4K leaves. What they are stays as it is.
    pub(in crate::guest) fn keep<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        part: Part,
        tables: &mut TableList,
        mut next: impl FnMut(&mut FrameTable<'_>, Gfn) -> Pfn,
    ) {
        let first = Part { frames: 1, ..part };
        with_format!(self.kind, F => match self.entries::<F, M>(machine, frames, first, tables) {
            Entries::One(_) => panic!("broken invariant: a page of 2 MiB has an entry of its own"),
            Entries::Small(table) => {
                for gfn in part.gfns() {
                    let slot = Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1);
                    if is_bare(&slot) && matches!(slot.decode::<F>(), Decoded::Absent) {
                        keep(&slot, next(frames, gfn));
                    }
                }
            }
        });
    }

    /// Visits the entries that stand for a part: the one of level 2 if that is not present, then the part must be the whole 2 MiB, or those of
    /// level 1; each with the number of its first page in the 2 MiB.
    fn each_entry<M: Machine>(&self, machine: &M, part: Part, visit: impl Fn(&Slot<'_, M>, u64)) {
        let at = part.start;
        with_format!(self.kind, F => {
            let Found::Slot(slot) = find::<F, M>(machine, self.root, as_index(at.gpa()), Level::L2) else {
                panic!("broken invariant: no table leads to guest frame {at}")
            };
            match slot.decode::<F>() {
                Decoded::Absent if part.is_whole() => visit(&slot, 0),
                Decoded::Table(table) => {
                    for gfn in part.gfns() {
                        let index = as_index(gfn.gpa()).index(1);
                        visit(&slot.below(table, index), index as u64);
                    }
                }
                _ => panic!("broken invariant: guest frame {at} is in use"),
            }
        });
    }
}

/// Whether an entry that is not present has no frame.
fn is_bare<M: Machine>(slot: &Slot<'_, M>) -> bool {
    matches!(slot.marked(), None | Some((Mark::Taken, _)))
}

/// Notes a frame in an entry that has none; whether it had none.
fn keep<M: Machine>(slot: &Slot<'_, M>, pfn: Pfn) -> bool {
    match slot.marked() {
        None => slot.mark(Mark::Given, pfn),
        Some((Mark::Taken, _)) => slot.mark(Mark::Kept, pfn),
        Some(_) => return false,
    }
    true
}
