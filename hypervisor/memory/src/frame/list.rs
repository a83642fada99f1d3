//! Lists that live in the records: regions through their block records, table frames through their frame words. A list
//! is a value that owns its members, needs no memory, and says by its type what state they are in.

use core::marker::PhantomData;

use crate::address::{Pfn, REGION_ORDER};

use super::allocator::{HostFrames, OutOfMemory};
use super::records::{BlockIndex, FrameTable, GigablockIndex};
use super::state::{FrameState, FrameWord, GuestId};

/// The states that a region passes through. Each step consumes the region in one state and yields it in the next.
///
/// ```text
///  host memory ─carve→ Carved ─hide→ Unmapped ─flush acknowledged→ Dirty ─scrub→ Clean ─assign→ Private
///       ↑                                                            ↑             │                │
///       └──────────────────────── restore, merge, free ──────────────│─────────────┘                │
///                                                                    └───── revoke, guest flushed ──┘
/// ```
pub trait RegionState {}

/// Taken from the host allocator, still in the direct map.
#[derive(Debug)]
pub enum Carved {}
/// Its direct-map entry is cleared, but translations may be cached: inside a flush batch.
#[derive(Debug)]
pub enum Unmapped {}
/// Hidden; its contents are somebody's.
#[derive(Debug)]
pub enum Dirty {}
/// Hidden and zeroed since anyone used it.
#[derive(Debug)]
pub enum Clean {}
/// A guest's, at one guest-physical address.
#[derive(Debug)]
pub enum Private {}

impl RegionState for Carved {}
impl RegionState for Unmapped {}
impl RegionState for Dirty {}
impl RegionState for Clean {}
impl RegionState for Private {}

/// An aligned 2 MiB of RAM in state `S`, owned.
///
/// Dropping one loses 2 MiB but exposes nothing: a region leaves its state only through the methods that consume it.
#[derive(Debug)]
#[must_use = "a region that is dropped is lost"]
pub struct Region<S: RegionState> {
    block: BlockIndex,
    pfn: Pfn,
    state: PhantomData<S>,
}

impl<S: RegionState> Region<S> {
    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The gigablock around it.
    pub(crate) fn gigablock(&self) -> GigablockIndex {
        self.block.gigablock()
    }

    /// The same region with another record. Private: each step below says which state it leads to.
    fn step<T: RegionState>(self, frames: &mut FrameTable<'_>, record: FrameState) -> Region<T> {
        frames.block_mut(self.block).word = FrameWord::new(record);
        Region {
            block: self.block,
            pfn: self.pfn,
            state: PhantomData,
        }
    }
}

impl Region<Dirty> {
    /// The region was overwritten with zeros.
    pub(crate) fn scrubbed(self) -> Region<Clean> {
        // The record stays `Hidden`: it says nothing of the contents.
        Region {
            block: self.block,
            pfn: self.pfn,
            state: PhantomData,
        }
    }
}

impl Region<Private> {
    /// The guest's translations to it are gone from its tables and from every CPU.
    pub(crate) fn revoked(self, frames: &mut FrameTable<'_>) -> Region<Dirty> {
        self.step(frames, FrameState::Hidden)
    }
}

impl Region<Clean> {
    /// Makes the region a guest's, at one guest-physical address.
    pub(crate) fn assign(
        self,
        frames: &mut FrameTable<'_>,
        owner: GuestId,
        gfn: crate::address::Gfn,
    ) -> Region<Private> {
        self.step(frames, FrameState::Private { owner, gfn })
    }
}

/// Regions on their way back to the allocator, as long as they are neighbours: one step of the buddy for many.
#[derive(Debug, Default)]
pub(crate) struct FreeRun(Option<(BlockIndex, u16)>);

impl FreeRun {
    /// Makes a region free host memory. Its direct-map entry must be back: only `DirectMap::restore` calls this.
    pub(crate) fn add(&mut self, frames: &mut FrameTable<'_>, region: Region<Clean>) {
        frames.block_mut(region.block).word = FrameWord::new(FrameState::Tail);
        self.0 = match self.0.take() {
            Some((first, length)) if first.unit() + length < 512 && first.plus(length) == region.block => {
                Some((first, length + 1))
            }
            other => {
                Self(other).end(frames);
                Some((region.block, 1))
            }
        };
    }

    /// Frees what has been added.
    pub(crate) fn end(self, frames: &mut FrameTable<'_>) {
        let Some((mut first, mut left)) = self.0 else {
            return;
        };
        while left > 0 {
            // The largest aligned run that is left.
            let run = (first.unit() | 512).trailing_zeros().min(left.ilog2());
            frames.release_block_run(first, run as u8);
            left -= 1 << run;
            if left > 0 {
                first = first.plus(1 << run);
            }
        }
    }
}

impl Region<Carved> {
    /// A region from a block that was just taken from the allocator.
    pub(crate) fn new(frames: &mut FrameTable<'_>, block: BlockIndex) -> Self {
        frames.block_mut(block).word = FrameWord::new(FrameState::Carved);
        Self {
            block,
            pfn: frames.block_pfn(block),
            state: PhantomData,
        }
    }

    /// Gives back a region that was never hidden.
    pub(crate) fn uncarve(self, frames: &mut FrameTable<'_>) {
        frames.block_mut(self.block).word = FrameWord::new(FrameState::Tail);
        frames.release_block_run(self.block, 0);
    }
}

/// A first-in-first-out list of regions in state `S`.
#[derive(Debug)]
#[must_use = "regions on a list that is dropped are lost"]
pub struct RegionList<S: RegionState> {
    ends: Option<(BlockIndex, BlockIndex)>,
    len: u64,
    state: PhantomData<S>,
}

impl<S: RegionState> RegionList<S> {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            ends: None,
            len: 0,
            state: PhantomData,
        }
    }

    /// Regions on the list.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a region at the end.
    pub fn push(&mut self, frames: &mut FrameTable<'_>, region: Region<S>) {
        frames.block_mut(region.block).next = BlockIndex::to_link(None);
        self.ends = match self.ends {
            None => Some((region.block, region.block)),
            Some((first, last)) => {
                frames.block_mut(last).next = BlockIndex::to_link(Some(region.block));
                Some((first, region.block))
            }
        };
        self.len += 1;
    }

    /// Takes the first region.
    pub fn pop(&mut self, frames: &FrameTable<'_>) -> Option<Region<S>> {
        let (first, last) = self.ends?;
        self.ends = BlockIndex::from_link(frames.block(first).next).map(|next| (next, last));
        self.len -= 1;
        Some(Region {
            block: first,
            pfn: frames.block_pfn(first),
            state: PhantomData,
        })
    }

    /// Takes the first region if it lies in this gigablock.
    pub(crate) fn pop_in(&mut self, frames: &FrameTable<'_>, gigablock: GigablockIndex) -> Option<Region<S>> {
        let (first, _) = self.ends?;
        if first.gigablock() == gigablock {
            self.pop(frames)
        } else {
            None
        }
    }

    /// The first frames of the regions, in order.
    pub fn pfns<'a>(&self, frames: &'a FrameTable<'_>) -> impl Iterator<Item = Pfn> + use<'a, S> {
        let mut next = self.ends.map(|(first, _)| first);
        core::iter::from_fn(move || {
            let block = next?;
            next = BlockIndex::from_link(frames.block(block).next);
            Some(frames.block_pfn(block))
        })
    }

    /// Adds all regions of `other` at the end.
    pub fn append(&mut self, frames: &mut FrameTable<'_>, other: Self) {
        let Some((other_first, other_last)) = other.ends else {
            return;
        };
        self.ends = match self.ends {
            None => Some((other_first, other_last)),
            Some((first, last)) => {
                frames.block_mut(last).next = BlockIndex::to_link(Some(other_first));
                Some((first, other_last))
            }
        };
        self.len += other.len;
    }
}

/// A place in a list of private regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor(Option<BlockIndex>);

/// A private region, whose it is, and where: what its record, the reverse map, says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) pfn: Pfn,
    pub(crate) owner: GuestId,
    pub(crate) gfn: crate::address::Gfn,
}

impl RegionList<Private> {
    /// The first region's place.
    pub(crate) fn start(&self) -> Cursor {
        Cursor(self.ends.map(|(first, _)| first))
    }

    /// The region at the cursor, which moves on.
    pub(crate) fn next(&self, frames: &FrameTable<'_>, cursor: &mut Cursor) -> Option<Placed> {
        let block = cursor.0?;
        let record = frames.block(block);
        cursor.0 = BlockIndex::from_link(record.next);
        match record.word.state() {
            FrameState::Private { owner, gfn } => Some(Placed {
                pfn: frames.block_pfn(block),
                owner,
                gfn,
            }),
            _ => None,
        }
    }
}

impl RegionList<Carved> {
    /// All regions' direct-map entries are cleared, each by a call of `clear` with its first frame.
    pub(crate) fn unmapped(
        self,
        frames: &mut FrameTable<'_>,
        mut clear: impl FnMut(&mut FrameTable<'_>, Pfn),
    ) -> RegionList<Unmapped> {
        let mut next = self.ends.map(|(first, _)| first);
        while let Some(block) = next {
            let pfn = frames.block_pfn(block);
            clear(frames, pfn);
            let record = frames.block_mut(block);
            record.word = FrameWord::new(FrameState::Unmapped);
            next = BlockIndex::from_link(record.next);
        }
        RegionList {
            ends: self.ends,
            len: self.len,
            state: PhantomData,
        }
    }
}

impl RegionList<Unmapped> {
    /// The flush of the batch that these regions travelled in was acknowledged: they are hidden.
    pub(crate) fn acknowledged(self, frames: &mut FrameTable<'_>) -> RegionList<Dirty> {
        let mut next = self.ends.map(|(first, _)| first);
        while let Some(block) = next {
            let record = frames.block_mut(block);
            record.word = FrameWord::new(FrameState::Hidden);
            next = BlockIndex::from_link(record.next);
        }
        RegionList {
            ends: self.ends,
            len: self.len,
            state: PhantomData,
        }
    }
}

impl<S: RegionState> Default for RegionList<S> {
    fn default() -> Self {
        Self::new()
    }
}

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
    first: Option<Pfn>,
    len: u64,
}

impl TableList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { first: None, len: 0 }
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
        self.len += 1;
    }

    /// Takes a frame.
    pub fn pop(&mut self, frames: &FrameTable<'_>) -> Option<TableFrame> {
        let first = self.first?;
        self.first = match frames.state(first) {
            FrameState::TableListed { next } => next,
            _ => None,
        };
        self.len -= 1;
        Some(TableFrame(first))
    }

    /// Adds all frames of `other`.
    pub fn append(&mut self, frames: &mut FrameTable<'_>, mut other: Self) {
        while let Some(table) = other.pop(frames) {
            self.push(frames, table);
        }
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

    /// Gives a table frame back. Only a frame that no CPU can still walk may come here.
    pub(crate) fn free_table(&mut self, table: TableFrame) {
        self.free(HostFrames::from_pfn(table.0, 0));
    }

    /// Changes the count of canonical entries of a table in use; the new count.
    pub(crate) fn add_canonical(&mut self, table: Pfn, change: i32) -> u16 {
        let before = match self.state(table) {
            FrameState::Table { canonical } => canonical,
            _ => 0,
        };
        let canonical = before.saturating_add_signed(change as i16);
        self.set_frame(table, FrameState::Table { canonical });
        canonical
    }
}

// A region's frames are 2^9.
const _: () = assert!(REGION_ORDER == 9);
