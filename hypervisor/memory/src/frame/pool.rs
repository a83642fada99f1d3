//! Small extents of hidden memory: a buddy inside each block that has some. A *pooled* block is hidden as a whole; a mixed block, in
//! which host memory lives too, has single runs hidden when no whole block was free. Everything free in here is zeroed.
//!
//! Only records change here, no mapping.

use crate::address::{Pfn, REGION_ORDER};

use super::buddy::{Buddy, TOP_ORDER};
use super::extent::{Clean, Extent};
use super::extent_list::ExtentList;
use super::records::{Block, BlockIndex, FrameTable, PoolUnits};
use super::state::{FrameState, FrameWord, RunKind};

/// A block in which no hidden frame is used any more.
#[derive(Debug)]
#[must_use = "memory that is dropped is lost"]
pub(crate) enum EmptyBlock {
    /// A pooled block: a region again.
    Region(Extent<Clean>),
    /// The hidden runs of a mixed block.
    Pieces(ExtentList<Clean>),
}

impl EmptyBlock {
    /// Its memory.
    pub(crate) fn into_list(self, frames: &mut FrameTable<'_>) -> ExtentList<Clean> {
        match self {
            Self::Region(region) => {
                let mut list = ExtentList::new();
                list.push(frames, region);
                list
            }
            Self::Pieces(pieces) => pieces,
        }
    }
}

impl FrameTable<'_> {
    /// Free hidden frames in blocks that are partly used.
    pub fn pool_free_frames(&self) -> u64 {
        self.pool_free_frames
    }

    /// Takes a small extent from the fullest block that has one. A region is none: where all of a mixed block happens to be hidden and
    /// free, that is in pieces, with small entries in the direct map.
    pub(crate) fn pool_take(&mut self, order: u8) -> Option<Extent<Clean>> {
        if order >= REGION_ORDER {
            return None;
        }
        let index = self.pool_blocks.fitting(order)?;
        self.pool_take_from(index, order)
    }

    /// Makes a region a pooled block and takes a small extent from it; the region itself when the order is not below a region's.
    pub(crate) fn pool_open(&mut self, region: Extent<Clean>, order: u8) -> Extent<Clean> {
        if order >= REGION_ORDER || region.order() != REGION_ORDER {
            return region;
        }
        let index = self.pool_begin(region.pfn());
        self.change_runs(RunKind::Pool, index, |words, runs| {
            words.fill(FrameWord::TAIL);
            runs.release(&mut PoolUnits(words), 0, TOP_ORDER)
        });
        self.pool_free_frames += 512;
        self.pool_unused_blocks += 1;
        match self.pool_take_from(index, order) {
            Some(extent) => extent,
            None => panic!("broken invariant: a whole block has no run of order {order}"),
        }
    }

    /// Makes a hidden region a pooled block, of which nothing is free.
    pub(super) fn pool_begin(&mut self, region: Pfn) -> BlockIndex {
        let index = self.known_block(region);
        let block = self.block_mut(index);
        block.word = FrameWord::new(FrameState::Pooled);
        block.hidden_frames = 512;
        block.pool_runs = Buddy::EMPTY;
        index
    }

    /// Adds a piece of a mixed block to the block's free hidden runs.
    pub(crate) fn pool_add(&mut self, piece: Extent<Clean>) {
        let (pfn, order) = (piece.pfn(), piece.order());
        let index = self.known_block(pfn);
        self.change_runs(RunKind::Pool, index, |words, runs| {
            let unit = (pfn.get() % 512) as u16;
            words[usize::from(unit)] = FrameWord::TAIL;
            runs.release(&mut PoolUnits(words), unit, order)
        });
        self.pool_free_frames += piece.frames();
        // The piece was hidden and not free, so before there was something in use.
        self.pool_unused_blocks += u32::from(is_unused(self.block(index)));
    }

    fn pool_take_from(&mut self, index: BlockIndex, order: u8) -> Option<Extent<Clean>> {
        let unused = is_unused(self.block(index));
        let unit = self.change_runs(RunKind::Pool, index, |words, runs| {
            let unit = runs.allocate(&mut PoolUnits(words), order)?;
            words[usize::from(unit)] = FrameWord::new(FrameState::Hidden { order });
            Some(unit)
        })?;
        self.pool_free_frames -= 1 << order;
        self.pool_unused_blocks -= u32::from(unused);
        Some(Extent::found(self.block_pfn(index).add(u64::from(unit)), order))
    }

    /// Puts a small extent back. If it was the last one used of its block, the block's hidden memory comes back.
    pub(crate) fn pool_put(&mut self, extent: Extent<Clean>) -> Option<EmptyBlock> {
        let index = self.known_block(extent.pfn());
        self.pool_add(extent);
        self.pool_empty(index)
    }

    /// Takes the hidden memory of a block of which nothing is used: what was hidden together with what somebody asked for, and stayed over.
    pub(crate) fn pool_unused(&mut self) -> Option<EmptyBlock> {
        if self.pool_unused_blocks == 0 {
            return None;
        }
        match self.find_listed(RunKind::Pool, is_unused) {
            Some(index) => self.pool_empty(index),
            None => panic!("broken invariant: blocks with unused pieces are counted, and there are none"),
        }
    }

    /// Takes a block's hidden memory if all of it is free.
    fn pool_empty(&mut self, index: BlockIndex) -> Option<EmptyBlock> {
        let block = self.block(index);
        if !is_unused(block) {
            return None;
        }
        let free = block.pool_runs.free_units();
        self.pool_unused_blocks -= 1;
        self.unlist_block(RunKind::Pool, index);
        self.pool_free_frames -= u64::from(free);
        let block = self.block_mut(index);
        if block.word.state() == FrameState::Pooled {
            block.pool_runs = Buddy::EMPTY;
            block.hidden_frames = 0;
            let order = REGION_ORDER;
            block.word = FrameWord::new(FrameState::Hidden { order });
            return Some(EmptyBlock::Region(Extent::found(self.block_pfn(index), order)));
        }
        let start = self.block_pfn(index);
        let mut pieces = ExtentList::new();
        loop {
            let (words, runs) = self.runs_of(index, RunKind::Pool);
            // Below a region, even if all of the block was hidden piece by piece: its direct-map entries are small ones.
            let run = runs.largest().map(|order| order.min(REGION_ORDER - 1));
            let taken = run.and_then(|order| Some((order, runs.allocate(&mut PoolUnits(words), order)?)));
            let Some((order, unit)) = taken else {
                return Some(EmptyBlock::Pieces(pieces));
            };
            words[usize::from(unit)] = FrameWord::new(FrameState::Hidden { order });
            pieces.push(self, Extent::found(start.add(u64::from(unit)), order));
        }
    }

    /// Counts frames of a mixed block that leave the direct map, or come back.
    pub(crate) fn add_hidden_frames(&mut self, pfn: Pfn, change: i16) {
        let index = self.known_block(pfn);
        let block = self.block_mut(index);
        let before = is_unused(block);
        block.hidden_frames = block.hidden_frames.saturating_add_signed(change);
        let after = is_unused(block);
        self.pool_unused_blocks += u32::from(after);
        self.pool_unused_blocks -= u32::from(before);
    }
}

/// Whether a block has hidden frames and all of them are free.
fn is_unused(block: &Block) -> bool {
    block.hidden_frames > 0 && block.pool_runs.free_units() == block.hidden_frames
}
