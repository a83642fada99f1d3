//! One array of entries with its replacement: of translations, of table entries, or of cache lines.

use std::fmt;

use super::geometry::Ways;

/// Which entry of a set goes when a new one comes. Cores have something between the two, so their results are the ends of an error bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The one used least recently.
    Lru,
    /// The first one without a mark; a use sets the mark, and when all would have it the others lose theirs.
    Nru,
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lru => "lru",
            Self::Nru => "nru",
        })
    }
}

/// No entry: no tag is this.
const EMPTY: u64 = u64::MAX;

/// Entries in sets.
#[derive(Clone, Debug)]
pub struct Entries {
    sets: u64,
    ways: usize,
    replacement: Replacement,
    tags: Vec<u64>,
    /// Time of the last use, or the mark (0 or 1).
    used: Vec<u64>,
    now: u64,
}

impl Entries {
    /// So many sets of so many ways, empty.
    pub fn new(sets: u64, ways: u32, replacement: Replacement) -> Self {
        let (sets, ways) = (sets.max(1), ways.max(1) as usize);
        let entries = sets as usize * ways;
        Self {
            sets,
            ways,
            replacement,
            tags: vec![EMPTY; entries],
            used: vec![0; entries],
            now: 0,
        }
    }

    fn slots(&self, set: u64, ways: Ways) -> std::ops::Range<usize> {
        let first = (set % self.sets) as usize * self.ways + ways.first as usize;
        first..first + ways.count as usize
    }

    /// Whether the entry is there; it counts as used then.
    pub fn look_up(&mut self, set: u64, ways: Ways, tag: u64) -> bool {
        let slots = self.slots(set, ways);
        match self.tags[slots.clone()].iter().position(|held| *held == tag) {
            Some(place) => {
                self.note(slots.clone(), slots.start + place);
                true
            }
            None => false,
        }
    }

    /// Takes an entry in that is not there, in place of another if need be.
    pub fn insert(&mut self, set: u64, ways: Ways, tag: u64) {
        let slots = self.slots(set, ways);
        let empty = self.tags[slots.clone()].iter().position(|held| *held == EMPTY);
        let oldest = || {
            let used = self.used[slots.clone()].iter().enumerate();
            used.min_by_key(|(_, used)| **used).map(|(place, _)| place)
        };
        if let Some(place) = empty.or_else(oldest) {
            self.tags[slots.start + place] = tag;
            self.note(slots.clone(), slots.start + place);
        }
    }

    /// Looks an entry up, and takes it in where it was missing; whether it was there.
    pub fn touch(&mut self, set: u64, ways: Ways, tag: u64) -> bool {
        let held = self.look_up(set, ways, tag);
        if !held {
            self.insert(set, ways, tag);
        }
        held
    }

    fn note(&mut self, slots: std::ops::Range<usize>, used: usize) {
        match self.replacement {
            Replacement::Lru => {
                self.now += 1;
                self.used[used] = self.now;
            }
            Replacement::Nru => {
                self.used[used] = 1;
                if self.used[slots.clone()].iter().all(|mark| *mark == 1) {
                    self.used[slots].fill(0);
                    self.used[used] = 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Ways = Ways::first(4);

    fn run(replacement: Replacement, tags: &[u64]) -> Vec<bool> {
        let mut entries = Entries::new(1, 4, replacement);
        tags.iter().map(|tag| entries.touch(0, ALL, *tag)).collect()
    }

    #[test]
    fn the_least_recently_used_goes() {
        // 1 2 3 4 fill it; 1 is used again; 5 takes the place of 2; 1 is still there, 2 is not.
        let held = run(Replacement::Lru, &[1, 2, 3, 4, 1, 5, 1, 2]);
        assert_eq!(held, [false, false, false, false, true, false, true, false]);
    }

    #[test]
    fn one_that_was_not_used_lately_goes() {
        // 4 sets the last mark, so only 4 keeps its own. 5 takes the place of 1, 1 that of 2; 5 and 1 have marks, so 2 takes that of 3.
        let held = run(Replacement::Nru, &[1, 2, 3, 4, 5, 1, 2, 4, 5, 1, 3]);
        assert_eq!(
            held,
            [
                false, false, false, false, false, false, false, true, true, true, false
            ]
        );
    }

    #[test]
    fn sizes_that_may_use_other_ways_do_not_push_each_other_out() {
        let mut entries = Entries::new(1, 4, Replacement::Lru);
        let (low, high) = (Ways::first(2), Ways { first: 2, count: 2 });
        entries.insert(0, high, 100);
        for tag in 0..10 {
            entries.insert(0, low, tag);
        }
        assert!(entries.look_up(0, high, 100) && entries.look_up(0, ALL, 9));
        assert!(!entries.look_up(0, ALL, 7));
    }

    #[test]
    fn a_cyclic_walk_of_one_more_than_fits_never_hits_with_lru() {
        let tags: Vec<u64> = (0..50).map(|step| step % 5).collect();
        assert!(run(Replacement::Lru, &tags).iter().all(|held| !held));
        assert!(run(Replacement::Nru, &tags).iter().any(|held| *held));
    }

    proptest! {
        #[test]
        fn what_was_just_used_is_there(tags in prop::collection::vec(0..20_u64, 1..200), nru in any::<bool>()) {
            let replacement = if nru { Replacement::Nru } else { Replacement::Lru };
            let mut entries = Entries::new(2, 4, replacement);
            for tag in tags {
                entries.touch(tag, ALL, tag);
                prop_assert!(entries.look_up(tag, ALL, tag));
            }
        }

        #[test]
        fn with_lru_more_ways_never_hit_less(tags in prop::collection::vec(0..12_u64, 1..300)) {
            // The stack property of LRU (Mattson and others, 1970).
            let hits = |ways| {
                let mut entries = Entries::new(1, ways, Replacement::Lru);
                tags.iter().filter(|tag| entries.touch(0, Ways::first(ways), **tag)).count()
            };
            prop_assert!(hits(4) <= hits(5) && hits(5) <= hits(8));
        }
    }
}
