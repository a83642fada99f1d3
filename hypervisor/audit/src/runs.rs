//! Leaves joined to runs, and a digest of them.

use crate::address::{Pa, Va, fold};
use crate::entry::{Attributes, Leaf, LeafSize};
use crate::walk::{PhysicalRead, Tables, WalkError};

/// Neighbouring leaves of one size and the same attributes, contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First address translated.
    pub va: Va,
    /// Where it goes.
    pub pa: Pa,
    /// Number of leaves.
    pub leaves: u64,
    /// Size of each.
    pub size: LeafSize,
    /// What all of them allow.
    pub attributes: Attributes,
}

impl Run {
    const fn of(leaf: Leaf) -> Self {
        Self {
            va: leaf.va,
            pa: leaf.pa,
            leaves: 1,
            size: leaf.size,
            attributes: leaf.attributes,
        }
    }

    /// Bytes that the run maps.
    pub const fn bytes(&self) -> u64 {
        self.leaves * self.size.bytes()
    }

    fn continues_with(&self, leaf: &Leaf) -> bool {
        self.size == leaf.size
            && self.attributes == leaf.attributes
            && self.va.get().checked_add(self.bytes()) == Some(leaf.va.get())
            && self.pa.get().checked_add(self.bytes()) == Some(leaf.pa.get())
    }
}

/// Joins an iterator of leaves to runs; accessed and dirty do not part a run. An error comes after the run that it interrupts.
#[derive(Debug)]
pub struct Runs<I> {
    leaves: I,
    open: Option<Run>,
    error: Option<WalkError>,
}

impl<I: Iterator<Item = Result<Leaf, WalkError>>> Runs<I> {
    /// Runs of these leaves, which must come in address order.
    pub fn new(leaves: I) -> Self {
        Self {
            leaves,
            open: None,
            error: None,
        }
    }
}

impl<I: Iterator<Item = Result<Leaf, WalkError>>> Iterator for Runs<I> {
    type Item = Result<Run, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.error.take() {
                return Some(Err(error));
            }
            match self.leaves.next() {
                None => return self.open.take().map(Ok),
                Some(Err(error)) => {
                    self.error = Some(error);
                    if let Some(run) = self.open.take() {
                        return Some(Ok(run));
                    }
                }
                Some(Ok(leaf)) => match &mut self.open {
                    Some(run) if run.continues_with(&leaf) => run.leaves += 1,
                    open => {
                        if let Some(run) = open.replace(Run::of(leaf)) {
                            return Some(Ok(run));
                        }
                    }
                },
            }
        }
    }
}

/// A stable 64-bit digest of all leaves from `first` to `last` (inclusive): addresses, sizes and attributes; accessed and dirty
/// are left out. Equal digests mean equal leaves except by an accident of one in 2^64.
///
/// # Errors
/// The first malformed place.
pub fn digest<M: PhysicalRead + ?Sized>(
    tables: &Tables<'_, M>,
    first: Va,
    last: Va,
) -> Result<u64, WalkError> {
    let mut digest = 0;
    for leaf in tables.leaves_in(first, last) {
        let leaf = leaf?;
        digest = fold(digest, leaf.va.get());
        digest = fold(digest, leaf.pa.get() | leaf.size as u64);
        digest = fold(digest, leaf.attributes.code().into());
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::test_ram::{NX, P, TestRam, W};

    #[test]
    fn leaves_join_only_when_all_agrees() {
        let mut ram = TestRam::new();
        for page in 0..4 {
            ram.map(page << 12, (8 + page) << 12, LeafSize::K4, P | W);
        }
        ram.map(4 << 12, 20 << 12, LeafSize::K4, P | W);
        ram.map(5 << 12, 21 << 12, LeafSize::K4, P | W | NX);
        let runs: Vec<Run> = Runs::new(ram.tables().leaves()).map(|run| run.unwrap()).collect();
        let shape: Vec<_> = runs
            .iter()
            .map(|run| (run.va.get(), run.pa.get(), run.leaves))
            .collect();
        assert_eq!(
            shape,
            [(0, 0x8000, 4), (0x4000, 0x14000, 1), (0x5000, 0x15000, 1)]
        );
        assert_eq!(runs[0].bytes(), 0x4000);
    }

    #[test]
    fn an_error_comes_after_the_run_it_interrupts() {
        let mut ram = TestRam::new();
        ram.map(0, 0x8000, LeafSize::K4, P);
        ram.map(0x1000, 0x9000, LeafSize::K4, P);
        ram.write_leaf(0x1000, 1, P | 1 << 51 | 0x9000);
        let found: Vec<_> = Runs::new(ram.tables().leaves()).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].is_ok() && found[1].is_err());
    }

    #[test]
    fn the_digest_sees_all_but_accessed_and_dirty() {
        let all = |ram: &TestRam| digest(&ram.tables(), Va::new(0), Va::new(u64::MAX >> 17)).unwrap();
        let mut ram = TestRam::new();
        ram.map(2 << 21, 3 << 21, LeafSize::M2, P | W);
        let before = all(&ram);
        ram.write_leaf(2 << 21, 2, 3 << 21 | P | W | 1 << 7 | 1 << 5 | 1 << 6);
        assert_eq!(all(&ram), before);
        for changed in [
            4 << 21 | P | W,
            3 << 21 | P,
            3 << 21 | P | W | 1 << 8,
            3 << 21 | P | W | 1 << 12,
            3 << 21 | P | W | NX,
        ] {
            ram.write_leaf(2 << 21, 2, changed | 1 << 7);
            assert_ne!(all(&ram), before, "{changed:#x}");
        }
    }
}
