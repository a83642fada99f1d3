//! Where to look for a gigablock, without looking at all of them.
//!
//! Regions are carved where a hole costs least: where the direct map had no 1G leaf at boot anyway (*cheap*), then where it is broken
//! already, the most holes first (*broken*), then the lowest one that is intact. Host memory comes from the highest gigablock
//! with a run that is large enough. So each gigablock with free blocks stands on one shelf by what a hole costs there, and on another by
//! its largest free run. A gigablock moves only when blocks of it change hands.

use super::bit_tree::BitTree;
use super::buddy::TOP_ORDER;
use super::records::{FrameTable, Gigablock, GigablockIndex, NONE};

const RUNS: usize = TOP_ORDER as usize + 1;
/// Broken gigablocks have 1 to 512 holes; one more for a simple index.
const HOLES: usize = 513;

/// Where one gigablock stands.
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Shelf {
    /// 0 intact, 1 to 512 broken with so many holes, or one of the constants.
    cost: u16,
    /// The order of the largest free run, or `NO_RUN`.
    run: u8,
    padding: u8,
}

const NOT_SHELVED: u16 = u16::MAX;
const CHEAP: u16 = u16::MAX - 1;
const INTACT: u16 = 0;
const NO_RUN: u8 = u8::MAX;

impl Shelf {
    /// On no shelf.
    pub(super) const NONE: Self = Self {
        cost: NOT_SHELVED,
        run: NO_RUN,
        padding: 0,
    };

    fn of(gigablock: &Gigablock) -> Self {
        let Some(run) = gigablock.buddy.largest() else {
            return Self::NONE;
        };
        let cost = if gigablock.whole_at_boot() {
            gigablock.holes()
        } else {
            CHEAP
        };
        Self {
            cost,
            run,
            padding: 0,
        }
    }
}

/// All shelves.
pub(super) struct Shelves<'m> {
    by_run: [BitTree<'m>; RUNS],
    /// All of them: so one block of host memory is found in as many steps whatever runs there are elsewhere.
    any: BitTree<'m>,
    cheap: BitTree<'m>,
    intact: BitTree<'m>,
    /// The first broken gigablock with each number of holes, and which numbers have one.
    broken: [u32; HOLES],
    broken_holes: [u64; HOLES.div_ceil(64)],
}

impl<'m> Shelves<'m> {
    /// Words of storage for so many gigablocks.
    pub(super) const fn storage_words(gigablocks: usize) -> usize {
        (RUNS + 3) * BitTree::storage_words(gigablocks)
    }

    /// Empty shelves in `storage`, which is long enough.
    pub(super) fn new(storage: &'m mut [u64], gigablocks: usize) -> Self {
        let mut rest = storage;
        let mut tree = || {
            let (tree, left) = BitTree::new(core::mem::take(&mut rest), gigablocks);
            rest = left;
            tree
        };
        Self {
            by_run: core::array::from_fn(|_| tree()),
            any: tree(),
            cheap: tree(),
            intact: tree(),
            broken: [NONE; HOLES],
            broken_holes: [0; HOLES.div_ceil(64)],
        }
    }

    /// The most holes that a broken gigablock with free blocks has.
    fn most_holes(&self) -> Option<usize> {
        let (word, bits) = self
            .broken_holes
            .iter()
            .enumerate()
            .rfind(|(_, bits)| **bits != 0)?;
        Some(word * 64 + bits.ilog2() as usize)
    }
}

impl FrameTable<'_> {
    /// The gigablock with free regions where holes cost least.
    pub(crate) fn cheapest_gigablock(&self) -> Option<GigablockIndex> {
        let shelves = &self.shelves;
        let broken = || shelves.most_holes().map(|holes| shelves.broken[holes] as usize);
        let found = shelves
            .cheap
            .first()
            .or_else(broken)
            .or_else(|| shelves.intact.first());
        found.map(|index| GigablockIndex(index as u32))
    }

    /// The lowest gigablock with a free run of `1 << run` blocks, from the shortest runs that are long enough.
    pub(crate) fn lowest_with_run(&self, run: u8) -> Option<GigablockIndex> {
        let fitting = self.shelves.by_run.get(usize::from(run)..)?;
        let found = fitting.iter().find_map(BitTree::first);
        found.map(|index| GigablockIndex(index as u32))
    }

    /// The highest gigablock with a free run of `1 << run` blocks.
    pub(super) fn highest_with_run(&self, run: u8) -> Option<GigablockIndex> {
        let found = if run == 0 {
            self.shelves.any.last()
        } else {
            let fitting = self.shelves.by_run.get(usize::from(run)..)?;
            fitting.iter().filter_map(BitTree::last).max()
        };
        found.map(|index| GigablockIndex(index as u32))
    }

    /// Puts a gigablock where it belongs now.
    pub(super) fn reshelve(&mut self, index: GigablockIndex) {
        let gigablock = self.gigablock(index);
        let (old, new) = (gigablock.shelf, Shelf::of(gigablock));
        if old == new {
            return;
        }
        let position = index.position();
        if old.run != new.run {
            if let Some(tree) = self.shelves.by_run.get_mut(usize::from(old.run)) {
                tree.remove(position);
            }
            if let Some(tree) = self.shelves.by_run.get_mut(usize::from(new.run)) {
                tree.insert(position);
            }
        }
        if old.cost != new.cost {
            match old.cost {
                NOT_SHELVED => {}
                CHEAP => self.shelves.cheap.remove(position),
                INTACT => self.shelves.intact.remove(position),
                holes => self.unlink_broken(index, holes),
            }
            if old.cost == NOT_SHELVED {
                self.shelves.any.insert(position);
            }
            match new.cost {
                NOT_SHELVED => self.shelves.any.remove(position),
                CHEAP => self.shelves.cheap.insert(position),
                INTACT => self.shelves.intact.insert(position),
                holes => self.link_broken(index, holes),
            }
        }
        self.gigablock_mut(index).shelf = new;
    }

    fn link_broken(&mut self, index: GigablockIndex, holes: u16) {
        let holes = usize::from(holes);
        let head = self.shelves.broken[holes];
        if head != NONE {
            self.gigablock_mut(GigablockIndex(head)).previous = index.0;
        }
        let gigablock = self.gigablock_mut(index);
        (gigablock.next, gigablock.previous) = (head, NONE);
        self.shelves.broken[holes] = index.0;
        self.shelves.broken_holes[holes / 64] |= 1 << (holes % 64);
    }

    fn unlink_broken(&mut self, index: GigablockIndex, holes: u16) {
        let holes = usize::from(holes);
        let gigablock = self.gigablock(index);
        let (next, previous) = (gigablock.next, gigablock.previous);
        if next != NONE {
            self.gigablock_mut(GigablockIndex(next)).previous = previous;
        }
        if previous != NONE {
            self.gigablock_mut(GigablockIndex(previous)).next = next;
            return;
        }
        self.shelves.broken[holes] = next;
        if next == NONE {
            self.shelves.broken_holes[holes / 64] &= !(1 << (holes % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough, and not a word more.
    #[test]
    fn the_shelves_fill_their_storage() {
        for gigablocks in [1, 64, 65, 10_000] {
            let words = Shelves::storage_words(gigablocks);
            let mut storage = std::vec![0; words];
            assert!(Shelves::new(&mut storage, gigablocks).any.last().is_none());
            let less = std::panic::catch_unwind(|| {
                let mut storage = std::vec![0; words - 1];
                Shelves::new(&mut storage, gigablocks).any.last()
            });
            assert!(
                less.is_err(),
                "{gigablocks} gigablocks need less than {words} words"
            );
        }
    }
}
