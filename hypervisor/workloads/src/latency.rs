//! What can be said of times: quantiles of many short windows, whether TLB entries are large, and where a time means nothing.
//!
//! A host below may stop us for milliseconds at any moment. That makes long windows mean nothing, and of many short ones a few.

use memory::address::PAGE_SIZE;

use crate::random::{below, mix};
use crate::stream::LINE;

/// TSC ticks of 1000 loads that a part of all windows stayed below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// A tenth of them.
    pub p10: u64,
    /// A quarter.
    pub p25: u64,
    /// Half.
    pub median: u64,
}

impl Quantiles {
    /// Of the ticks of windows with so many loads each, in any order; they are sorted. `None` without windows or loads.
    pub fn of(ticks: &mut [u32], loads: u64) -> Option<Self> {
        ticks.sort_unstable();
        let at = |part: usize| -> Option<u64> {
            let ticks = *ticks.get(ticks.len() * part / 20)?;
            (u64::from(ticks) * 1000).checked_div(loads)
        };
        Some(Self {
            p10: at(2)?,
            p25: at(5)?,
            median: at(10)?,
        })
    }
}

/// What an entry of the TLB covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// 2M or more.
    Large,
    /// 4K (or four of them): an outer hypervisor backs us so.
    Small,
}

impl Entries {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Small => "4k",
        }
    }
}

/// Lines that the probe loads. The data cache of every core has at least 64 sets of 8 ways, in which they all fit, seven a set; and no first level
/// has as many entries, not even if one stands for four pages, as on AMD (Zen 5 has 96).
pub const PROBED: usize = 448;
/// Lines of a page.
const LINES: u64 = PAGE_SIZE / LINE;

/// The probe for large entries, in an aligned block of 2M that is one leaf, or part of one. Both of its lists have as many lines in the same sets of the data cache, all in one aligned block of 2M: one list in as few pages of 4K as
/// hold them, the other in a page each. What differs is translation.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    seed: u64,
}

impl Probe {
    /// A probe whose order comes from a seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The list over few pages: bytes from the start of the block.
    pub fn few(&self) -> [u64; PROBED] {
        self.places(|number| (number / LINES, number % LINES))
    }

    /// The list over many.
    pub fn many(&self) -> [u64; PROBED] {
        self.places(|number| (number, number % LINES))
    }

    /// The same random order for both, so that nothing prefetches.
    fn places(&self, place: impl Fn(u64) -> (u64, u64)) -> [u64; PROBED] {
        let mut order: [u64; PROBED] = core::array::from_fn(|number| number as u64);
        for last in (1..PROBED).rev() {
            let other = below(mix(self.seed, last as u64), last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order.map(|number| {
            let (page, line) = place(number);
            page * PAGE_SIZE + line * LINE
        })
    }

    /// What the two times say, in any unit fine enough. A hit in the first level of the cache takes 4 or 5 cycles; one in the second level of the TLB adds 7 or more, so entries of
    /// 4K more than double it.
    pub const fn judge(few: u64, many: u64) -> Entries {
        if many * 2 < few * 3 {
            Entries::Large
        } else {
            Entries::Small
        }
    }
}

/// Why times mean nothing on this machine, if so. `signature` is what CPUID says of the hypervisor below (leaf 4000_0000H, EBX, ECX, EDX), if it says
/// that there is one; `bochs`: the port by which Bochs is known answers. Other emulators of a whole machine are not known here.
pub fn why_no_time(signature: Option<[u8; 12]>, bochs: bool) -> Option<&'static str> {
    match signature {
        Some(signature) if signature == *b"TCGTCGTCGTCG" => {
            Some("QEMU's emulation has no TLB like a CPU's, and its time is that of the host's program")
        }
        Some(_) => None,
        // A virtual machine may have QEMU's debug console at that port; it says that it is one.
        None if bochs => Some("Bochs has no TLB like a CPU's, and its TSC counts instructions"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use super::*;

    #[test]
    fn quantiles_are_those_of_a_thousand_loads() {
        let mut ticks: Vec<u32> = (0..2000).rev().map(|number| number + 1000).collect();
        let quantiles = Quantiles::of(&mut ticks, 100);
        let expected = Quantiles {
            p10: 12_000,
            p25: 15_000,
            median: 20_000,
        };
        assert_eq!(quantiles, Some(expected));
        assert_eq!(Quantiles::of(&mut [], 100), None);
        assert_eq!(Quantiles::of(&mut [1, 2, 3], 0), None);
        assert_eq!(
            Quantiles::of(&mut [u32::MAX], 1).unwrap().p10,
            u64::from(u32::MAX) * 1000
        );
    }

    #[test]
    fn the_probe_s_lists_differ_in_pages_only() {
        let probe = Probe::new(7);
        let pages = |list: &[u64]| list.iter().map(|at| at / PAGE_SIZE).collect::<BTreeSet<_>>();
        let (few, many) = (probe.few(), probe.many());
        assert_eq!((pages(&few).len(), pages(&many).len()), (7, PROBED));
        let sets = |list: &[u64]| {
            let mut sets = BTreeMap::new();
            for at in list {
                *sets.entry(at / LINE % 64).or_insert(0) += 1;
            }
            sets
        };
        assert_eq!(sets(&few), sets(&many));
        // A set has eight ways at least.
        assert!(sets(&few).len() == 64 && sets(&few).values().all(|lines| *lines == 7));
        for at in few.iter().chain(&many) {
            assert_eq!(at >> 21, 0, "in the block");
        }
        let distinct: BTreeSet<_> = few.iter().collect();
        assert_eq!(distinct.len(), PROBED);
    }

    #[test]
    fn entries_are_told_by_what_they_cost() {
        assert_eq!(Probe::judge(5000, 5300), Entries::Large);
        assert_eq!(Probe::judge(5000, 12_000), Entries::Small);
        // Ticks of a slow clock, in a CPU that runs faster than its TSC.
        assert_eq!(Probe::judge(3000, 7000), Entries::Small);
    }

    #[test]
    fn emulators_are_known() {
        assert!(why_no_time(Some(*b"TCGTCGTCGTCG"), false).is_some());
        assert!(why_no_time(None, true).is_some());
        assert_eq!(
            why_no_time(Some(*b"KVMKVMKVM\0\0\0"), true),
            None,
            "a debug console"
        );
        assert_eq!(why_no_time(None, false), None, "a CPU");
    }
}
