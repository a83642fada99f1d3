//! The chase itself, and what is timed.

use std::hint::black_box;
use std::time::Instant;

use oorandom::Rand64;
use workloads::{Entries, PROBED, Probe};

use super::arena::Arena;
use crate::pressure::chased::PERCENTILE_STEP;

/// Bytes of a word.
const WORD: u64 = 8;
/// Words of a 4K page, and of a line.
const PAGE: u64 = 512;
const LINE: u64 = 8;
/// Loads of a window: some 10 to 300 us.
const WINDOW: usize = 2048;
/// Rounds, and windows in each: 2000 in all.
const ROUNDS: usize = 20;
const WINDOWS: usize = 100;

/// Nanoseconds of one load in each of many windows, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    /// Of these windows.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// How many windows.
    pub fn windows(&self) -> u64 {
        self.0.len() as u64
    }

    /// What so many of a hundred windows stay below; the highest for 100, and 0 where there are no windows.
    pub fn percentile(&self, percent: usize) -> f64 {
        let place = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(place).copied().unwrap_or_default()
    }

    /// The percentiles that a file keeps.
    pub fn percentiles(&self) -> Vec<f64> {
        (0..=100)
            .step_by(PERCENTILE_STEP)
            .map(|percent| self.percentile(percent))
            .collect()
    }
}

/// Places (in words) of one object in each of so many 4K pages, in the random order in which they are chased.
pub fn places(pages: u64, seed: u64) -> Vec<u64> {
    let mut random = Rand64::new(seed.into());
    let mut order: Vec<u64> = (0..pages)
        .map(|page| page * PAGE + random.rand_range(0..PAGE / LINE) * LINE)
        .collect();
    for last in (1..order.len()).rev() {
        let other = random.rand_range(0..last as u64 + 1) as usize;
        order.swap(last, other);
    }
    order
}

/// Writes into each object the place of the next, the first after the last.
fn link(words: &mut [u64], places: &[u64]) {
    for (here, next) in places.iter().zip(places.iter().cycle().skip(1)) {
        if let Some(word) = words.get_mut(*here as usize) {
            *word = *next;
        }
    }
}

/// Follows so many links from one place; the place where it ends.
fn follow(words: &[u64], from: u64, links: usize) -> u64 {
    let mut at = from;
    for _ in 0..links {
        at = words[at as usize];
    }
    black_box(at)
}

/// Nanoseconds of one load, with links over these places in each of two arenas.
#[derive(Clone, Debug, PartialEq)]
pub struct Chased {
    /// In the first.
    pub small: Times,
    /// In the second.
    pub large: Times,
}

/// Times the chase in both arenas, turn by turn, each turn after a whole round that is not timed.
pub fn chase(small: &mut Arena, large: &mut Arena, places: &[u64]) -> Chased {
    let first = places.first().copied().unwrap_or_default();
    let mut arenas = [small, large];
    arenas.iter_mut().for_each(|arena| link(arena.words(), places));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            // Neither is always the one that comes after the other.
            let which = (round + turn) % 2;
            let words = &*arenas[which].words();
            let mut at = follow(words, first, places.len());
            for _ in 0..WINDOWS {
                let start = Instant::now();
                at = follow(words, at, WINDOW);
                times[which].push(start.elapsed().as_nanos() as f64 / WINDOW as f64);
            }
        }
    }
    let [small, large] = times.map(Times::of);
    Chased { small, large }
}

/// What the probe for large entries found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LargeEntries {
    /// Nanoseconds of a load over few pages of 4K in one large page.
    pub few: f64,
    /// Over many in the same large page.
    pub many: f64,
}

impl LargeEntries {
    /// Whether entries really cover 2M.
    pub fn are_large(&self) -> bool {
        // In picoseconds: the hypervisor has whole ticks for 1000 loads.
        let whole = |nanoseconds: f64| (nanoseconds * 1000.0) as u64;
        Probe::judge(whole(self.few), whole(self.many)) == Entries::Large
    }
}

/// Chases the hypervisor's own two lists in the first large page of an arena that has such pages.
pub fn large_entries(arena: &mut Arena, seed: u64) -> LargeEntries {
    let probe = Probe::new(seed);
    let mut one = |list: [u64; PROBED]| {
        let places = list.map(|bytes| bytes / WORD);
        link(arena.words(), &places);
        let words = &*arena.words();
        let mut at = follow(words, places[0], WINDOW);
        let window = || {
            let start = Instant::now();
            at = follow(words, at, WINDOW);
            start.elapsed().as_nanos() as f64 / WINDOW as f64
        };
        Times::of(core::iter::repeat_with(window).take(ROUNDS * WINDOWS).collect()).percentile(10)
    };
    LargeEntries {
        few: one(probe.few()),
        many: one(probe.many()),
    }
}

/// Nanoseconds of a core cycle now: a multiplication waits three for the one before, on every core since Nehalem and Zen (Agner Fog's tables).
pub fn cycle() -> f64 {
    const CHAIN: u64 = 4096;
    let window = |seed: u64| {
        let start = Instant::now();
        let mut value = black_box(seed | 1);
        let factor = black_box(3_u64);
        for _ in 0..CHAIN {
            value = black_box_register(value.wrapping_mul(factor));
        }
        black_box(value);
        start.elapsed().as_nanos() as f64 / (3 * CHAIN) as f64
    };
    Times::of((0..2000).map(window).collect()).percentile(10)
}

/// The value, which the compiler must not know: else it folds the chain. It stays in a register.
#[inline(always)]
fn black_box_register(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: the instruction is empty; it reads and writes one register and nothing else.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags))
    };
    value
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::arena::Pages;
    use super::*;

    #[test]
    fn the_links_lead_through_every_page_once() {
        let places = places(100, 1);
        let pages: BTreeSet<u64> = places.iter().map(|place| place / PAGE).collect();
        assert_eq!(pages, (0..100).collect());
        let mut arena = Arena::new(100 << 12, Pages::Small).unwrap();
        link(arena.words(), &places);
        let words = &*arena.words();
        for links in 0..100 {
            assert_eq!(follow(words, places[0], links), places[links]);
        }
        assert_eq!(follow(words, places[0], 100), places[0]);
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let times = Times::of((0..100).rev().map(f64::from).collect());
        let at = |percent| times.percentile(percent);
        assert_eq!(
            (at(0), at(10), at(25), at(50), at(100)),
            (0.0, 10.0, 25.0, 50.0, 99.0)
        );
        assert_eq!((times.windows(), times.percentiles().len()), (100, 21));
        assert_eq!(Times::of(Vec::new()).percentile(50), 0.0);
    }

    #[test]
    fn large_entries_are_told_by_their_cost() {
        assert!(LargeEntries { few: 1.5, many: 1.6 }.are_large());
        assert!(!LargeEntries { few: 1.5, many: 4.0 }.are_large());
        // Times below a nanosecond are told apart, too.
        assert!(LargeEntries { few: 0.5, many: 0.6 }.are_large());
        assert!(!LargeEntries { few: 0.5, many: 0.9 }.are_large());
    }
}
