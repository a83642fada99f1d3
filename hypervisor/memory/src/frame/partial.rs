//! Blocks of which some frames are free, on lists by the order of their largest free run: once for ordinary memory, once for hidden
//! memory. A block in which both are free is on one list of each.

use super::buddy::{Buddy, TOP_ORDER};
use super::records::{Block, BlockIndex, FrameTable, NONE};
use super::state::RunKind;

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
pub(super) struct BlockLists([Option<BlockIndex>; TOP_ORDER as usize + 1]);

impl BlockLists {
    /// No block.
    pub(super) const EMPTY: Self = Self([None; TOP_ORDER as usize + 1]);

    /// The block with the smallest run that holds `1 << order` frames: the fullest kind.
    pub(super) fn fitting(&self, order: u8) -> Option<BlockIndex> {
        self.0.get(usize::from(order)..)?.iter().find_map(|head| *head)
    }

    /// The order of the largest run on any list.
    pub(super) fn largest(&self) -> Option<u8> {
        let order = self.0.iter().rposition(Option::is_some)?;
        Some(order as u8)
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

    /// Puts a block on the list of its largest free run, if it has one.
    pub(super) fn list_block(&mut self, kind: RunKind, index: BlockIndex) {
        let (_, runs) = parts(self.block_mut(index), kind);
        let Some(largest) = runs.largest() else {
            return;
        };
        let head = self.lists(kind).0[usize::from(largest)].replace(index);
        if let Some(head) = head {
            parts(self.block_mut(head), kind).0.previous = BlockIndex::to_link(Some(index));
        }
        *parts(self.block_mut(index), kind).0 = Links {
            next: BlockIndex::to_link(head),
            previous: NONE,
        };
    }

    /// Takes a block off the list of its largest free run, before that changes.
    pub(super) fn unlist_block(&mut self, kind: RunKind, index: BlockIndex) {
        let (links, runs) = parts(self.block_mut(index), kind);
        let Some(largest) = runs.largest() else {
            return;
        };
        let (next, previous) = (
            BlockIndex::from_link(links.next),
            BlockIndex::from_link(links.previous),
        );
        match previous {
            Some(previous) => parts(self.block_mut(previous), kind).0.next = BlockIndex::to_link(next),
            None => self.lists(kind).0[usize::from(largest)] = next,
        }
        if let Some(next) = next {
            parts(self.block_mut(next), kind).0.previous = BlockIndex::to_link(previous);
        }
    }

    /// The first block on the lists that is wanted. Looks at all of them if it must.
    pub(super) fn find_listed(&self, kind: RunKind, wanted: impl Fn(&Block) -> bool) -> Option<BlockIndex> {
        let lists = match kind {
            RunKind::Host => &self.host_blocks,
            RunKind::Pool => &self.pool_blocks,
        };
        for head in lists.0 {
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

    /// [`Self::list_block`] for ordinary memory.
    pub(super) fn list_host(&mut self, index: BlockIndex) {
        self.list_block(RunKind::Host, index);
    }

    /// [`Self::unlist_block`] for ordinary memory.
    pub(super) fn unlist_host(&mut self, index: BlockIndex) {
        self.unlist_block(RunKind::Host, index);
    }
}
