//! The direct map by gigablock: the array of a `phase` line.

use core::iter::FusedIterator;

use serde::Serialize;

use crate::block::{BlockState, PER_GIGABLOCK, Span};
use crate::event::Leaves;

/// Equal neighbouring gigablocks; the numbers are those of each one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Gigablock {
    /// Physical address of the first / 1 GiB.
    pub gib: u64,
    /// How many.
    pub count: u64,
    /// Leaves in each.
    pub leaves: Leaves,
    /// Hidden 2M regions in each.
    pub holes: u64,
}

/// Joins spans to gigablocks. Gigablocks without RAM are left out.
#[derive(Clone, Debug)]
pub struct Gigablocks<I> {
    spans: I,
    /// What is left of the span in work.
    rest: Option<Span>,
    /// Complete, and waiting for an equal neighbour.
    waiting: Option<Gigablock>,
}

impl<I: Iterator<Item = Span>> Gigablocks<I> {
    /// Gigablocks of these spans, which must come in order.
    pub fn new(spans: I) -> Self {
        Self {
            spans,
            rest: None,
            waiting: None,
        }
    }

    /// The next piece of a span that lies in one gigablock.
    fn piece(&mut self) -> Option<Span> {
        loop {
            let span = match self.rest.take() {
                Some(rest) => rest,
                None => self.spans.next()?,
            };
            if span.blocks == 0 || span.state == BlockState::NotRam {
                continue;
            }
            let room = PER_GIGABLOCK - span.first % PER_GIGABLOCK;
            if span.blocks > room {
                self.rest = Some(Span {
                    first: span.first + room,
                    blocks: span.blocks - room,
                    state: span.state,
                });
            }
            return Some(Span {
                blocks: span.blocks.min(room),
                ..span
            });
        }
    }

    /// One whole gigablock.
    fn single(&mut self) -> Option<Gigablock> {
        let mut piece = self.piece()?;
        let gib = piece.first / PER_GIGABLOCK;
        let mut gigablock = Gigablock {
            gib,
            count: 1,
            leaves: Leaves::default(),
            holes: 0,
        };
        loop {
            let leaves = &mut gigablock.leaves;
            match piece.state {
                // A 1G leaf counts with its first block.
                BlockState::In1G => leaves.g1 += u64::from(piece.first.is_multiple_of(PER_GIGABLOCK)),
                BlockState::Leaf2M => leaves.m2 += piece.blocks,
                BlockState::Small4K { leaves: small } => leaves.k4 += u64::from(small) * piece.blocks,
                BlockState::Hole => gigablock.holes += piece.blocks,
                BlockState::NotRam | BlockState::Missing => (),
            }
            match self.piece() {
                Some(next) if next.first / PER_GIGABLOCK == gib => piece = next,
                Some(next) => {
                    // Put back: `piece` has used up at most one gigablock of the span.
                    self.rest = Some(match self.rest.take() {
                        Some(rest) => Span {
                            first: next.first,
                            blocks: next.blocks + rest.blocks,
                            state: next.state,
                        },
                        None => next,
                    });
                    return Some(gigablock);
                }
                None => return Some(gigablock),
            }
        }
    }
}

impl<I: Iterator<Item = Span>> Iterator for Gigablocks<I> {
    type Item = Gigablock;

    fn next(&mut self) -> Option<Gigablock> {
        loop {
            match (self.single(), &mut self.waiting) {
                (None, waiting) => return waiting.take(),
                (Some(next), Some(run))
                    if run.gib + run.count == next.gib
                        && run.leaves == next.leaves
                        && run.holes == next.holes =>
                {
                    run.count += 1;
                }
                (Some(next), waiting) => {
                    if let Some(run) = waiting.replace(next) {
                        return Some(run);
                    }
                }
            }
        }
    }
}

impl<I: FusedIterator<Item = Span>> FusedIterator for Gigablocks<I> {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn blocks(spans: &[Span]) -> Vec<Gigablock> {
        Gigablocks::new(spans.iter().copied()).collect()
    }

    fn leaves(g1: u64, m2: u64, k4: u64) -> Leaves {
        Leaves { g1, m2, k4 }
    }

    #[test]
    fn equal_neighbours_are_joined_across_spans_and_blocks() {
        let span = |first, blocks, state| Span { first, blocks, state };
        let found = blocks(&[
            Span::block(0, BlockState::Small4K { leaves: 352 }),
            span(1, 511, BlockState::Leaf2M),
            span(512, 512, BlockState::Leaf2M),
            span(1024, 1024, BlockState::NotRam),
            span(2048, 512 * 900, BlockState::In1G),
            span(2048 + 512 * 900, 3, BlockState::Hole),
            span(2048 + 512 * 900 + 3, 509, BlockState::Leaf2M),
        ]);
        assert_eq!(
            found,
            [
                Gigablock {
                    gib: 0,
                    count: 1,
                    leaves: leaves(0, 511, 352),
                    holes: 0
                },
                Gigablock {
                    gib: 1,
                    count: 1,
                    leaves: leaves(0, 512, 0),
                    holes: 0
                },
                Gigablock {
                    gib: 4,
                    count: 900,
                    leaves: leaves(1, 0, 0),
                    holes: 0
                },
                Gigablock {
                    gib: 904,
                    count: 1,
                    leaves: leaves(0, 509, 0),
                    holes: 3
                },
            ]
        );
    }

    #[test]
    fn single_blocks_give_the_same_as_spans() {
        let state = |first: u64| match first {
            0..=2 => BlockState::Small4K { leaves: 9 },
            512..1536 => BlockState::In1G,
            1600..1700 => BlockState::Hole,
            _ => BlockState::Leaf2M,
        };
        let single: Vec<Span> = (0..2048).map(|first| Span::block(first, state(first))).collect();
        let found = blocks(&single);
        assert_eq!(
            found,
            [
                Gigablock {
                    gib: 0,
                    count: 1,
                    leaves: leaves(0, 509, 27),
                    holes: 0
                },
                Gigablock {
                    gib: 1,
                    count: 2,
                    leaves: leaves(1, 0, 0),
                    holes: 0
                },
                Gigablock {
                    gib: 3,
                    count: 1,
                    leaves: leaves(0, 412, 0),
                    holes: 100
                },
            ]
        );
    }

    #[test]
    fn a_gap_parts_equal_blocks() {
        let found = blocks(&[
            Span {
                first: 0,
                blocks: 512,
                state: BlockState::In1G,
            },
            Span {
                first: 1024,
                blocks: 512,
                state: BlockState::In1G,
            },
        ]);
        assert_eq!(
            found
                .iter()
                .map(|block| (block.gib, block.count))
                .collect::<Vec<_>>(),
            [(0, 1), (2, 1)]
        );
        assert_eq!(blocks(&[]), []);
    }
}
