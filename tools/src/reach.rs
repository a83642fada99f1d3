//! Whether any host address leads to given frames.

use audit::{Leaf, Pa, PhysicalRead, PrivateExtent, Reach, Tables, Va, Visit, WalkError};
use guest_abi::launch_area::MEMORY_MAX;
use serde::{Deserialize, Serialize};

use crate::dump::hex;
use crate::search::Hit;

/// What a guest's tables map from here on is at its shared alias: no guest is that large, and the shared bit is above it on every CPU with
/// more than 37 address bits.
pub const SHARED_FROM: Va = Va::new(MEMORY_MAX.next_power_of_two());

/// Physical memory that the host must not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frames {
    /// First byte, a multiple of 4 KiB.
    #[serde(with = "hex")]
    pub start: u64,
    /// First byte after it, a multiple of 4 KiB.
    #[serde(with = "hex")]
    pub end: u64,
    /// Whose they are: the guest's instance number.
    pub owner: u64,
}

impl Frames {
    /// The 4K frames in which the search found a guest's words. Frames that hold words of several guests go to the first.
    pub fn of_hits(hits: &[Hit]) -> Vec<Self> {
        let frames = hits.iter().map(|hit| Self {
            start: hit.pa & !0xfff,
            end: (hit.pa + hit.words * 8).next_multiple_of(4096),
            owner: hit.instance.into(),
        });
        Self::sorted(frames.collect())
    }

    /// The private memory under the leaves of a guest's second stage: below the shared alias, [`SHARED_FROM`].
    ///
    /// # Errors
    /// The tables are malformed.
    pub fn of_second_stage<M: PhysicalRead + ?Sized>(
        tables: &Tables<'_, M>,
        owner: u64,
    ) -> Result<Vec<Self>, WalkError> {
        let private = tables
            .leaves()
            .filter(|leaf| !matches!(leaf, Ok(leaf) if leaf.va >= SHARED_FROM));
        let frames = private.map(|leaf| {
            leaf.map(|leaf| Self {
                start: leaf.pa.get(),
                end: leaf.pa_end().get(),
                owner,
            })
        });
        Ok(Self::sorted(frames.collect::<Result<_, _>>()?))
    }

    /// What a guest's second stage maps at its shared alias and no leaf of the host's tables shows: it is shared in place, and the guest's as much as
    /// its private memory.
    ///
    /// # Errors
    /// The tables of the guest are malformed, or those of the host.
    pub fn in_place<M: PhysicalRead + ?Sized>(
        tables: &Tables<'_, M>,
        owner: u64,
        host: &Tables<'_, M>,
    ) -> Result<Vec<Self>, WalkError> {
        let extent = |leaf: Leaf| Self {
            start: leaf.pa.get(),
            end: leaf.pa_end().get(),
            owner,
        };
        let mut shared = Vec::new();
        for leaf in tables.leaves() {
            shared.extend(Some(leaf?).filter(|leaf| leaf.va >= SHARED_FROM).map(extent));
        }
        if shared.is_empty() {
            return Ok(shared);
        }
        let shown: Result<Vec<Self>, WalkError> = host.leaves().map(|leaf| leaf.map(extent)).collect();
        let shown = Self::sorted(shown?);
        shared.retain(|frames| {
            let first = shown.partition_point(|shown| shown.end <= frames.start);
            shown.get(first).is_none_or(|shown| shown.start >= frames.end)
        });
        Ok(Self::sorted(shared))
    }

    /// Sorts, joins neighbours of one owner, and cuts overlaps.
    pub fn sorted(mut frames: Vec<Self>) -> Vec<Self> {
        frames.sort();
        let mut sorted: Vec<Self> = Vec::new();
        for mut next in frames {
            if let Some(last) = sorted.last_mut() {
                next.start = next.start.max(last.end);
                if last.end == next.start && last.owner == next.owner {
                    last.end = last.end.max(next.end);
                    continue;
                }
            }
            if next.start < next.end {
                sorted.push(next);
            }
        }
        sorted
    }
}

/// Every leaf of `tables` that shows one of `frames`, and every table that lies in one; for each the first such byte. Empty is what
/// should be.
///
/// # Errors
/// The tables are malformed.
pub fn reachable<M: PhysicalRead + ?Sized>(
    tables: &Tables<'_, M>,
    frames: &[Frames],
) -> Result<Vec<Reach>, WalkError> {
    let extents = Frames::sorted(frames.to_vec());
    let extents: Vec<PrivateExtent> = extents.into_iter().map(PrivateExtent::from).collect();
    let overlap = |start: Pa, end: Pa| {
        let first = extents.partition_point(|extent| extent.end <= start);
        extents.get(first).filter(|extent| extent.start < end)
    };
    let mut found = Vec::new();
    for step in tables.walk() {
        let (va, start, end, table) = match step? {
            Visit::Table { va, level, pa } => (va, pa, Pa::new(pa.get() + 4096), Some(level)),
            Visit::Leaf(leaf) => (leaf.va, leaf.pa, leaf.pa_end(), None),
        };
        if let Some(extent) = overlap(start, end) {
            let pa = start.max(extent.start);
            let offset = if table.is_some() {
                0
            } else {
                pa.get() - start.get()
            };
            found.push(Reach {
                va: Va::new(va.get() + offset),
                pa,
                owner: extent.owner,
                table,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(start: u64, end: u64, owner: u64) -> Frames {
        Frames { start, end, owner }
    }

    #[test]
    fn frames_are_sorted_joined_and_cut() {
        let sorted = Frames::sorted(vec![
            frames(0x5000, 0x6000, 1),
            frames(0x1000, 0x3000, 1),
            frames(0x3000, 0x4000, 1),
            frames(0x2000, 0x3000, 1),
            frames(0x5000, 0x7000, 2),
        ]);
        assert_eq!(
            sorted,
            [
                frames(0x1000, 0x4000, 1),
                frames(0x5000, 0x6000, 1),
                frames(0x6000, 0x7000, 2)
            ]
        );
    }

    #[test]
    fn hits_give_whole_frames() {
        let hit = |pa, words| Hit {
            pa,
            instance: 4,
            gpa: 0,
            words,
        };
        assert_eq!(
            Frames::of_hits(&[hit(0x1ff0, 4), hit(0x9008, 5)]),
            [frames(0x1000, 0x3000, 4), frames(0x9000, 0xa000, 4)]
        );
    }
}
