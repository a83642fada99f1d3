//! The firmware's memory map, made sorted and disjoint.
//!
//! Firmware may list ranges in any order, overlapping and unaligned. What counts as RAM is what some entry calls RAM and no
//! entry calls anything else; RAM is then rounded inward to whole frames, so a byte that is only partly RAM is not used.

use core::fmt;

use heapless::Vec;

use crate::address::{Hpa, PAGE_SIZE, Pfn};
use crate::layout::DIRECT_MAP_BYTES;

/// Ranges that a normalised map can hold. Firmware maps have tens of entries; UEFI ones up to a few hundred before their
/// neighbours are joined. The number depends on the firmware, not on the amount of RAM.
pub const MAX_RANGES: usize = 256;

/// One entry as the firmware gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// First byte.
    pub start: Hpa,
    /// Length in bytes.
    pub bytes: u64,
    /// Whether the firmware calls it ordinary RAM.
    pub ram: bool,
}

/// Frames from `start` up to but not including `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// First frame.
    pub start: Pfn,
    /// The frame after the last.
    pub end: Pfn,
}

impl FrameRange {
    /// The smallest range of whole frames that holds `bytes` bytes from `start`; `None` past the end of 64 bits.
    pub fn covering(start: Hpa, bytes: u64) -> Option<Self> {
        let end = start.checked_add(bytes)?.checked_align_up(PAGE_SIZE)?;
        Some(Self {
            start: start.pfn(),
            end: end.pfn(),
        })
    }

    /// Number of frames.
    pub const fn frames(&self) -> u64 {
        self.end.get() - self.start.get()
    }

    /// Whether `pfn` lies in the range.
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.start <= pfn && pfn < self.end
    }

    /// The frames that both ranges hold; empty (`start == end`) when there are none.
    pub fn intersection(&self, other: &Self) -> Self {
        let start = self.start.max(other.start);
        Self {
            start,
            end: self.end.min(other.end).max(start),
        }
    }
}

/// Why a firmware map cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMapError {
    /// More separate ranges than [`MAX_RANGES`].
    TooManyRanges,
    /// No whole frame of RAM at all.
    NoRam,
}

impl fmt::Display for MemoryMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRanges => {
                write!(
                    f,
                    "the firmware's memory map has more than {MAX_RANGES} separate ranges"
                )
            }
            Self::NoRam => write!(f, "the firmware's memory map holds no RAM"),
        }
    }
}

impl core::error::Error for MemoryMapError {}

/// The machine's RAM: ranges of whole frames, ascending, disjoint, no two of them adjacent.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    ranges: Vec<FrameRange, MAX_RANGES>,
    unreachable_bytes: u64,
}

/// Where [`MemoryMap::find_free`] begins to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchFrom {
    /// At the lowest address.
    Low,
    /// At the highest address.
    High,
}

/// A range of bytes, half open.
#[derive(Clone, Copy)]
struct Bytes {
    start: u64,
    end: u64,
}

impl MemoryMap {
    /// Normalises the firmware's entries.
    ///
    /// # Errors
    /// When there is no RAM, or more ranges than fit.
    pub fn new(entries: impl Iterator<Item = RawEntry> + Clone) -> Result<Self, MemoryMapError> {
        let mut ram = Vec::<Bytes, MAX_RANGES>::new();
        let mut unreachable_bytes = 0;
        for entry in entries.clone().filter(|entry| entry.ram) {
            let start = entry.start.get();
            let end = start.saturating_add(entry.bytes);
            let reach = end.min(DIRECT_MAP_BYTES);
            // Overlapping entries count twice: it is a hint for people, not an account.
            unreachable_bytes = u64::saturating_add(unreachable_bytes, end - reach.max(start));
            if start < reach {
                insert(&mut ram, Bytes { start, end: reach })?;
            }
        }
        for entry in entries.filter(|entry| !entry.ram && entry.bytes > 0) {
            let start = entry.start.get();
            remove(
                &mut ram,
                Bytes {
                    start,
                    end: start.saturating_add(entry.bytes),
                },
            )?;
        }
        let mut ranges = Vec::new();
        for bytes in &ram {
            let Some(start) = Hpa::new(bytes.start).checked_align_up(PAGE_SIZE) else {
                continue;
            };
            let range = FrameRange {
                start: start.pfn(),
                end: Hpa::new(bytes.end).pfn(),
            };
            if range.start < range.end {
                ranges.push(range).map_err(|_| MemoryMapError::TooManyRanges)?;
            }
        }
        if ranges.is_empty() {
            return Err(MemoryMapError::NoRam);
        }
        Ok(Self {
            ranges,
            unreachable_bytes,
        })
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// Frames of RAM.
    pub fn frames(&self) -> u64 {
        self.ranges.iter().map(FrameRange::frames).sum()
    }

    /// The lowest, or the highest, `frames` contiguous frames of RAM within `within` that no range of `in_use` overlaps.
    pub fn find_free(
        &self,
        frames: u64,
        within: FrameRange,
        in_use: &[FrameRange],
        end: SearchFrom,
    ) -> Option<FrameRange> {
        let fit = |ram: &FrameRange| {
            let ram = ram.intersection(&within);
            let mut start = match end {
                SearchFrom::Low => ram.start,
                SearchFrom::High => Pfn::new(ram.end.get().checked_sub(frames)?),
            };
            // Each step leaves one range of `in_use` behind for good, so this ends.
            loop {
                let candidate = FrameRange {
                    start,
                    end: Pfn::new(start.get().checked_add(frames)?),
                };
                if candidate.start < ram.start || candidate.end > ram.end {
                    return None;
                }
                let Some(used) = in_use
                    .iter()
                    .find(|used| used.intersection(&candidate).frames() > 0)
                else {
                    return Some(candidate);
                };
                start = match end {
                    SearchFrom::Low => used.end,
                    SearchFrom::High => Pfn::new(used.start.get().checked_sub(frames)?),
                };
            }
        };
        match end {
            SearchFrom::Low => self.ranges.iter().find_map(fit),
            SearchFrom::High => self.ranges.iter().rev().find_map(fit),
        }
    }

    /// Bytes that the firmware calls RAM but that lie beyond the direct map's reach and are left unused.
    pub fn unreachable_bytes(&self) -> u64 {
        self.unreachable_bytes
    }
}

/// Joins `new` with everything in the sorted list that it overlaps or touches.
fn insert(list: &mut Vec<Bytes, MAX_RANGES>, mut new: Bytes) -> Result<(), MemoryMapError> {
    let first = list
        .iter()
        .position(|old| old.end >= new.start)
        .unwrap_or(list.len());
    while let Some(old) = list.get(first).copied().filter(|old| old.start <= new.end) {
        new = Bytes {
            start: old.start.min(new.start),
            end: old.end.max(new.end),
        };
        list.remove(first);
    }
    list.insert(first, new).map_err(|_| MemoryMapError::TooManyRanges)
}

/// Takes `gone` out of the sorted list; a range that it cuts in the middle becomes two.
fn remove(list: &mut Vec<Bytes, MAX_RANGES>, gone: Bytes) -> Result<(), MemoryMapError> {
    // A frame that is partly reserved is not RAM: widen the cut to whole frames.
    let gone = Bytes {
        start: gone.start & !(PAGE_SIZE - 1),
        end: gone
            .end
            .checked_add(PAGE_SIZE - 1)
            .map_or(u64::MAX, |end| end & !(PAGE_SIZE - 1)),
    };
    let mut i = 0;
    while let Some(old) = list.get(i).copied() {
        if old.end <= gone.start || gone.end <= old.start {
            i += 1;
            continue;
        }
        list.remove(i);
        for piece in [
            Bytes {
                start: old.start,
                end: gone.start,
            },
            Bytes {
                start: gone.end,
                end: old.end,
            },
        ] {
            if piece.start < piece.end {
                list.insert(i, piece).map_err(|_| MemoryMapError::TooManyRanges)?;
                i += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(start: u64, end: u64, ram: bool) -> RawEntry {
        RawEntry {
            start: Hpa::new(start),
            bytes: end - start,
            ram,
        }
    }

    fn ranges(entries: &[RawEntry]) -> std::vec::Vec<(u64, u64)> {
        let map = MemoryMap::new(entries.iter().copied()).unwrap();
        map.ranges()
            .iter()
            .map(|r| (r.start.get(), r.end.get()))
            .collect()
    }

    #[test]
    fn a_range_covers_all_frames_that_bytes_touch() {
        let covered = |start, bytes| {
            FrameRange::covering(Hpa::new(start), bytes).map(|range| (range.start.get(), range.end.get()))
        };
        assert_eq!(covered(0x1000, 0x1000), Some((1, 2)));
        assert_eq!(covered(0x1fff, 2), Some((1, 3)));
        assert_eq!(covered(u64::MAX - 1, 2), None);
        assert_eq!(
            covered(u64::MAX - 0xffff, 2),
            Some((0xf_ffff_ffff_fff0, 0xf_ffff_ffff_fff1))
        );
    }

    #[test]
    fn unsorted_overlapping_and_unaligned_entries_come_out_sorted_disjoint_and_whole() {
        let entries = [
            entry(0x10_0000, 0x80_0800, true),
            entry(0, 0x9_fc00, true),
            entry(0x40_0000, 0x90_0000, true),
            entry(0x20_0800, 0x20_0900, false),
            entry(0x9_fc00, 0xa_0000, false),
        ];
        assert_eq!(ranges(&entries), [(0, 0x9f), (0x100, 0x200), (0x201, 0x900)]);
    }

    #[test]
    fn halves_of_a_frame_that_meet_are_a_whole_frame() {
        assert_eq!(
            ranges(&[entry(0x1800, 0x3000, true), entry(0, 0x1800, true)]),
            [(0, 3)]
        );
    }

    #[test]
    fn ram_beyond_the_direct_map_is_counted_and_left_out() {
        let entries = [
            entry(0, 0x1000, true),
            entry(DIRECT_MAP_BYTES - 0x1000, DIRECT_MAP_BYTES + 0x3000, true),
        ];
        let map = MemoryMap::new(entries.into_iter()).unwrap();
        assert_eq!(map.unreachable_bytes(), 0x3000);
        assert_eq!(map.frames(), 2);
    }

    #[test]
    fn absurd_ram_beyond_the_direct_map_does_not_overflow() {
        let absurd = RawEntry {
            start: Hpa::new(DIRECT_MAP_BYTES),
            bytes: u64::MAX,
            ram: true,
        };
        let map = MemoryMap::new([entry(0, 0x1000, true), absurd, absurd].into_iter()).unwrap();
        assert_eq!(map.unreachable_bytes(), u64::MAX);
        assert_eq!(map.frames(), 1);
    }

    #[test]
    fn no_ram_is_an_error() {
        assert_eq!(
            MemoryMap::new([entry(0, 0xfff, true)].into_iter()).unwrap_err(),
            MemoryMapError::NoRam
        );
    }

    #[test]
    fn entries_that_wrap_do_no_harm() {
        let wrap = RawEntry {
            start: Hpa::new(u64::MAX - 10),
            bytes: 100,
            ram: false,
        };
        let all = RawEntry {
            start: Hpa::new(0x2000),
            bytes: u64::MAX,
            ram: false,
        };
        assert_eq!(ranges(&[entry(0, 0x5000, true), wrap, all]), [(0, 2)]);
    }

    #[test]
    fn free_frames_are_found_from_either_end_around_what_is_in_use() {
        let map = MemoryMap::new([entry(0, 0x10_0000, true), entry(0x20_0000, 0x40_0000, true)].into_iter())
            .unwrap();
        let range = |start, end| FrameRange {
            start: Pfn::new(start),
            end: Pfn::new(end),
        };
        let all = range(0, 1 << 30);
        let used = [range(0x3f0, 0x400), range(0x10, 0xf0), range(0x0, 0x1)];
        let find = |frames, within, end| {
            map.find_free(frames, within, &used, end)
                .map(|r| (r.start.get(), r.end.get()))
        };
        assert_eq!(find(8, all, SearchFrom::Low), Some((1, 9)));
        assert_eq!(find(16, all, SearchFrom::Low), Some((0xf0, 0x100)));
        assert_eq!(find(17, all, SearchFrom::Low), Some((0x200, 0x211)));
        assert_eq!(find(16, all, SearchFrom::High), Some((0x3e0, 0x3f0)));
        assert_eq!(find(16, range(0, 0x100), SearchFrom::High), Some((0xf0, 0x100)));
        assert_eq!(find(0x1f1, all, SearchFrom::High), None);
        assert_eq!(find(u64::MAX, all, SearchFrom::Low), None);
    }

    proptest! {
        /// Against a bitmap of bytes: a frame is RAM exactly when each of its bytes is RAM and no frame-widened reserved range touches it.
        #[test]
        fn agrees_with_a_bitmap(list in prop::collection::vec((0u64..64, 0u64..24, any::<bool>(), 0u64..2), 1..12)) {
            let half = PAGE_SIZE / 2;
            let entries: std::vec::Vec<_> =
                list.iter().map(|&(s, l, ram, _)| entry(s * half, (s + l) * half, ram)).collect();
            let mut ram = [false; 96];
            let mut reserved = [false; 96];
            for &(s, l, is_ram, _) in &list {
                for i in s..s + l { if is_ram { ram[i as usize] = true } else { reserved[i as usize] = true } }
            }
            let expected: std::vec::Vec<u64> = (0..48).filter(|&f| {
                let (a, b) = (2 * f as usize, 2 * f as usize + 1);
                ram[a] && ram[b] && !reserved[a] && !reserved[b]
            }).collect();
            let got: std::vec::Vec<u64> = match MemoryMap::new(entries.into_iter()) {
                Ok(map) => map.ranges().iter().flat_map(|r| r.start.get()..r.end.get()).collect(),
                Err(_) => std::vec::Vec::new(),
            };
            prop_assert_eq!(got, expected);
        }
    }
}
