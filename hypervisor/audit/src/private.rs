//! The private extents, and the two checks on them: no host table reaches one, and a guest's tables reach its own exactly once.

use core::fmt;

use crate::address::{K4, M2, Pa, Va, mix};
use crate::walk::{PhysicalRead, Stats, Tables, Visit, WalkError};

/// Physical memory that one owner alone may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateExtent {
    /// First byte; a multiple of 4 KiB.
    pub start: Pa,
    /// First byte after it; a multiple of 4 KiB.
    pub end: Pa,
    /// Whose it is; a number that means something to the caller.
    pub owner: u64,
}

/// An extent that is empty, overlaps or precedes the one before it, or is not in whole 4K pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetError {
    /// Its index.
    pub index: usize,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "private extent {} is empty, out of order or not in whole 4K pages: sort the extents; none may overlap",
            self.index
        )
    }
}

impl core::error::Error for SetError {}

/// Private extents, sorted and disjoint.
#[derive(Clone, Copy, Debug)]
pub struct PrivateSet<'e> {
    extents: &'e [PrivateExtent],
}

impl<'e> PrivateSet<'e> {
    /// Nothing is private.
    pub const EMPTY: Self = Self { extents: &[] };

    /// Takes extents that the caller has sorted.
    ///
    /// # Errors
    /// The first extent out of order. An overlap is an error because a frame has one owner.
    pub fn new(extents: &'e [PrivateExtent]) -> Result<Self, SetError> {
        let mut end = 0;
        for (index, extent) in extents.iter().enumerate() {
            let whole = extent.start.get() % K4 == 0 && extent.end.get() % K4 == 0;
            if !whole || extent.start.get() < end || extent.end <= extent.start {
                return Err(SetError { index });
            }
            end = extent.end.get();
        }
        Ok(Self { extents })
    }

    /// The first extent that has a byte in `start..end`.
    pub fn overlap(&self, start: Pa, end: Pa) -> Option<&'e PrivateExtent> {
        let first = self.extents.partition_point(|extent| extent.end <= start);
        self.extents.get(first).filter(|extent| extent.start < end)
    }

    /// Number of regions (2M blocks) that some extent overlaps.
    pub fn regions(&self) -> u64 {
        let mut count = 0;
        let mut counted_to = 0;
        for extent in self.extents {
            let first = (extent.start.get() / M2).max(counted_to);
            let end = extent.end.get().div_ceil(M2);
            count += end.saturating_sub(first);
            counted_to = end;
        }
        count
    }

    /// Pages of `start..end` that some extent overlaps; the extents are made of whole pages.
    pub(crate) fn pages(&self, start: Pa, end: Pa) -> u64 {
        let first = self.extents.partition_point(|extent| extent.end <= start);
        let inside = self.extents[first..]
            .iter()
            .take_while(|extent| extent.start < end);
        let bytes = inside.map(|extent| extent.end.min(end).get() - extent.start.max(start).get());
        bytes.sum::<u64>() / K4
    }

    /// The first byte of `start..end` that is not `owner`'s, with its owner.
    fn not_owned(&self, start: Pa, end: Pa, owner: u64) -> Option<(Pa, Option<u64>)> {
        let mut at = start;
        while at < end {
            match self.overlap(at, Pa::new(at.get() + 1)) {
                Some(extent) if extent.owner == owner => at = extent.end,
                other => return Some((at, other.map(|extent| extent.owner))),
            }
        }
        None
    }
}

/// How a private byte is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The host address that leads there; for a table, the first address that it translates.
    pub va: Va,
    /// The first private byte reached.
    pub pa: Pa,
    /// Its owner.
    pub owner: u64,
    /// `Some(level)` when the private memory is in use as a host table of that level, which its owner could write.
    pub table: Option<u8>,
}

/// Host tables reach private memory, or are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateViolation {
    /// The tables are malformed.
    Walk(WalkError),
    /// A private byte is reachable.
    Reached(Reach),
}

impl fmt::Display for PrivateViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::Reached(Reach {
                va,
                pa,
                owner,
                table: None,
            }) => {
                write!(
                    f,
                    "host address {va} translates to {pa}, which is private to owner {owner}"
                )
            }
            Self::Reached(Reach {
                va,
                pa,
                owner,
                table: Some(level),
            }) => {
                write!(
                    f,
                    "the host's level {level} table for {va} lies at {pa}, which is private to owner {owner}"
                )
            }
        }
    }
}

impl core::error::Error for PrivateViolation {}

/// Checks that no address of `tables` translates to a private byte, in any area and with any rights, and that no table lies in one.
///
/// # Errors
/// The first way to reach a private byte in address order, or the first malformed place.
pub fn check_unreachable<M: PhysicalRead + ?Sized>(
    tables: &Tables<'_, M>,
    private: &PrivateSet<'_>,
) -> Result<Stats, PrivateViolation> {
    let mut stats = Stats::default();
    for step in tables.walk() {
        let (va, start, end, table) = match step.map_err(PrivateViolation::Walk)? {
            Visit::Table { va, level, pa } => {
                stats.tables += 1;
                (va, pa, Pa::new(pa.get() + K4), Some(level))
            }
            Visit::Leaf(leaf) => {
                stats.leaves.add(leaf.size);
                (leaf.va, leaf.pa, leaf.pa_end(), None)
            }
        };
        if let Some(extent) = private.overlap(start, end) {
            let pa = start.max(extent.start);
            let offset = if table.is_some() {
                0
            } else {
                pa.get() - start.get()
            };
            let va = Va::new(va.get() + offset);
            return Err(PrivateViolation::Reached(Reach {
                va,
                pa,
                owner: extent.owner,
                table,
            }));
        }
    }
    Ok(stats)
}

/// A guest's second stage does not map exactly its own frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondStageViolation {
    /// The tables are malformed.
    Walk(WalkError),
    /// A table lies in private memory, where its owner could write it and the host could not read it.
    TablePrivate {
        /// The first guest-physical address that it translates.
        gpa: Va,
        /// Its level.
        level: u8,
        /// Where it is.
        pa: Pa,
        /// Owner of that memory.
        owner: u64,
    },
    /// A frame of someone else is mapped.
    NotOwned {
        /// The guest-physical address.
        gpa: Va,
        /// The frame.
        pa: Pa,
        /// Its owner, if it has one.
        owner: Option<u64>,
    },
    /// The shared alias leads to private memory that is not, or not all, the guest's.
    SharedPrivate {
        /// The guest-physical address.
        gpa: Va,
        /// The first private byte.
        pa: Pa,
        /// Its owner.
        owner: u64,
    },
    /// The shared alias leads to private frames of the guest, but not to those that are shared in place.
    NotInPlace {
        /// Bytes of its own that the shared alias leads to.
        mapped: u64,
        /// Bytes that are shared in place.
        expected: u64,
    },
    /// The guest could reach its memory past the caches.
    NotWriteBack {
        /// The guest-physical address.
        gpa: Va,
    },
    /// Only the guest's own frames are mapped, but not each of them either at exactly one address or not to be reached at the moment.
    NotOnce {
        /// Bytes mapped, or not to be reached.
        mapped: u64,
        /// Bytes owned.
        owned: u64,
    },
}

impl fmt::Display for SecondStageViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::TablePrivate {
                gpa,
                level,
                pa,
                owner,
            } => {
                write!(
                    f,
                    "the level {level} table for guest-physical {gpa} lies at {pa}, which is private to owner {owner}"
                )
            }
            Self::NotOwned {
                gpa,
                pa,
                owner: Some(owner),
            } => {
                write!(
                    f,
                    "guest-physical {gpa} translates to {pa}, which belongs to owner {owner}"
                )
            }
            Self::NotOwned { gpa, pa, owner: None } => {
                write!(f, "guest-physical {gpa} translates to {pa}, which is not private")
            }
            Self::SharedPrivate { gpa, pa, owner } => {
                write!(
                    f,
                    "the shared guest-physical {gpa} translates to {pa}, which is private to owner {owner}"
                )
            }
            Self::NotInPlace { mapped, expected } => write!(
                f,
                "the shared alias leads to other private frames than those shared in place: {mapped} bytes mapped, {expected} bytes shared"
            ),
            Self::NotWriteBack { gpa } => {
                write!(
                    f,
                    "guest-physical {gpa} is not write-back whatever the guest asks"
                )
            }
            Self::NotOnce { mapped, owned } => write!(
                f,
                "the guest's frames are not each mapped at one address: {mapped} bytes mapped, {owned} bytes owned"
            ),
        }
    }
}

impl core::error::Error for SecondStageViolation {}

/// A guest as its second-stage tables should show it.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedGuest<U, I> {
    /// The owner of its private memory.
    pub owner: u64,
    /// The first guest-physical address of its shared alias: what is mapped from here on must not be private, but for what is shared in place.
    pub shared_from: Va,
    /// Private frames that it owns and can't reach at the moment: first byte, and one past the last.
    pub unreachable: U,
    /// Private frames that it owns and reaches at the shared alias only.
    pub in_place: I,
}

impl ExpectedGuest<core::iter::Empty<(Pa, Pa)>, core::iter::Empty<(Pa, Pa)>> {
    /// A guest that shares nothing and reaches all that it owns.
    pub const fn all_private(owner: u64) -> Self {
        Self {
            owner,
            shared_from: Va::new(u64::MAX),
            unreachable: core::iter::empty(),
            in_place: core::iter::empty(),
        }
    }
}

/// Checks that second-stage `tables` map every frame of the owner in `private`, but for those that it can't reach at the moment, at exactly one guest-physical
/// address, at the shared alias exactly those that are shared in place, and below it nothing else, in memory that is write-back ([`Format::forces_write_back`](crate::Format::forces_write_back)), and that no table
/// lies in private memory, whosever it is. Such a table is not read.
///
/// "Exactly once" needs no storage: both sides add one well-mixed number for each frame, and the sums must agree. An error escapes
/// with a chance of about one in 2^50.
///
/// # Errors
/// The first frame of someone else, or that the frames are not each mapped once, or the first malformed place.
pub fn check_second_stage<M: PhysicalRead + ?Sized>(
    tables: &Tables<'_, M>,
    private: &PrivateSet<'_>,
    expected: ExpectedGuest<impl Iterator<Item = (Pa, Pa)>, impl Iterator<Item = (Pa, Pa)>>,
) -> Result<Stats, SecondStageViolation> {
    let ExpectedGuest {
        owner,
        shared_from,
        unreachable,
        in_place,
    } = expected;
    let mut stats = Stats::default();
    let (mut mapped, mut owned) = (FrameSum::default(), FrameSum::default());
    let (mut shared, mut meant) = (FrameSum::default(), FrameSum::default());
    for step in tables.walk() {
        match step.map_err(SecondStageViolation::Walk)? {
            // The walk announces a table before it reads from it.
            Visit::Table { va, level, pa } => {
                stats.tables += 1;
                if let Some(extent) = private.overlap(pa, Pa::new(pa.get() + K4)) {
                    return Err(SecondStageViolation::TablePrivate {
                        gpa: va,
                        level,
                        pa,
                        owner: extent.owner,
                    });
                }
            }
            Visit::Leaf(leaf) => {
                stats.leaves.add(leaf.size);
                if !tables.format().forces_write_back(leaf.attributes) {
                    return Err(SecondStageViolation::NotWriteBack { gpa: leaf.va });
                }
                if leaf.va >= shared_from {
                    let Some(extent) = private.overlap(leaf.pa, leaf.pa_end()) else {
                        continue;
                    };
                    if private.not_owned(leaf.pa, leaf.pa_end(), owner).is_some() {
                        let pa = leaf.pa.max(extent.start);
                        return Err(SecondStageViolation::SharedPrivate {
                            gpa: Va::new(leaf.va.get() + (pa.get() - leaf.pa.get())),
                            pa,
                            owner: extent.owner,
                        });
                    }
                    shared.add(leaf.pa, leaf.pa_end());
                    mapped.add(leaf.pa, leaf.pa_end());
                    continue;
                }
                if let Some((pa, other)) = private.not_owned(leaf.pa, leaf.pa_end(), owner) {
                    let gpa = Va::new(leaf.va.get() + (pa.get() - leaf.pa.get()));
                    return Err(SecondStageViolation::NotOwned {
                        gpa,
                        pa,
                        owner: other,
                    });
                }
                mapped.add(leaf.pa, leaf.pa_end());
            }
        }
    }
    for (start, end) in in_place {
        meant.add(start, end);
    }
    if shared != meant {
        return Err(SecondStageViolation::NotInPlace {
            mapped: shared.bytes,
            expected: meant.bytes,
        });
    }
    for (start, end) in unreachable {
        mapped.add(start, end);
    }
    for extent in private.extents.iter().filter(|extent| extent.owner == owner) {
        owned.add(extent.start, extent.end);
    }
    if mapped != owned {
        return Err(SecondStageViolation::NotOnce {
            mapped: mapped.bytes,
            owned: owned.bytes,
        });
    }
    Ok(stats)
}

/// A sum over a multiset of frames that does not depend on order or on how they are joined to extents. A frame adds
/// `mix(region) * weight(index in region)`; a whole region is one multiplication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FrameSum {
    bytes: u64,
    sum: u64,
}

impl FrameSum {
    /// Sum of all weights of a region.
    const REGION: u64 = {
        let mut sum = 0u64;
        let mut index = 0;
        while index < M2 / K4 {
            sum = sum.wrapping_add(Self::weight(index));
            index += 1;
        }
        sum
    };

    const fn weight(index: u64) -> u64 {
        mix(index + 1)
    }

    fn add(&mut self, start: Pa, end: Pa) {
        self.bytes += end.get() - start.get();
        let mut at = start.get();
        while at < end.get() {
            let region = mix(at / M2 + 1);
            let (weight, step) = if at.is_multiple_of(M2) && at + M2 <= end.get() {
                (Self::REGION, M2)
            } else {
                (Self::weight(at % M2 / K4), K4)
            };
            self.sum = self.sum.wrapping_add(region.wrapping_mul(weight));
            at += step;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
