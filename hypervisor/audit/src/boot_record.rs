//! What the direct map was at boot, and whether it is that again.
//!
//! The record is one word for each 2M block that holds RAM (32 KiB for 8 GiB), in storage that the caller gives. For blocks in a 1G leaf
//! and for 2M leaves the word holds size and attributes exactly; the address needs no room because the scan has checked that
//! every leaf is linear. For blocks of 4K leaves it holds a 62-bit digest.

use core::fmt;

use crate::address::{G1, M2, Pa, Va, fold};
use crate::direct_map::{DirectMap, Region, RegionState, ScanError};
use crate::private::PrivateSet;
use crate::walk::{LeafCounts, PhysicalRead, Tables};

const KIND: u64 = 0b11;
const ABSENT: u64 = 0;
const IN_1G: u64 = 1;
const LEAF_2M: u64 = 2;
const SMALL_4K: u64 = 3;

/// The word for a block. Bits 1:0 are the kind, the rest attributes or digest.
fn signature(state: RegionState) -> u64 {
    match state {
        RegionState::Absent => ABSENT,
        RegionState::In1G(attributes) => IN_1G | u64::from(attributes.code()) << 2,
        RegionState::Leaf2M(attributes) => LEAF_2M | u64::from(attributes.code()) << 2,
        RegionState::Small4K { digest, .. } => SMALL_4K | digest << 2,
    }
}

/// The word that a block must have when its gigablock has holes elsewhere: 2M where it was 1G, else as at boot.
fn beside_holes(at_boot: u64) -> u64 {
    if at_boot & KIND == IN_1G {
        at_boot & !KIND | LEAF_2M
    } else {
        at_boot
    }
}

fn describe(signature: u64) -> &'static str {
    match signature & KIND {
        IN_1G => "part of a 1G leaf",
        LEAF_2M => "a 2M leaf",
        SMALL_4K => "4K leaves",
        _ => "absent",
    }
}

/// Why no record could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// The storage has another length than [`DirectMap::slots`].
    Storage {
        /// Words needed.
        needed: usize,
        /// Words given.
        given: usize,
    },
    /// The direct map is wrong already.
    Scan(ScanError),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage { needed, given } => {
                write!(
                    f,
                    "the boot record needs {needed} words of storage for this RAM and got {given}"
                )
            }
            Self::Scan(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CaptureError {}

/// A difference between the direct map and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootViolation {
    /// The direct map is malformed, not linear, or shows what is not RAM.
    Scan(ScanError),
    /// A hole is mapped, wholly or in part.
    HoleMapped {
        /// The block.
        pa: Pa,
        /// Where the direct map shows it.
        va: Va,
        /// Owner of the hole.
        owner: u64,
    },
    /// A hole is given for a block that has no RAM.
    HoleNotRam {
        /// Blocks of RAM found to be holes.
        found: u64,
        /// Blocks that the extents name.
        given: u64,
    },
    /// A block outside the holes is not what it must be.
    Changed {
        /// The block.
        pa: Pa,
        /// Where the direct map shows it.
        va: Va,
        /// What it must be; opaque but for its name in the Display text.
        expected: u64,
        /// What it is.
        found: u64,
    },
}

impl fmt::Display for BootViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan(error) => error.fmt(f),
            Self::HoleMapped { pa, va, owner } => {
                write!(
                    f,
                    "region {pa} is a hole of owner {owner}, and the direct map shows it at {va}"
                )
            }
            Self::HoleNotRam { found, given } => {
                write!(
                    f,
                    "{given} regions are given as holes, but only {found} of them are RAM"
                )
            }
            Self::Changed {
                pa,
                va,
                expected,
                found,
            } if expected & KIND == found & KIND => {
                write!(
                    f,
                    "region {pa} (at {va}) is {} as it must be, with other attributes or pages",
                    describe(*found)
                )
            }
            Self::Changed {
                pa,
                va,
                expected,
                found,
            } => {
                write!(
                    f,
                    "region {pa} (at {va}) is {}, and must be {}",
                    describe(*found),
                    describe(*expected)
                )
            }
        }
    }
}

impl core::error::Error for BootViolation {}

/// What a check of the whole direct map found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootCheck {
    /// Gigablocks without holes, each equal to its boot state.
    pub gigablocks_as_boot: u64,
    /// Gigablocks with holes.
    pub gigablocks_with_holes: u64,
    /// Regions that are holes, each absent.
    pub holes: u64,
    /// Leaves of the direct map.
    pub leaves: LeafCounts,
}

/// The direct map as it was when the record was made.
#[derive(Debug)]
pub struct BootRecord<'s> {
    map: DirectMap<'s>,
    words: &'s [u64],
}

impl<'s> BootRecord<'s> {
    /// Records the direct map in `tables`. `storage` must have [`DirectMap::slots`] words.
    ///
    /// # Errors
    /// The storage has the wrong length, or the direct map is wrong already; the storage's content is then unspecified.
    pub fn capture<M: PhysicalRead + ?Sized>(
        map: DirectMap<'s>,
        tables: &Tables<'_, M>,
        storage: &'s mut [u64],
    ) -> Result<Self, CaptureError> {
        let needed = map.slots();
        if storage.len() != needed {
            return Err(CaptureError::Storage {
                needed,
                given: storage.len(),
            });
        }
        for region in map.scan(tables) {
            let region = region.map_err(CaptureError::Scan)?;
            if let Some(word) = storage.get_mut(region.slot) {
                *word = signature(region.state);
            }
        }
        Ok(Self { map, words: storage })
    }

    /// The direct map that was recorded.
    pub fn direct_map(&self) -> &DirectMap<'s> {
        &self.map
    }

    /// A stable digest of the whole record; equal for equal machines and builds.
    pub fn digest(&self) -> u64 {
        self.words.iter().fold(0, |digest, word| fold(digest, *word))
    }

    /// Checks the direct map in `tables` against the record.
    ///
    /// - Every region that lies in extents of `holes` is absent, all of it. One that lies there partly is mapped by 4K leaves, as many as
    ///   pages are left. (That these are the right pages is for [`check_unreachable`](crate::check_unreachable) to find.)
    /// - A gigablock without such regions is what it was at boot, leaf for leaf (accessed and dirty aside).
    /// - In a gigablock with holes every other region is a 2M leaf with the attributes it had at boot, or what it was at boot where that was
    ///   smaller than 2M or absent.
    ///
    /// # Errors
    /// The first difference, in address order.
    pub fn check<M: PhysicalRead + ?Sized>(
        &self,
        tables: &Tables<'_, M>,
        holes: &PrivateSet<'_>,
    ) -> Result<BootCheck, BootViolation> {
        let mut done = BootCheck::default();
        let mut gigablock = None;
        let mut has_holes = false;
        for region in self.map.scan(tables) {
            let region = region.map_err(BootViolation::Scan)?;
            let base = region.pa.get() & !(G1 - 1);
            if gigablock != Some(base) {
                gigablock = Some(base);
                has_holes = holes.overlap(Pa::new(base), Pa::new(base + G1)).is_some();
                if has_holes {
                    done.gigablocks_with_holes += 1;
                } else {
                    done.gigablocks_as_boot += 1;
                }
            }
            self.check_region(&region, has_holes, holes, &mut done)?;
        }
        let given = holes.regions();
        if done.holes != given {
            return Err(BootViolation::HoleNotRam {
                found: done.holes,
                given,
            });
        }
        Ok(done)
    }

    fn check_region(
        &self,
        region: &Region,
        has_holes: bool,
        holes: &PrivateSet<'_>,
        done: &mut BootCheck,
    ) -> Result<(), BootViolation> {
        let leaves = region.leaves();
        done.leaves.g1 += leaves.g1;
        done.leaves.m2 += leaves.m2;
        done.leaves.k4 += leaves.k4;
        let (pa, va) = (region.pa, self.map.va(region.pa));
        let found = signature(region.state);
        let hole = if has_holes {
            holes.overlap(pa, Pa::new(pa.get() + M2))
        } else {
            None
        };
        let at_boot = self.words.get(region.slot).copied().unwrap_or(ABSENT);
        if let Some(hole) = hole {
            let pages = M2 / 4096 - holes.pages(pa, Pa::new(pa.get() + M2));
            let as_it_must = match region.state {
                RegionState::Absent => pages == 0 || at_boot & KIND == SMALL_4K,
                RegionState::Small4K { leaves, .. } => {
                    u64::from(leaves) == pages || at_boot & KIND == SMALL_4K && u64::from(leaves) < pages
                }
                RegionState::In1G(_) | RegionState::Leaf2M(_) => false,
            };
            if !as_it_must {
                return Err(BootViolation::HoleMapped {
                    pa,
                    va,
                    owner: hole.owner,
                });
            }
            done.holes += 1;
            return Ok(());
        }
        let expected = if has_holes { beside_holes(at_boot) } else { at_boot };
        if found != expected {
            return Err(BootViolation::Changed {
                pa,
                va,
                expected,
                found,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
