//! The buddy algorithm over 512 units, used three times: for the blocks of a gigablock, for the free frames of a block, and for its
//! hidden ones that are free.
//!
//! Only the first unit of a run carries a mark: `Free` with its order and the links of the list it is on. All other units
//! of a free run are `Tail`. So a split or a merge writes a constant number of words, whatever the order.

use super::state::{FrameWord, Link, RunKind};

/// log2 of the 512 units: the order of a run of all of them.
pub(super) const TOP_ORDER: u8 = 9;
const ORDERS: usize = TOP_ORDER as usize + 1;

/// The words of a buddy's 512 units.
pub(super) trait Units {
    /// Which free runs the buddy keeps: two buddies may share their units' words.
    const KIND: RunKind;
    /// The word of a unit below 512.
    fn word(&self, unit: u16) -> FrameWord;
    /// Replaces the word of a unit below 512.
    fn set_word(&mut self, unit: u16, word: FrameWord);
}

/// The free runs among 512 units: the first run of each order, which orders have one, and how many units are free.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Buddy {
    heads: [Link; ORDERS],
    /// Bit n: there is a free run of order n. So the search for one is an instruction.
    orders: u16,
    free: u16,
}

impl Buddy {
    /// A buddy with no free unit.
    pub(super) const EMPTY: Self = Self {
        heads: [Link::NONE; ORDERS],
        orders: 0,
        free: 0,
    };

    /// Free units.
    pub(super) fn free_units(&self) -> u16 {
        self.free
    }

    /// The order of the largest free run.
    pub(super) fn largest(&self) -> Option<u8> {
        self.orders.checked_ilog2().map(|order| order as u8)
    }

    /// Takes a run of `1 << order` units, from the smallest run that holds it. The first unit's word is left as `Tail`: the
    /// caller says what it is now.
    pub(super) fn allocate<U: Units>(&mut self, units: &mut U, order: u8) -> Option<u16> {
        let fitting = self
            .orders
            .checked_shr(u32::from(order))
            .filter(|orders| *orders != 0)?;
        let from = order + fitting.trailing_zeros() as u8;
        let unit = self.heads[usize::from(from)].unit()?;
        self.unlink(units, unit, from);
        // No run of these orders was free, so each half is the only one of its order.
        for half in order..from {
            let upper = unit + (1 << half);
            self.heads[usize::from(half)] = Link::to(upper);
            units.set_word(upper, FrameWord::free(U::KIND, half, Link::NONE, Link::NONE));
        }
        self.orders |= (1 << from) - (1 << order);
        self.free -= 1 << order;
        Some(unit)
    }

    /// Gives a run back and joins it with its free neighbours; the order of the run that it became part of.
    pub(super) fn release<U: Units>(&mut self, units: &mut U, unit: u16, order: u8) -> u8 {
        self.free += 1 << order;
        let (mut unit, mut merged) = (unit, order);
        while merged < TOP_ORDER {
            let neighbour = unit ^ (1 << merged);
            if !units.word(neighbour).is_free_run(U::KIND, merged) {
                break;
            }
            self.unlink(units, neighbour, merged);
            units.set_word(unit.max(neighbour), FrameWord::TAIL);
            unit = unit.min(neighbour);
            merged += 1;
        }
        self.link(units, unit, merged);
        merged
    }

    /// Puts a run at the front of its order's list.
    fn link<U: Units>(&mut self, units: &mut U, unit: u16, order: u8) {
        let next = self.heads[usize::from(order)];
        if let Some(next) = next.unit() {
            units.set_word(next, units.word(next).after(Link::to(unit)));
        }
        self.heads[usize::from(order)] = Link::to(unit);
        self.orders |= 1 << order;
        units.set_word(unit, FrameWord::free(U::KIND, order, Link::NONE, next));
    }

    /// Takes a run, which is free and of this order, off its list and makes its first unit a `Tail`.
    fn unlink<U: Units>(&mut self, units: &mut U, unit: u16, order: u8) {
        let (previous, next) = units.word(unit).links();
        match previous.unit() {
            None => {
                self.heads[usize::from(order)] = next;
                if next == Link::NONE {
                    self.orders &= !(1 << order);
                }
            }
            Some(before) => units.set_word(before, units.word(before).before(next)),
        }
        if let Some(after) = next.unit() {
            units.set_word(after, units.word(after).after(previous));
        }
        units.set_word(unit, FrameWord::TAIL);
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::FrameState;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    struct Words(Vec<FrameWord>);

    impl Units for Words {
        const KIND: RunKind = RunKind::Host;

        fn word(&self, unit: u16) -> FrameWord {
            self.0[usize::from(unit)]
        }
        fn set_word(&mut self, unit: u16, word: FrameWord) {
            self.0[usize::from(unit)] = word;
        }
    }

    fn whole() -> (Buddy, Words) {
        let mut words = Words(std::vec![FrameWord::new(FrameState::Tail); 512]);
        let mut buddy = Buddy::EMPTY;
        assert_eq!(buddy.release(&mut words, 0, TOP_ORDER), TOP_ORDER);
        (buddy, words)
    }

    proptest! {
        /// Runs never overlap, are aligned, and everything merges back to one run of 512.
        #[test]
        fn runs_are_disjoint_and_merge_back(
            orders in prop::collection::vec(0u8..=6, 1..60),
            mix in any::<u64>(),
        ) {
            let (mut buddy, mut words) = whole();
            let mut held: Vec<(u16, u8)> = Vec::new();
            let mut taken = [false; 512];
            for (i, order) in orders.into_iter().enumerate() {
                if mix >> (i % 64) & 1 == 1 && !held.is_empty() {
                    let (unit, order) = held.swap_remove(mix as usize % held.len());
                    words.set_word(unit, FrameWord::new(FrameState::Tail));
                    buddy.release(&mut words, unit, order);
                    taken[usize::from(unit)..][..1 << order].fill(false);
                }
                let before = buddy.free_units();
                match buddy.allocate(&mut words, order) {
                    Some(unit) => {
                        prop_assert_eq!(unit % (1 << order), 0);
                        let run = &mut taken[usize::from(unit)..][..1 << order];
                        prop_assert!(run.iter().all(|t| !t), "unit handed out twice");
                        run.fill(true);
                        words.set_word(unit, FrameWord::new(FrameState::Host { order }));
                        held.push((unit, order));
                        prop_assert_eq!(buddy.free_units(), before - (1 << order));
                    }
                    None => prop_assert!(buddy.largest().is_none_or(|largest| largest < order)),
                }
            }
            for (unit, order) in held {
                words.set_word(unit, FrameWord::new(FrameState::Tail));
                buddy.release(&mut words, unit, order);
            }
            prop_assert_eq!(buddy.largest(), Some(TOP_ORDER));
            prop_assert_eq!(buddy.free_units(), 512);
            prop_assert!(words.0[1..].iter().all(|w| w.state() == FrameState::Tail));
        }
    }

    #[test]
    fn takes_the_smallest_run_that_fits() {
        let (mut buddy, mut words) = whole();
        assert_eq!(buddy.allocate(&mut words, 0), Some(0));
        // Free are now 1 (order 0), 2 (order 1), 4 (order 2), ...: a single unit comes from the order-0 run.
        assert_eq!(buddy.allocate(&mut words, 0), Some(1));
        assert_eq!(buddy.allocate(&mut words, 1), Some(2));
        assert_eq!(buddy.largest(), Some(8));
        assert_eq!(buddy.allocate(&mut words, TOP_ORDER), None);
    }
}
