//! Frames of translation tables, and of pages that guests share: owned while no table leads to them, and lists of them, threaded through
//! their frame words.

use crate::address::{Gfn, Pfn, REGION_ORDER};

use super::allocator::{HostFrames, OutOfMemory};
use super::records::FrameTable;
use super::state::{FrameState, GuestId};

/// A frame for a translation table, owned; not linked into any table.
#[derive(Debug)]
#[must_use = "a table frame that is dropped is lost"]
pub struct TableFrame(Pfn);

impl TableFrame {
    /// The frame.
    pub fn pfn(&self) -> Pfn {
        self.0
    }

    /// Puts the frame to use as a table; the tree that links it owns it from now on.
    pub(crate) fn link(self, frames: &mut FrameTable<'_>, canonical: u16) -> Pfn {
        frames.set_frame(self.0, FrameState::Table { canonical });
        self.0
    }

    /// Puts the frame to use as a page that a guest shares with the host, instead; the guest's tables own it from now on.
    pub(crate) fn share(self, frames: &mut FrameTable<'_>, owner: GuestId, gfn: Gfn) -> Pfn {
        frames.set_frame(self.0, FrameState::Shared { owner, gfn });
        self.0
    }

    /// Takes back the frame of a table that the caller has just unlinked.
    pub(crate) fn unlinked(pfn: Pfn) -> Self {
        Self(pfn)
    }
}

/// A last-in-first-out list of table frames, threaded through their frame words. Not through the frames: hardware may still
/// walk an unlinked table on speculation, and whatever stands in it would be taken for an entry.
#[derive(Debug, Default)]
#[must_use = "table frames on a list that is dropped are lost"]
pub struct TableList {
    /// The one on top, and the one at the bottom: so another list goes on top of all in one step.
    first: Option<Pfn>,
    last: Option<Pfn>,
    len: u64,
}

impl TableList {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            first: None,
            last: None,
            len: 0,
        }
    }

    /// Frames on the list.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a frame.
    pub fn push(&mut self, frames: &mut FrameTable<'_>, table: TableFrame) {
        frames.set_frame(table.0, FrameState::TableListed { next: self.first });
        self.first = Some(table.0);
        self.last = self.last.or(self.first);
        self.len += 1;
    }

    /// Takes a frame.
    pub fn pop(&mut self, frames: &FrameTable<'_>) -> Option<TableFrame> {
        let first = self.first?;
        self.first = match frames.state(first) {
            FrameState::TableListed { next } => next,
            _ => None,
        };
        if self.first.is_none() {
            self.last = None;
        }
        self.len -= 1;
        Some(TableFrame(first))
    }

    /// Adds all frames of `other`, however many they are, by one link.
    pub fn append(&mut self, frames: &mut FrameTable<'_>, other: Self) {
        let Some(bottom) = other.last else {
            return;
        };
        frames.set_frame(bottom, FrameState::TableListed { next: self.first });
        self.first = other.first;
        self.last = self.last.or(other.last);
        self.len += other.len;
    }
}

impl FrameTable<'_> {
    /// Takes a frame for a translation table. Its contents are arbitrary until `zero` has cleared it.
    ///
    /// # Errors
    /// When no frame is free.
    pub(crate) fn allocate_table(&mut self, zero: impl FnOnce(Pfn)) -> Result<TableFrame, OutOfMemory> {
        let pfn = self.allocate(0)?.into_pfn();
        zero(pfn);
        Ok(TableFrame(pfn))
    }

    /// Takes all frames of a block, the first on top of the list. `None` when no whole block is free.
    pub(crate) fn allocate_block_of_frames(&mut self) -> Option<(Pfn, TableList)> {
        let (first, _) = self.take_block()?;
        let mut list = TableList::new();
        for frame in (0..1 << REGION_ORDER).rev() {
            list.push(self, TableFrame(first.add(frame)));
        }
        Some((first, list))
    }

    /// Gives a table frame back. Only a frame that no CPU can still walk may come here.
    pub(crate) fn free_table(&mut self, table: TableFrame) {
        self.free(HostFrames::from_pfn(table.0, 0));
    }

    /// Changes the count of canonical entries of a table that a split made; the new count. `None`, and nothing changed, for a table of
    /// the boot: that is never merged.
    pub(crate) fn add_canonical(&mut self, table: Pfn, change: i32) -> Option<u16> {
        let FrameState::Table { canonical } = self.state(table) else {
            return None;
        };
        let canonical = canonical.saturating_add_signed(change as i16);
        self.set_frame(table, FrameState::Table { canonical });
        Some(canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use std::collections::BTreeSet;

    #[test]
    fn a_list_knows_how_many_it_has_whatever_came_and_went() {
        let (_, mut memory, _) = Fake::boot();
        let frames = &mut memory.frames;
        let free = frames.free_frames();
        let mut taken = BTreeSet::new();
        let mut lists = [0_u64, 1, 4, 0, 3].map(|count| {
            let mut list = TableList::new();
            for number in 0..count {
                assert_eq!((list.len(), list.is_empty()), (number, number == 0));
                let table = frames.allocate_table(|_| {}).unwrap();
                taken.insert(table.pfn());
                list.push(frames, table);
            }
            list
        });
        // One is emptied and used again.
        for left in (0..3).rev() {
            let last = lists[4].pop(frames).unwrap();
            assert_eq!(lists[4].len(), left);
            lists[0].push(frames, last);
        }
        assert!(lists[4].pop(frames).is_none() && lists[4].is_empty());
        let (mut all, mut most) = (TableList::new(), 0);
        for list in lists {
            most += list.len();
            all.append(frames, list);
            assert_eq!(all.len(), most);
        }
        assert_eq!(most, 8);
        while let Some(table) = all.pop(frames) {
            most -= 1;
            assert_eq!(all.len(), most);
            assert!(taken.remove(&table.pfn()), "{} twice", table.pfn().hpa());
            frames.free_table(table);
        }
        assert!(taken.is_empty());
        assert_eq!(frames.free_frames(), free);
    }
}
