//! Words that say who wrote them, and where.
//!
//! A guest fills its memory with [`Pattern::word`]`(instance, gpa)` at every aligned 8 bytes. The word is an invertible mix of
//! instance and address under keys derived from the run's seed, so any aligned word found anywhere in RAM decodes again:
//! [`Pattern::locate`]. One word may decode by chance; four in a row that decode to consecutive addresses of one instance
//! don't. No table of expected contents is needed, and without the seed the words look like noise: they stand in no file.
//!
//! Registers are filled with the words of addresses from [`REGISTERS`] on, above every guest's memory, so that a saved register
//! left lying about is found in the same way and not mistaken for memory.

use crate::launch_area::MEMORY_MAX;

/// Where the addresses that stand for registers begin; one page of them.
pub const REGISTERS: u64 = MEMORY_MAX;
/// First address that no pattern word stands for.
pub const LOCATE_END: u64 = REGISTERS + 4096;
/// Instance numbers below this have pattern words: 2^24.
pub const INSTANCES: u32 = 1 << 24;

/// Bits of the word that hold the address, in units of 8 bytes; the instance is above them.
const ADDRESS_BITS: u32 = 40;
const ROUNDS: usize = 3;

const _: () = assert!(LOCATE_END >> 3 <= 1 << ADDRESS_BITS);

/// The pattern of one run: its keys, made once from the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    rounds: [Round; ROUNDS],
}

/// One step of the mix: `x = (x ^ key) * odd; x ^= x >> 32`. Each part of it can be undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Round {
    key: u64,
    odd: u64,
    inverse: u64,
}

impl Pattern {
    /// The pattern of the run with this seed. Any seed will do, 0 included.
    pub const fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut rounds = [Round {
            key: 0,
            odd: 1,
            inverse: 1,
        }; ROUNDS];
        let mut at = 0;
        while at < ROUNDS {
            let key = draw(&mut state);
            let odd = draw(&mut state) | 1;
            rounds[at] = Round {
                key,
                odd,
                inverse: inverse(odd),
            };
            at += 1;
        }
        Self { rounds }
    }

    /// The word that `instance` writes at `gpa`, a multiple of 8 (lower bits are ignored).
    ///
    /// `instance` must be below [`INSTANCES`] and `gpa` below [`LOCATE_END`] for [`locate`](Self::locate) to find them again.
    #[inline]
    pub const fn word(&self, instance: u32, gpa: u64) -> u64 {
        let mut x = (instance as u64) << ADDRESS_BITS | gpa >> 3;
        let mut at = 0;
        while at < ROUNDS {
            let round = &self.rounds[at];
            x = (x ^ round.key).wrapping_mul(round.odd);
            x ^= x >> 32;
            at += 1;
        }
        x
    }

    /// Which instance writes `word`, and at which address (a multiple of 8); `None` when no guest writes it: instances count
    /// from 1, and addresses stay below [`LOCATE_END`].
    ///
    /// About one random word in 65 is located by chance. Look at neighbours before calling it a find.
    #[inline]
    pub const fn locate(&self, word: u64) -> Option<(u32, u64)> {
        let mut x = word;
        let mut at = ROUNDS;
        while at > 0 {
            at -= 1;
            let round = &self.rounds[at];
            // A shift by half the width undoes itself: the upper half is unchanged.
            x ^= x >> 32;
            x = x.wrapping_mul(round.inverse) ^ round.key;
        }
        let instance = (x >> ADDRESS_BITS) as u32;
        let gpa = (x & ((1 << ADDRESS_BITS) - 1)) << 3;
        if instance == 0 || gpa >= LOCATE_END {
            None
        } else {
            Some((instance, gpa))
        }
    }
}

/// [`Pattern::word`] for a single word.
pub const fn word(seed: u64, instance: u32, gpa: u64) -> u64 {
    Pattern::new(seed).word(instance, gpa)
}

/// [`Pattern::locate`] for a single word.
pub const fn locate(seed: u64, word: u64) -> Option<(u32, u64)> {
    Pattern::new(seed).locate(word)
}

/// The next of a sequence of well-spread numbers. The step is 2^64 divided by the golden ratio, made odd; the multipliers are
/// odd with bits spread over all bytes. Nothing secret depends on their quality, the tests below on enough of it.
const fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ x >> 31).wrapping_mul(0xa3b1_95c5_d2e8_74f1);
    x = (x ^ x >> 29).wrapping_mul(0xd6e3_4b9d_5a1c_8f27);
    x ^ x >> 32
}

/// The inverse of an odd number modulo 2^64 by Newton's iteration: the number is its own inverse in the lowest three bits, and
/// each step doubles how many bits are right (3, 6, 12, 24, 48, 96).
const fn inverse(odd: u64) -> u64 {
    let mut guess = odd;
    let mut step = 0;
    while step < 5 {
        guess = guess.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(guess)));
        step += 1;
    }
    guess
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_tells_who_wrote_it_where(seed: u64, instance in 1..INSTANCES, at in 0..LOCATE_END / 8) {
            prop_assert_eq!(locate(seed, word(seed, instance, at * 8)), Some((instance, at * 8)));
        }

        #[test]
        fn what_is_located_is_what_would_be_written(seed: u64, random: u64) {
            if let Some((instance, gpa)) = locate(seed, random) {
                prop_assert!(instance > 0 && instance < INSTANCES && gpa < LOCATE_END && gpa % 8 == 0);
                prop_assert_eq!(word(seed, instance, gpa), random);
            }
        }

        #[test]
        fn another_seed_writes_other_words(seed: u64, other: u64, instance in 1..64_u32, at in 0_u64..1 << 20) {
            prop_assume!(seed != other);
            prop_assert_ne!(word(seed, instance, at * 8), word(other, instance, at * 8));
        }
    }

    #[test]
    fn four_random_words_in_a_row_are_no_find() {
        let pattern = Pattern::new(1);
        let mut state = 42;
        let mut run = 0;
        let mut previous = None;
        // Miri would take hours.
        for _ in 0..if cfg!(miri) { 1000 } else { 1_000_000 } {
            let found = pattern.locate(draw(&mut state));
            run = match (previous, found) {
                (Some((i, g)), Some((j, h))) if i == j && h == g + 8 => run + 1,
                _ => 0,
            };
            assert!(run < 3);
            previous = found;
        }
    }

    #[test]
    fn neighbouring_words_share_nothing_that_a_search_could_trip_over() {
        // Words of different addresses, instances and seeds are all different, none is small, and about half the bits flip
        // from one to the next.
        // Miri needs minutes for all of them.
        let words = if cfg!(miri) { 64 } else { 4096 };
        let mut seen = HashSet::new();
        let mut flipped = 0;
        let mut last = 0;
        for seed in 0..4 {
            let pattern = Pattern::new(seed);
            for instance in 1..=8 {
                for at in 0..words {
                    let word = pattern.word(instance, at * 8);
                    assert!(word > u64::from(u32::MAX) && seen.insert(word));
                    flipped += u64::from((word ^ last).count_ones());
                    last = word;
                }
            }
        }
        let average = flipped as f64 / seen.len() as f64;
        assert!((31.0..33.0).contains(&average), "{average}");
    }

    #[test]
    fn inverses_are_inverses() {
        for odd in [1, 3, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            assert_eq!(odd.wrapping_mul(inverse(odd)), 1);
        }
    }
}
