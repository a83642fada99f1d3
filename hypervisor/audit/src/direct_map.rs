//! The direct map seen as one [`Region`] for each 2M block that holds RAM, in address order.
//!
//! Only blocks that hold RAM count, so RAM decides the amount of storage, not the highest address. On the way every leaf in
//! the area is checked: it must go to `va - base`, and to RAM only.

use core::fmt;
use core::iter::FusedIterator;

use crate::address::{G1, K4, M2, Pa, Va, fold};
use crate::entry::{Attributes, Leaf, LeafSize};
use crate::walk::{LeafCounts, Leaves, PhysicalRead, Tables, WalkError};

/// A physical extent, in bytes; `end` is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: Pa,
    /// First byte after it.
    pub end: Pa,
}

/// Why a [`DirectMap`] could not be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The base or the length is not a multiple of 1 GiB.
    NotAligned,
    /// An extent is empty, overlaps or precedes the one before it, is not a multiple of 4 KiB, or ends beyond the area.
    Extent {
        /// Its index.
        index: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAligned => write!(f, "the direct map's base and length must be multiples of 1 GiB"),
            Self::Extent { index } => write!(
                f,
                "RAM extent {index} is empty, out of order, not in whole 4K pages, or beyond the direct map: sort and merge the extents"
            ),
        }
    }
}

impl core::error::Error for LayoutError {}

/// Where the direct map is and what RAM it must show.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap<'e> {
    base: Va,
    bytes: u64,
    ram: &'e [Extent],
}

impl<'e> DirectMap<'e> {
    /// A direct map in the `bytes` bytes from `base`, for these sorted and disjoint extents of RAM (extents may touch).
    ///
    /// # Errors
    /// Names the rule that the arguments break.
    pub fn new(base: Va, bytes: u64, ram: &'e [Extent]) -> Result<Self, LayoutError> {
        let fits = bytes
            .checked_sub(1)
            .and_then(|last| base.get().checked_add(last))
            .is_some();
        if !fits || !base.get().is_multiple_of(G1) || !bytes.is_multiple_of(G1) {
            return Err(LayoutError::NotAligned);
        }
        let mut end = 0;
        for (index, extent) in ram.iter().enumerate() {
            let whole = extent.start.get() % K4 == 0 && extent.end.get() % K4 == 0;
            if !whole || extent.start.get() < end || extent.end <= extent.start || extent.end.get() > bytes {
                return Err(LayoutError::Extent { index });
            }
            end = extent.end.get();
        }
        Ok(Self { base, bytes, ram })
    }

    /// Number of 2M blocks that hold RAM: the words of storage that a boot record needs.
    pub fn slots(&self) -> usize {
        self.blocks().count()
    }

    /// Address of the direct map's view of `pa`.
    pub fn va(&self, pa: Pa) -> Va {
        Va::new(self.base.get() + pa.get())
    }

    /// The 2M blocks that hold RAM, in order.
    fn blocks(&self) -> Blocks<'e> {
        Blocks {
            ram: self.ram.iter(),
            next: 0,
            end: 0,
        }
    }

    /// Whether all of `start..end` is RAM.
    fn covers(&self, start: Pa, end: Pa) -> bool {
        let mut at = start;
        let first = self.ram.partition_point(|extent| extent.end <= start);
        for extent in &self.ram[first..] {
            if extent.start > at {
                return false;
            }
            at = extent.end;
            if at >= end {
                return true;
            }
        }
        false
    }

    /// Walks the direct map's area in `tables` and yields every 2M block that holds RAM. An error ends it; leaves that lie after
    /// the last block are still looked at.
    pub fn scan<'s, 'm, M: PhysicalRead + ?Sized>(&'s self, tables: &Tables<'m, M>) -> Scan<'s, 'm, M> {
        let last = Va::new(self.base.get() + (self.bytes - 1));
        Scan {
            map: self,
            leaves: tables.leaves_in(self.base, last),
            pending: None,
            blocks: self.blocks(),
            slot: 0,
            over: false,
        }
    }
}

/// Starts of the 2M blocks that hold RAM.
struct Blocks<'e> {
    ram: core::slice::Iter<'e, Extent>,
    next: u64,
    end: u64,
}

impl Iterator for Blocks<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.next >= self.end {
            let extent = self.ram.next()?;
            // Two extents may share a block: it comes once.
            self.next = self.next.max(extent.start.get() & !(M2 - 1));
            self.end = extent.end.get();
        }
        let block = self.next;
        self.next += M2;
        Some(block)
    }
}

/// How a 2M block is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionState {
    /// Nothing of it is mapped.
    Absent,
    /// Part of a 1G leaf.
    In1G(Attributes),
    /// One 2M leaf.
    Leaf2M(Attributes),
    /// 4K leaves.
    Small4K {
        /// Number of them, 1 to 512.
        leaves: u16,
        /// Of which pages and with which attributes.
        digest: u64,
    },
}

/// A 2M block of RAM in the direct map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its index among the blocks that hold RAM.
    pub slot: usize,
    /// Where the block starts.
    pub pa: Pa,
    /// How it is mapped.
    pub state: RegionState,
}

impl Region {
    /// The leaves that this block adds to the counts; a 1G leaf counts with its first block.
    pub fn leaves(&self) -> LeafCounts {
        match self.state {
            RegionState::Absent => LeafCounts::default(),
            RegionState::In1G(_) => LeafCounts {
                g1: u64::from(self.pa.get().is_multiple_of(G1)),
                ..LeafCounts::default()
            },
            RegionState::Leaf2M(_) => LeafCounts {
                m2: 1,
                ..LeafCounts::default()
            },
            RegionState::Small4K { leaves, .. } => LeafCounts {
                k4: leaves.into(),
                ..LeafCounts::default()
            },
        }
    }
}

/// What is wrong with the direct map, whatever is hidden in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// The tables are malformed.
    Walk(WalkError),
    /// A leaf in the area goes elsewhere than to `va - base`.
    NotLinear {
        /// Where the leaf is seen.
        va: Va,
        /// Where it goes.
        pa: Pa,
        /// Where it should go.
        expected: Pa,
    },
    /// A leaf shows something that is not RAM.
    NotRam {
        /// Where the leaf is seen.
        va: Va,
        /// Where it goes.
        pa: Pa,
        /// Its size.
        size: LeafSize,
    },
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::NotLinear { va, pa, expected } => {
                write!(f, "the direct map at {va} shows {pa} where {expected} belongs")
            }
            Self::NotRam { va, pa, size } => {
                write!(
                    f,
                    "the direct map at {va} shows {:#x} bytes at {pa}, which are not all RAM",
                    size.bytes()
                )
            }
        }
    }
}

impl core::error::Error for ScanError {}

/// Iterator over the 2M blocks that hold RAM; ends after the first error.
pub struct Scan<'s, 'm, M: ?Sized> {
    map: &'s DirectMap<'s>,
    leaves: Leaves<'m, M>,
    pending: Option<Leaf>,
    blocks: Blocks<'s>,
    slot: usize,
    over: bool,
}

impl<M: PhysicalRead + ?Sized> Scan<'_, '_, M> {
    /// The next leaf that no block has used up, checked.
    fn peek(&mut self) -> Result<Option<Leaf>, ScanError> {
        if self.pending.is_none()
            && let Some(leaf) = self.leaves.next()
        {
            let leaf = leaf.map_err(ScanError::Walk)?;
            let expected = Pa::new(leaf.va.get().wrapping_sub(self.map.base.get()));
            if leaf.pa != expected {
                return Err(ScanError::NotLinear {
                    va: leaf.va,
                    pa: leaf.pa,
                    expected,
                });
            }
            if !self.map.covers(leaf.pa, leaf.pa_end()) {
                return Err(ScanError::NotRam {
                    va: leaf.va,
                    pa: leaf.pa,
                    size: leaf.size,
                });
            }
            self.pending = Some(leaf);
        }
        Ok(self.pending)
    }

    fn state(&mut self, block: u64) -> Result<RegionState, ScanError> {
        let mut small: u16 = 0;
        let mut digest = 0;
        while let Some(leaf) = self.peek()? {
            if leaf.pa.get() >= block + M2 {
                break;
            }
            match leaf.size {
                LeafSize::G1 => {
                    if leaf.pa_end().get() <= block + M2 {
                        self.pending = None;
                    }
                    return Ok(RegionState::In1G(leaf.attributes));
                }
                LeafSize::M2 => {
                    self.pending = None;
                    return Ok(RegionState::Leaf2M(leaf.attributes));
                }
                LeafSize::K4 => {
                    self.pending = None;
                    small += 1;
                    digest = fold(fold(digest, leaf.pa.get() % M2), leaf.attributes.code().into());
                }
            }
        }
        Ok(if small == 0 {
            RegionState::Absent
        } else {
            RegionState::Small4K {
                leaves: small,
                digest,
            }
        })
    }

    fn step(&mut self) -> Result<Option<Region>, ScanError> {
        let Some(block) = self.blocks.next() else {
            // Every leaf inside RAM belongs to a block and was used up by it; what is left is looked at for its error.
            self.peek()?;
            return Ok(None);
        };
        let state = self.state(block)?;
        let slot = self.slot;
        self.slot += 1;
        Ok(Some(Region {
            slot,
            pa: Pa::new(block),
            state,
        }))
    }
}

impl<M: PhysicalRead + ?Sized> Iterator for Scan<'_, '_, M> {
    type Item = Result<Region, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step();
        self.over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

impl<M: PhysicalRead + ?Sized> FusedIterator for Scan<'_, '_, M> {}

#[cfg(test)]
mod tests;
