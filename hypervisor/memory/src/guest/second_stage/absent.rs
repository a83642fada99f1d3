//! The private alias where the guest has given memory back. A page that is absent keeps its hidden frame, zeroed, as long as others of its
//! 2 MiB are in use; when all 512 are absent there is nothing behind any of them. So 2 MiB are backed as a whole, or not at all.
//!
//! A table of 4K leaves stays where it is, with nothing in it.

use super::{SecondStage, SecondStageKind, as_index, with_format};
use crate::address::{ENTRIES, Gfn, Level, Pfn};
use crate::machine::Machine;
use crate::paging::edit::{Found, Slot, find};
use crate::paging::ept::Ept;
use crate::paging::format::{Decoded, LongMode};
use crate::paging::mark::Mark;

use super::pages::{PageState, Part};

impl SecondStage {
    /// Whether the 2 MiB around a part have hidden memory.
    pub(in crate::guest) fn is_backed<M: Machine>(&self, machine: &M, part: Part) -> bool {
        self.backing(machine, part.whole().start).is_some()
    }

    /// Whether all of the 2 MiB around a part is given back, and still has its hidden frames.
    pub(in crate::guest) fn is_given_whole<M: Machine>(&self, machine: &M, part: Part) -> bool {
        let whole = part.whole();
        let mut at = whole.start;
        while at < whole.end() {
            let (state, pfn, alike) = self.alike(machine, at);
            if state != PageState::Absent || pfn.is_none() {
                return false;
            }
            at = at.add(alike);
        }
        true
    }

    /// Forgets the hidden frames of 2 MiB that are given back.
    pub(in crate::guest) fn forget<M: Machine>(&mut self, machine: &M, at: Gfn) {
        self.each_entry(machine, at, |slot, _| slot.clear());
    }

    /// Notes a region's frames behind 2 MiB that have none; the pages stay absent.
    pub(in crate::guest) fn keep<M: Machine>(&mut self, machine: &M, at: Gfn, region: Pfn) {
        self.each_entry(machine, at, |slot, index| {
            assert!(
                slot.marked().is_none(),
                "broken invariant: guest frame {at} has hidden memory already"
            );
            slot.mark(Mark::Given, region.add(index));
        });
    }

    /// Visits the entries of level 2 or 1 that stand for 2 MiB, none of which is present, each with the number of its first page.
    fn each_entry<M: Machine>(&self, machine: &M, at: Gfn, visit: impl Fn(&Slot<'_, M>, u64)) {
        with_format!(self.kind, F => {
            let Found::Slot(slot) = find::<F, M>(machine, self.root, as_index(at.gpa()), Level::L2) else {
                panic!("broken invariant: no table leads to guest frame {at}")
            };
            match slot.decode::<F>() {
                Decoded::Absent => visit(&slot, 0),
                Decoded::Table(table) => {
                    for index in 0..ENTRIES {
                        visit(&slot.below(table, index), index as u64);
                    }
                }
                Decoded::Leaf(..) => panic!("broken invariant: guest frame {at} is in use"),
            }
        });
    }
}
