//! A set of small numbers that finds its first and its last member in a few steps, whatever its size: a bit for each number, and above
//! each 64 words of bits a word that says which of them are not empty.

/// Members of one word.
const BITS: usize = 64;
/// Levels for 2^30 numbers, more gigablocks than 52 address bits hold.
const MAX_LEVELS: usize = 5;

/// A set of the numbers below a bound, in storage given to it.
pub(super) struct BitTree<'m> {
    words: &'m mut [u64],
    /// Where each level's words begin, from the one with a bit for each number up to the one of one word.
    bases: [usize; MAX_LEVELS],
    levels: usize,
}

impl<'m> BitTree<'m> {
    /// Words of storage for the numbers below `bound`.
    pub(super) const fn storage_words(bound: usize) -> usize {
        let mut level = bound.div_ceil(BITS);
        let mut words = level;
        while level > 1 {
            level = level.div_ceil(BITS);
            words += level;
        }
        words
    }

    /// The empty set in the front of `storage`, and what is left of the storage.
    pub(super) fn new(storage: &'m mut [u64], bound: usize) -> (Self, &'m mut [u64]) {
        let (words, rest) = storage.split_at_mut(Self::storage_words(bound));
        words.fill(0);
        let (mut bases, mut levels) = ([0; MAX_LEVELS], 0);
        let (mut base, mut level) = (0, bound.div_ceil(BITS));
        while level > 0 && levels < MAX_LEVELS {
            bases[levels] = base;
            levels += 1;
            base += level;
            level = if level == 1 { 0 } else { level.div_ceil(BITS) };
        }
        let set = Self { words, bases, levels };
        (set, rest)
    }

    /// Adds a number below the bound.
    pub(super) fn insert(&mut self, number: usize) {
        let mut number = number;
        for base in &self.bases[..self.levels] {
            let word = &mut self.words[base + number / BITS];
            let was_empty = *word == 0;
            *word |= 1 << (number % BITS);
            if !was_empty {
                return;
            }
            number /= BITS;
        }
    }

    /// Takes a number below the bound out.
    pub(super) fn remove(&mut self, number: usize) {
        let mut number = number;
        for base in &self.bases[..self.levels] {
            let word = &mut self.words[base + number / BITS];
            *word &= !(1 << (number % BITS));
            if *word != 0 {
                return;
            }
            number /= BITS;
        }
    }

    /// The smallest member.
    pub(super) fn first(&self) -> Option<usize> {
        self.descend(|word| word.trailing_zeros())
    }

    /// The largest member.
    pub(super) fn last(&self) -> Option<usize> {
        self.descend(|word| word.ilog2())
    }

    fn descend(&self, choose: impl Fn(u64) -> u32) -> Option<usize> {
        let mut number = 0;
        for base in self.bases[..self.levels].iter().rev() {
            let word = self.words[base + number];
            if word == 0 {
                return None;
            }
            number = number * BITS + choose(word) as usize;
        }
        (self.levels > 0).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_of_nothing_has_no_member() {
        let mut storage = [0; 1];
        let (set, rest) = BitTree::new(&mut storage, 0);
        assert_eq!((set.first(), set.last(), rest.len()), (None, None, 1));
    }

    proptest! {
        #[test]
        fn first_and_last_are_those_of_an_ordered_set(
            bound in prop::sample::select(std::vec![1usize, 63, 64, 65, 4096, 4097, 70_000]),
            steps in prop::collection::vec((any::<bool>(), any::<usize>()), 1..200),
        ) {
            let mut storage = std::vec![u64::MAX; BitTree::storage_words(bound) + 1];
            let (mut set, rest) = BitTree::new(&mut storage, bound);
            prop_assert_eq!(rest, &[u64::MAX]);
            let mut expected = BTreeSet::new();
            for (add, number) in steps {
                let number = number % bound;
                if add {
                    set.insert(number);
                    expected.insert(number);
                } else {
                    set.remove(number);
                    expected.remove(&number);
                }
                prop_assert_eq!(set.first(), expected.first().copied());
                prop_assert_eq!(set.last(), expected.last().copied());
            }
        }
    }
}
