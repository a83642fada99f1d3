//! Which memory lies next to what is hidden.

use memory::address::Pfn;

use crate::ground::Extent;

/// 2M blocks of a gigablock, and frames of a block.
const BLOCKS: u64 = 512;
const FRAMES: u64 = 512;

/// What a 2M block of the direct map is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Hidden.
    Hole,
    /// One leaf, and the host's.
    Leaf,
    /// Anything else.
    Other,
}

/// Gathers pieces of the host's memory that are in one gigablock with hidden memory, from blocks in ascending order.
#[derive(Debug)]
pub struct Near<'e> {
    pieces: &'e mut [Extent],
    /// Those of gigablocks that are through.
    kept: usize,
    /// Those of the gigablock that is under way.
    open: usize,
    gigablock: u64,
    has_hole: bool,
}

impl<'e> Near<'e> {
    /// None yet. `pieces` is where they go; what does not fit is left out.
    pub const fn new(pieces: &'e mut [Extent]) -> Self {
        Self {
            pieces,
            kept: 0,
            open: 0,
            gigablock: 0,
            has_hole: false,
        }
    }

    /// The next blocks, all alike: so many from block number `first` on.
    pub fn add(&mut self, first: u64, blocks: u64, block: Block) {
        let (mut at, end) = (first, first.saturating_add(blocks));
        while at < end && block != Block::Other {
            let gigablock = at / BLOCKS;
            if gigablock != self.gigablock {
                self.close();
                self.gigablock = gigablock;
            }
            let until = ((gigablock + 1) * BLOCKS).min(end);
            if block == Block::Hole {
                self.has_hole = true;
            } else {
                self.push(at, until - at);
            }
            at = until;
        }
    }

    fn push(&mut self, first: u64, blocks: u64) {
        let (start, frames) = (Pfn::new(first * FRAMES), blocks * FRAMES);
        let last = (self.open > 0).then(|| self.kept + self.open - 1);
        if let Some(last) = last.and_then(|last| self.pieces.get_mut(last))
            && last.start.add(last.frames) == start
        {
            last.frames += frames;
            return;
        }
        if let Some(piece) = self.pieces.get_mut(self.kept + self.open) {
            *piece = Extent { start, frames };
            self.open += 1;
        }
    }

    /// A gigablock is through: what lies in it counts if something in it is hidden.
    fn close(&mut self) {
        if core::mem::take(&mut self.has_hole) {
            self.kept += self.open;
        }
        self.open = 0;
    }

    /// The pieces.
    pub fn finish(mut self) -> &'e [Extent] {
        self.close();
        let Self { pieces, kept, .. } = self;
        pieces.get(..kept).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const NOTHING: Extent = Extent {
        start: Pfn::new(0),
        frames: 0,
    };

    fn gathered(room: usize, spans: &[(u64, u64, Block)]) -> Vec<(u64, u64)> {
        let mut pieces = std::vec![NOTHING; room];
        let mut near = Near::new(&mut pieces);
        for (first, blocks, block) in spans {
            near.add(*first, *blocks, *block);
        }
        let found = near.finish().iter();
        found
            .map(|piece| (piece.start.get() / FRAMES, piece.frames / FRAMES))
            .collect()
    }

    #[test]
    fn only_what_shares_a_gigablock_with_a_hole_is_near() {
        let spans = [
            (0, 512, Block::Leaf),
            // Leaves on both sides of the end of a gigablock with a hole, and a gigablock that is all hole.
            (512, 8, Block::Hole),
            (520, 700, Block::Leaf),
            (1220, 4, Block::Other),
            (1536, 1024, Block::Hole),
            // One by one, as a scan has them.
            (2560, 1, Block::Leaf),
            (2561, 1, Block::Leaf),
            (2562, 8, Block::Leaf),
            (2570, 1, Block::Hole),
        ];
        assert_eq!(gathered(10, &spans), [(520, 504), (2560, 10)]);
        assert_eq!(gathered(1, &spans), [(520, 504)], "what does not fit is left out");
        assert_eq!(gathered(0, &spans), []);
        assert_eq!(gathered(10, &spans[..1]), []);
    }

    #[test]
    fn a_hole_after_the_leaves_counts_as_one_before_them() {
        let spans = [
            (0, 100, Block::Leaf),
            (200, 100, Block::Leaf),
            (511, 1, Block::Hole),
        ];
        assert_eq!(gathered(10, &spans), [(0, 100), (200, 100)]);
        // The next gigablock's does not.
        let spans = [(0, 100, Block::Leaf), (512, 1, Block::Hole)];
        assert_eq!(gathered(10, &spans), []);
    }
}
