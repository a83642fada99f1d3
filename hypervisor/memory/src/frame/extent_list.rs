//! Lists of extents, threaded through the frame records: from 2 MiB on through block records, below through the extents' own words. A
//! list is a value that owns its members, needs no memory, and says by its type what state they are in.

use core::marker::PhantomData;

use crate::address::{GIGABLOCK_ORDER, Pfn};

use super::extent::{Carved, Dirty, Extent, ExtentState, Unmapped};
use super::records::{BlockIndex, FrameTable, GigablockIndex};
use super::state::FrameWord;

/// A list of extents in state `S`: first in, first out, but whole gigablocks before all others, and extents of regions before smaller
/// ones.
#[derive(Debug)]
#[must_use = "extents on a list that is dropped are lost"]
pub struct ExtentList<S: ExtentState> {
    /// First and last extent of whole regions.
    regions: Option<(BlockIndex, BlockIndex)>,
    /// First and last extent below 2 MiB.
    pieces: Option<(Pfn, Pfn)>,
    frames: u64,
    state: PhantomData<S>,
}

/// Where a list is read: a member and how to find the next.
#[derive(Clone, Copy, Debug)]
enum Place {
    Regions(BlockIndex),
    Piece(Pfn),
}

impl<S: ExtentState> ExtentList<S> {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            regions: None,
            pieces: None,
            frames: 0,
            state: PhantomData,
        }
    }

    /// Frames of all extents on the list.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds an extent.
    ///
    /// # Panics
    /// For a private extent below 2 MiB: its word has no room for a link.
    pub fn push(&mut self, frames: &mut FrameTable<'_>, extent: Extent<S>) {
        self.frames += extent.frames();
        if !extent.is_regions() {
            return self.push_piece(frames, extent.pfn());
        }
        let block = frames.known_block(extent.pfn());
        let old = self.regions;
        let (first, last) = match old {
            None => (block, block),
            Some((first, last)) if extent.order() == GIGABLOCK_ORDER => {
                frames.block_mut(block).host.next = BlockIndex::to_link(Some(first));
                self.regions = Some((block, last));
                return;
            }
            Some((first, last)) => {
                frames.block_mut(last).host.next = BlockIndex::to_link(Some(block));
                (first, block)
            }
        };
        frames.block_mut(block).host.next = BlockIndex::to_link(None);
        self.regions = Some((first, last));
    }

    fn push_piece(&mut self, frames: &mut FrameTable<'_>, pfn: Pfn) {
        assert!(
            S::record(0).is_some(),
            "broken invariant: a private extent below 2 MiB has no room for a link"
        );
        frames.set_next_piece(pfn, None);
        self.pieces = match self.pieces {
            None => Some((pfn, pfn)),
            Some((first, last)) => {
                frames.set_next_piece(last, Some(pfn));
                Some((first, pfn))
            }
        };
    }

    /// Takes the first extent.
    pub fn pop(&mut self, frames: &FrameTable<'_>) -> Option<Extent<S>> {
        let place = self.first()?;
        let next = self.after(frames, place);
        match (place, next) {
            (Place::Regions(_), Some(Place::Regions(next))) => {
                self.regions = self.regions.map(|(_, last)| (next, last));
            }
            (Place::Regions(_), _) => self.regions = None,
            (Place::Piece(_), Some(Place::Piece(next))) => {
                self.pieces = self.pieces.map(|(_, last)| (next, last));
            }
            (Place::Piece(_), _) => self.pieces = None,
        }
        let (pfn, order) = frames.at(place);
        let extent = Extent::found(pfn, order);
        self.frames -= extent.frames();
        Some(extent)
    }

    /// First frame and order of the first extent.
    pub(crate) fn peek(&self, frames: &FrameTable<'_>) -> Option<(Pfn, u8)> {
        self.first().map(|place| frames.at(place))
    }

    /// Moves the first extent to the end of another list. Lists that are emptied like this keep their order.
    pub(crate) fn move_first(&mut self, frames: &mut FrameTable<'_>, to: &mut Self) {
        if let Some(extent) = self.pop(frames) {
            let mut one = Self::new();
            one.push(frames, extent);
            to.append(frames, one);
        }
    }

    /// Takes the first extent of whole regions.
    pub(crate) fn pop_regions(&mut self, frames: &FrameTable<'_>) -> Option<Extent<S>> {
        self.regions.and_then(|_| self.pop(frames))
    }

    /// Takes the first extent below 2 MiB.
    pub(crate) fn pop_piece(&mut self, frames: &FrameTable<'_>) -> Option<Extent<S>> {
        let regions = self.regions.take();
        let piece = self.pop(frames);
        self.regions = regions;
        piece
    }

    /// Takes the first extent if it is made of whole regions and lies in this gigablock.
    pub(crate) fn pop_in(&mut self, frames: &FrameTable<'_>, gigablock: GigablockIndex) -> Option<Extent<S>> {
        let (first, _) = self.regions?;
        if first.gigablock() == gigablock {
            self.pop(frames)
        } else {
            None
        }
    }

    /// First frame and order of each extent, in order.
    pub fn extents<'a>(&self, frames: &'a FrameTable<'_>) -> impl Iterator<Item = (Pfn, u8)> + use<'a, S> {
        let ends = Self {
            regions: self.regions,
            pieces: self.pieces,
            frames: self.frames,
            state: PhantomData,
        };
        let mut next = ends.first();
        core::iter::from_fn(move || {
            let place = next?;
            next = ends.after(frames, place);
            Some(frames.at(place))
        })
    }

    /// Adds all extents of `other` at the end.
    pub fn append(&mut self, frames: &mut FrameTable<'_>, other: Self) {
        self.frames += other.frames;
        self.regions = match (self.regions, other.regions) {
            (Some((first, last)), Some((other_first, other_last))) => {
                frames.block_mut(last).host.next = BlockIndex::to_link(Some(other_first));
                Some((first, other_last))
            }
            (mine, others) => mine.or(others),
        };
        self.pieces = match (self.pieces, other.pieces) {
            (Some((first, last)), Some((other_first, other_last))) => {
                frames.set_next_piece(last, Some(other_first));
                Some((first, other_last))
            }
            (mine, others) => mine.or(others),
        };
    }

    fn first(&self) -> Option<Place> {
        let regions = self.regions.map(|(first, _)| Place::Regions(first));
        regions.or_else(|| self.first_piece())
    }

    fn first_piece(&self) -> Option<Place> {
        self.pieces.map(|(first, _)| Place::Piece(first))
    }

    /// What comes after a member.
    fn after(&self, frames: &FrameTable<'_>, place: Place) -> Option<Place> {
        match place {
            Place::Regions(block) => BlockIndex::from_link(frames.block(block).host.next)
                .map(Place::Regions)
                .or_else(|| self.first_piece()),
            Place::Piece(pfn) => frames.head(pfn, 0).next().map(Place::Piece),
        }
    }

    /// All extents enter another state, each after a call of `visit` with its first frame and order.
    fn become_all<T: ExtentState>(
        self,
        frames: &mut FrameTable<'_>,
        mut visit: impl FnMut(&mut FrameTable<'_>, Pfn, u8),
    ) -> ExtentList<T> {
        let mut next = self.first();
        while let Some(place) = next {
            next = self.after(frames, place);
            let (pfn, order) = frames.at(place);
            visit(frames, pfn, order);
            let Some(record) = T::record(order).map(FrameWord::new) else {
                continue;
            };
            *frames.head_mut(pfn, order) = match (place, next) {
                (Place::Piece(_), Some(Place::Piece(next))) => record.with_next(Some(next)),
                _ => record,
            };
        }
        ExtentList {
            regions: self.regions,
            pieces: self.pieces,
            frames: self.frames,
            state: PhantomData,
        }
    }
}

impl<S: ExtentState> Default for ExtentList<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameTable<'_> {
    fn set_next_piece(&mut self, pfn: Pfn, next: Option<Pfn>) {
        let head = self.head_mut(pfn, 0);
        *head = head.with_next(next);
    }

    /// First frame and order of the extent at a place.
    fn at(&self, place: Place) -> (Pfn, u8) {
        let (pfn, word) = match place {
            Place::Regions(block) => (self.block_pfn(block), self.block(block).word),
            Place::Piece(pfn) => (pfn, self.head(pfn, 0)),
        };
        match word.state().extent_order() {
            Some(order) => (pfn, order),
            None => panic!("broken invariant: no extent begins at {}", pfn.hpa()),
        }
    }
}

impl ExtentList<Carved> {
    /// All extents' direct-map entries are cleared, each by a call of `clear` with its first frame and order.
    pub(crate) fn unmapped(
        self,
        frames: &mut FrameTable<'_>,
        clear: impl FnMut(&mut FrameTable<'_>, Pfn, u8),
    ) -> ExtentList<Unmapped> {
        self.become_all(frames, clear)
    }
}

impl ExtentList<Unmapped> {
    /// The flush of the batch that these extents travelled in was acknowledged: they are hidden.
    pub(crate) fn acknowledged(self, frames: &mut FrameTable<'_>) -> ExtentList<Dirty> {
        self.become_all(frames, |_, _, _| {})
    }
}
