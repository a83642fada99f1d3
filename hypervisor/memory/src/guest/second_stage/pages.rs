//! The private alias: the state of each page, and its changes, 2 MiB at a time.

use super::{SecondStage, SecondStageFormat, SecondStageKind, as_index, lowest_table, with_format};
use crate::address::{ENTRIES, Gfn, Level, Pfn};
use crate::frame::records::FrameTable;
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::edit::{Found, MergeBlocked, Slot, find};
use crate::paging::ept::{Ept, EptAttributes};
use crate::paging::format::{Decoded, Format, LongMode};
use crate::paging::mark::Mark;

/// What a page of a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Not the guest's memory.
    Outside,
    /// The guest's to have, and given back: nothing is there.
    Absent,
    /// Private, and the guest's to use.
    Accepted,
    /// Private and zero, and not to be used before the guest has accepted it.
    Pending,
    /// Shared with the host: to be used at the shared alias.
    Shared,
    /// The same, by the hidden frame itself: the host reads it through windows.
    SharedInPlace,
}

/// A piece of the guest's address space that lies within one aligned 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) struct Part {
    pub(in crate::guest) start: Gfn,
    pub(in crate::guest) frames: u64,
}

impl Part {
    /// What of `start..end` lies in the 2 MiB around `start`.
    pub(in crate::guest) fn first_of(start: Gfn, end: Gfn) -> Self {
        let boundary = (start.get() / Level::L2.frames() + 1) * Level::L2.frames();
        Self {
            start,
            frames: boundary.min(end.get()) - start.get(),
        }
    }

    pub(in crate::guest) fn end(self) -> Gfn {
        self.start.add(self.frames)
    }

    pub(in crate::guest) fn gfns(self) -> impl Iterator<Item = Gfn> {
        (self.start.get()..self.end().get()).map(Gfn::new)
    }

    /// The aligned 2 MiB that it lies in.
    pub(in crate::guest) fn whole(self) -> Self {
        Self {
            start: self.start.align_down(Level::L2.frames()),
            frames: Level::L2.frames(),
        }
    }

    pub(in crate::guest) fn is_whole(self) -> bool {
        self.frames == Level::L2.frames()
    }

    pub(super) fn begins_gigabyte(self) -> bool {
        self.start.is_aligned(Level::L3.frames())
    }
}

/// What stands in the private alias for one guest frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    pub(super) state: PageState,
    /// The hidden frame, whether the guest can reach it or not.
    pub(super) pfn: Option<Pfn>,
    /// Of the entry that says so.
    pub(super) level: Level,
}

impl Looked {
    /// Frames from this one on that stand in the same entry.
    pub(super) fn left(&self, gfn: Gfn) -> u64 {
        self.level.frames() - (gfn.get() & (self.level.frames() - 1))
    }
}

/// Looks a guest frame of the private alias up, from a table on the way.
pub(super) fn look<F: Format, M: Machine>(machine: &M, from: (Pfn, Level), gfn: Gfn) -> Looked {
    let Some((table, level)) = lowest_table::<F, M>(machine, from, gfn) else {
        return Looked {
            state: PageState::Absent,
            pfn: None,
            level: Level::L1,
        };
    };
    let slot = Slot::of(machine, table, as_index(gfn.gpa()).index(level as u8), level);
    let (state, first) = match (slot.decode::<F>(), slot.marked()) {
        (Decoded::Leaf(pfn, _), _) => (PageState::Accepted, Some(pfn)),
        (_, Some((Mark::Pending, pfn))) => (PageState::Pending, Some(pfn)),
        (_, Some((Mark::Kept, pfn))) => (PageState::Shared, Some(pfn)),
        (_, Some((Mark::InPlace, pfn))) => (PageState::SharedInPlace, Some(pfn)),
        (_, Some((Mark::Given, pfn))) => (PageState::Absent, Some(pfn)),
        (_, Some((Mark::Taken, _))) => (PageState::Shared, None),
        _ => (PageState::Absent, None),
    };
    Looked {
        state,
        pfn: first.map(|first| first.add(gfn.get() & (level.frames() - 1))),
        level,
    }
}

/// What became of the attempt to map 2 MiB by one leaf again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) enum Promotion {
    /// Not all of it is accepted, or it is mapped by one leaf anyway, or could never be.
    NotDue,
    /// Done.
    Done,
    /// Something was in the way.
    Blocked(MergeBlocked),
    /// The CPU must not execute from large leaves (iTLB multihit), and a small one is executable.
    Executable,
}

/// The entries that stand for a part.
pub(super) enum Entries<'a, M: Machine> {
    /// One of level 2, for all 2 MiB.
    One(Slot<'a, M>),
    /// Those of a level-1 table.
    Small(Pfn),
}

impl SecondStage {
    fn look<M: Machine>(&self, machine: &M, gfn: Gfn) -> Looked {
        with_format!(self.kind, F => look::<F, M>(machine, (self.root, Level::L4), gfn))
    }

    /// What a page is.
    pub(in crate::guest) fn state<M: Machine>(&self, machine: &M, gfn: Gfn) -> PageState {
        self.look(machine, gfn).state
    }

    /// The hidden frame that a page has, or that is kept for it.
    pub(in crate::guest) fn backing<M: Machine>(&self, machine: &M, gfn: Gfn) -> Option<Pfn> {
        self.look(machine, gfn).pfn
    }

    /// The frames from a guest frame on that are alike and stand in one entry: their state, the first hidden frame, and how many.
    pub(in crate::guest) fn alike<M: Machine>(&self, machine: &M, gfn: Gfn) -> (PageState, Option<Pfn>, u64) {
        let looked = self.look(machine, gfn);
        (looked.state, looked.pfn, looked.left(gfn))
    }

    /// Whether all pages of the part are in a state that `fits`.
    pub(in crate::guest) fn all<M: Machine>(
        &self,
        machine: &M,
        part: Part,
        fits: impl Fn(PageState) -> bool,
    ) -> bool {
        let mut at = part.start;
        while at < part.end() {
            let (state, _, alike) = self.alike(machine, at);
            if !fits(state) {
                return false;
            }
            at = at.add(alike);
        }
        true
    }

    /// Tables that are needed before the pages of the part can change. One that serves other parts, too, is counted with the first part of a
    /// range (`first`) or of a gigabyte.
    pub(in crate::guest) fn private_tables_for<M: Machine>(
        &self,
        machine: &M,
        part: Part,
        first: bool,
    ) -> u64 {
        // Where leaves may be split anyway, a table for each waits since the launch.
        let divided = u64::from(!part.is_whole() && !self.kind.splits());
        match self.look(machine, part.start).level {
            Level::L3 => u64::from(first || part.begins_gigabyte()) + divided,
            Level::L2 => divided,
            _ => 0,
        }
    }

    /// The entries of the part; larger ones are split.
    pub(super) fn entries<'m, F: Format, M: Machine>(
        &mut self,
        machine: &'m M,
        frames: &mut FrameTable<'_>,
        part: Part,
        tables: &mut TableList,
    ) -> Entries<'m, M> {
        let at = as_index(part.start.gpa());
        let no_table = || panic!("broken invariant: too few tables were reserved for a conversion");
        if let Found::Slot(slot) = find::<F, M>(machine, self.root, at, Level::L3)
            && let Decoded::Leaf(..) = slot.decode::<F>()
        {
            split::<F, M>(&slot, frames, tables).unwrap_or_else(no_table);
        }
        let Found::Slot(slot) = find::<F, M>(machine, self.root, at, Level::L2) else {
            panic!("broken invariant: no table leads to guest frame {}", part.start)
        };
        let decoded = slot.decode::<F>();
        if matches!(decoded, Decoded::Leaf(..)) && !part.is_whole() {
            self.splits += 1;
        }
        match decoded {
            Decoded::Table(table) => Entries::Small(table),
            _ if part.is_whole() => Entries::One(slot),
            Decoded::Leaf(..) if self.kind.splits() => Entries::Small(self.split_to_execute(frames, &slot)),
            _ => {
                self.divided = true;
                let from = if self.kind.splits() {
                    &mut self.spare
                } else {
                    tables
                };
                Entries::Small(split::<F, M>(&slot, frames, from).unwrap_or_else(no_table))
            }
        }
    }

    /// Makes the pages of the part absent, all of them, and notes why. What was accepted before can be reached until the next flush.
    pub(in crate::guest) fn mark<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        part: Part,
        mark: Mark,
        tables: &mut TableList,
    ) {
        with_format!(self.kind, F => match self.entries::<F, M>(machine, frames, part, tables) {
            Entries::One(slot) => {
                mark_one::<F, M>(&slot, mark);
            }
            Entries::Small(table) => {
                let small = |gfn: Gfn| Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1);
                let accepted = part.gfns().filter(|gfn| mark_one::<F, M>(&small(*gfn), mark)).count();
                frames.add_canonical(table, -(accepted as i32));
            }
        });
    }

    /// Makes the pages of the part accepted, which are marked `from`: absent before, so nothing is owed. When that completes 2 MiB, they are
    /// mapped by one leaf again; the table waits for the guest's next flush.
    pub(in crate::guest) fn accept<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        part: Part,
        tables: &mut TableList,
        from: Mark,
    ) -> Promotion {
        let (kind, large) = (self.kind, part.start.align_down(Level::L2.frames()));
        with_format!(kind, F => match self.entries::<F, M>(machine, frames, part, tables) {
            Entries::One(slot) => {
                if kind.splits() {
                    fill_one::<Ept, M>(&slot, from, EptAttributes::GUEST_DATA);
                } else {
                    fill_one::<F, M>(&slot, from, <F as SecondStageFormat>::GUEST_RAM);
                }
                Promotion::NotDue
            }
            Entries::Small(table) => {
                for gfn in part.gfns() {
                    let slot = Slot::of(machine, table, as_index(gfn.gpa()).index(1), Level::L1);
                    fill_one::<F, M>(&slot, from, <F as SecondStageFormat>::GUEST_RAM);
                }
                let complete = frames.add_canonical(table, part.frames as i32) == Some(ENTRIES as u16);
                if complete { self.promote::<F, M>(machine, frames, large) } else { Promotion::NotDue }
            }
        })
    }

    fn promote<F: Format, M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        at: Gfn,
    ) -> Promotion {
        if self.kind.splits() {
            return Promotion::Executable;
        }
        let Found::Slot(slot) = find::<F, M>(machine, self.root, as_index(at.gpa()), Level::L2) else {
            return Promotion::NotDue;
        };
        match slot.merge::<F>() {
            Ok(table) => {
                self.unlinked.push(frames, table);
                Promotion::Done
            }
            Err(reason) => Promotion::Blocked(reason),
        }
    }

    /// 2M leaves that were split since the last call.
    pub(in crate::guest) fn take_splits(&mut self) -> u64 {
        core::mem::take(&mut self.splits)
    }

    /// Every CPU has dropped the guest's translations: tables that were merged away until then can be freed.
    pub(in crate::guest) fn flushed(&mut self, frames: &mut FrameTable<'_>) {
        let unlinked = core::mem::take(&mut self.unlinked);
        self.released.append(frames, unlinked);
    }

    /// Frees some of them, 2 MiB of tables at most.
    pub(in crate::guest) fn release_some(&mut self, frames: &mut FrameTable<'_>) {
        frames.free_some_tables(&mut self.released, ENTRIES as u64);
    }
}

/// Replaces a leaf, a mark, or nothing by a table that says the same.
fn split<F: Format, M: Machine>(
    slot: &Slot<'_, M>,
    frames: &mut FrameTable<'_>,
    tables: &mut TableList,
) -> Option<Pfn> {
    let table = tables.pop(frames)?;
    match (slot.decode::<F>(), slot.marked()) {
        (Decoded::Leaf(pfn, attributes), _) => slot.split::<F>(frames, (pfn, attributes), table),
        (Decoded::Absent, Some(mark)) => slot.split_mark::<F>(frames, mark, table),
        (Decoded::Absent, None) => {
            let table = table.link(frames, 0);
            slot.link::<F>(table);
            Some(table)
        }
        (Decoded::Table(_), _) => None,
    }
}

/// Marks one entry; whether it was a leaf.
fn mark_one<F: Format, M: Machine>(slot: &Slot<'_, M>, mark: Mark) -> bool {
    match (slot.decode::<F>(), slot.marked()) {
        (Decoded::Leaf(pfn, _), _) => {
            slot.mark(mark, pfn);
            true
        }
        (_, Some((_, pfn))) => {
            slot.mark(mark, pfn);
            false
        }
        _ => panic!("broken invariant: a page that was checked has no memory"),
    }
}

/// Makes one entry that is marked like this a leaf.
fn fill_one<F: Format, M: Machine>(slot: &Slot<'_, M>, from: Mark, attributes: F::Attributes) {
    let filled =
        matches!(slot.marked(), Some((mark, pfn)) if mark == from && slot.fill::<F>(pfn, attributes));
    assert!(
        filled,
        "broken invariant: a page that was checked is not {from:?} any more"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No change depends on it, as each stays within 2 MiB: so it is looked at here.
    #[test]
    fn what_is_left_of_an_entry_ends_where_the_entry_ends() {
        let left = |level, gfn| {
            let state = PageState::Accepted;
            let pfn = None;
            Looked { state, pfn, level }.left(Gfn::new(gfn))
        };
        assert_eq!(left(Level::L1, 0x1_2345), 1);
        assert_eq!(left(Level::L2, 0x1_2200), 512);
        assert_eq!(left(Level::L2, 0x1_2205), 507);
        assert_eq!(left(Level::L3, 0x7_ffff), 1);
    }
}
