//! Blocks of which some frames are free, on lists by the order of their largest free run: once for ordinary memory, once for hidden
//! memory. A block in which both are free is on one list of each.

use crate::address::Pfn;

use super::buddy::{Buddy, TOP_ORDER};
use super::records::{Block, BlockIndex, FrameTable, NONE, UNITS};
use super::state::{FrameState, FrameWord, RunKind};

/// A block's place on a list.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Links {
    pub(super) next: u32,
    previous: u32,
}

impl Links {
    /// On no list.
    pub(super) const NONE: Self = Self {
        next: NONE,
        previous: NONE,
    };
}

/// The first block for each order of largest free run.
pub(super) struct BlockLists {
    heads: [Option<BlockIndex>; TOP_ORDER as usize + 1],
    /// Bit n: there is a block for order n.
    orders: u16,
}

impl BlockLists {
    /// No block.
    pub(super) const EMPTY: Self = Self {
        heads: [None; TOP_ORDER as usize + 1],
        orders: 0,
    };

    /// The block with the smallest run that holds `1 << order` frames: the fullest kind.
    pub(super) fn fitting(&self, order: u8) -> Option<BlockIndex> {
        let fitting = self
            .orders
            .checked_shr(u32::from(order))
            .filter(|orders| *orders != 0)?;
        self.heads[usize::from(order) + fitting.trailing_zeros() as usize]
    }

    /// The order of the largest run on any list.
    pub(super) fn largest(&self) -> Option<u8> {
        self.orders.checked_ilog2().map(|order| order as u8)
    }

    fn set_head(&mut self, order: u8, head: Option<BlockIndex>) {
        self.heads[usize::from(order)] = head;
        let bit = 1 << order;
        self.orders = if head.is_some() {
            self.orders | bit
        } else {
            self.orders & !bit
        };
    }
}

fn parts(block: &mut Block, kind: RunKind) -> (&mut Links, &Buddy) {
    match kind {
        RunKind::Host => (&mut block.host, &block.host_runs),
        RunKind::Pool => (&mut block.pool, &block.pool_runs),
    }
}

impl FrameTable<'_> {
    fn lists(&mut self, kind: RunKind) -> &mut BlockLists {
        match kind {
            RunKind::Host => &mut self.host_blocks,
            RunKind::Pool => &mut self.pool_blocks,
        }
    }

    /// Changes a block's free runs, and moves the block to the list of its largest one where that is another now: the list is left alone
    /// by most changes.
    pub(super) fn change_runs<R>(
        &mut self,
        kind: RunKind,
        index: BlockIndex,
        change: impl FnOnce(&mut [FrameWord; UNITS], &mut Buddy) -> R,
    ) -> R {
        let (words, runs) = self.runs_of(index, kind);
        let before = runs.largest();
        let result = change(words, runs);
        let after = runs.largest();
        if before != after {
            before
                .into_iter()
                .for_each(|order| self.unlist(kind, index, order));
            after.into_iter().for_each(|order| self.list(kind, index, order));
        }
        result
    }

    /// Takes a block off the list of its largest free run: it is not partly free any more.
    pub(super) fn unlist_block(&mut self, kind: RunKind, index: BlockIndex) {
        let largest = parts(self.block_mut(index), kind).1.largest();
        largest
            .into_iter()
            .for_each(|order| self.unlist(kind, index, order));
    }

    fn list(&mut self, kind: RunKind, index: BlockIndex, order: u8) {
        let head = self.lists(kind).heads[usize::from(order)];
        self.lists(kind).set_head(order, Some(index));
        if let Some(head) = head {
            parts(self.block_mut(head), kind).0.previous = BlockIndex::to_link(Some(index));
        }
        *parts(self.block_mut(index), kind).0 = Links {
            next: BlockIndex::to_link(head),
            previous: NONE,
        };
    }

    fn unlist(&mut self, kind: RunKind, index: BlockIndex, order: u8) {
        let links = *parts(self.block_mut(index), kind).0;
        let (next, previous) = (
            BlockIndex::from_link(links.next),
            BlockIndex::from_link(links.previous),
        );
        match previous {
            Some(previous) => parts(self.block_mut(previous), kind).0.next = links.next,
            None => self.lists(kind).set_head(order, next),
        }
        if let Some(next) = next {
            parts(self.block_mut(next), kind).0.previous = links.previous;
        }
    }

    /// Visits the free hidden runs of all blocks: first frame and order.
    pub(crate) fn each_pool_run(&self, mut visit: impl FnMut(Pfn, u8)) {
        for head in self.pool_blocks.heads {
            let mut next = head;
            while let Some(index) = next {
                for pfn in (0..UNITS as u64).map(|unit| self.block_pfn(index).add(unit)) {
                    if let FrameState::PoolFree { order } = self.head(pfn, 0).state() {
                        visit(pfn, order);
                    }
                }
                next = BlockIndex::from_link(self.block(index).pool.next);
            }
        }
    }

    /// The first block on the lists that is wanted. Looks at all of them if it must.
    pub(super) fn find_listed(&self, kind: RunKind, wanted: impl Fn(&Block) -> bool) -> Option<BlockIndex> {
        let lists = match kind {
            RunKind::Host => &self.host_blocks,
            RunKind::Pool => &self.pool_blocks,
        };
        for head in lists.heads {
            let mut next = head;
            while let Some(index) = next {
                let block = self.block(index);
                if wanted(block) {
                    return Some(index);
                }
                let links = match kind {
                    RunKind::Host => &block.host,
                    RunKind::Pool => &block.pool,
                };
                next = BlockIndex::from_link(links.next);
            }
        }
        None
    }
}
