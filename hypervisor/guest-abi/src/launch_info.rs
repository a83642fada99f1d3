//! The page that tells a guest what it was given.

use core::fmt;
use core::ops::Range;

use crate::ABI_VERSION;
use crate::launch_area::{GDT, LAUNCH_INFO, PAGE};

/// First eight bytes of a [`LaunchInfo`]: "LACUNAgi" in memory order.
pub const LAUNCH_MAGIC: u64 = u64::from_le_bytes(*b"LACUNAgi");

/// What a guest finds at [`launch_area::LAUNCH_INFO`](crate::launch_area::LAUNCH_INFO). All addresses are guest-physical, all
/// ends exclusive, all numbers little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct LaunchInfo {
    /// [`LAUNCH_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// Bytes of this structure that are filled in; a later version may append fields.
    pub bytes: u32,
    /// Size of the guest's memory in bytes; it lies at 0 and has no gaps.
    pub memory_bytes: u64,
    /// Page of the lowest byte of the loaded image.
    pub image_start: u64,
    /// End of the highest page of the loaded image, zero-filled part included.
    pub image_end: u64,
    /// First byte of the page tables that CR3 points to at the start.
    pub page_tables_start: u64,
    /// First byte above those page tables.
    pub page_tables_end: u64,
    /// Lowest byte of the stack.
    pub stack_start: u64,
    /// First byte above the stack.
    pub stack_end: u64,
    /// Number of this guest in the run, counted from 1; no two guests of a run have the same.
    pub instance: u32,
    /// No flag is defined yet: zero. A guest ignores bits it does not know.
    pub flags: u32,
    /// Seed of the run, from which [`pattern`](crate::pattern) is derived.
    pub seed: u64,
}

const _: () = assert!(size_of::<LaunchInfo>() == LaunchInfo::BYTES);
const _: () = assert!(align_of::<LaunchInfo>() == 8);
const _: () = assert!(core::mem::offset_of!(LaunchInfo, memory_bytes) == 16);
const _: () = assert!(core::mem::offset_of!(LaunchInfo, instance) == 72);
const _: () = assert!(core::mem::offset_of!(LaunchInfo, seed) == 80);

impl LaunchInfo {
    /// Size of the structure in bytes.
    pub const BYTES: usize = 88;

    /// The structure as it lies in guest memory.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [
            self.magic,
            u64::from(self.abi_version) | u64::from(self.bytes) << 32,
            self.memory_bytes,
            self.image_start,
            self.image_end,
            self.page_tables_start,
            self.page_tables_end,
            self.stack_start,
            self.stack_end,
            u64::from(self.instance) | u64::from(self.flags) << 32,
            self.seed,
        ];
        for (out, word) in bytes.chunks_exact_mut(8).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the structure from the start of `bytes`, for instance of a guest's page seen from outside.
    ///
    /// # Errors
    /// [`LaunchInfoError`] when `bytes` is too short or does not start with a structure of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LaunchInfoError> {
        let Some(bytes) = bytes.first_chunk::<{ Self::BYTES }>() else {
            return Err(LaunchInfoError::TooShort { found: bytes.len() });
        };
        let mut words = [0_u64; Self::BYTES / 8];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        let info = Self {
            magic: words[0],
            abi_version: words[1] as u32,
            bytes: (words[1] >> 32) as u32,
            memory_bytes: words[2],
            image_start: words[3],
            image_end: words[4],
            page_tables_start: words[5],
            page_tables_end: words[6],
            stack_start: words[7],
            stack_end: words[8],
            instance: words[9] as u32,
            flags: (words[9] >> 32) as u32,
            seed: words[10],
        };
        info.check()?;
        Ok(info)
    }

    /// The parts of memory that hold nothing of the guest's own, in ascending order: not the launch information, GDT, stack, page
    /// tables and image. At the start they are zero, and a guest may use all of them.
    pub fn free_extents(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let mut used = [
            (LAUNCH_INFO, LAUNCH_INFO + PAGE),
            (GDT, GDT + PAGE),
            (self.stack_start, self.stack_end),
            (self.page_tables_start, self.page_tables_end),
            (self.image_start, self.image_end),
            (self.memory_bytes, u64::MAX),
        ];
        used.sort_unstable();
        let mut free_from = 0;
        used.into_iter().filter_map(move |(start, end)| {
            let gap = free_from..start;
            free_from = free_from.max(start).max(end);
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// Checks that magic, version and size are those of this crate.
    ///
    /// # Errors
    /// [`LaunchInfoError`] names the field that is different.
    pub const fn check(&self) -> Result<(), LaunchInfoError> {
        if self.magic != LAUNCH_MAGIC {
            return Err(LaunchInfoError::Magic { found: self.magic });
        }
        if self.abi_version != ABI_VERSION {
            return Err(LaunchInfoError::Version {
                found: self.abi_version,
            });
        }
        if (self.bytes as usize) < Self::BYTES {
            return Err(LaunchInfoError::Size { found: self.bytes });
        }
        Ok(())
    }
}

/// Why bytes are no [`LaunchInfo`] of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaunchInfoError {
    /// Fewer bytes than the structure has.
    TooShort {
        /// Bytes there were.
        found: usize,
    },
    /// The first word is not [`LAUNCH_MAGIC`].
    Magic {
        /// The word there was.
        found: u64,
    },
    /// Written by another version of this crate.
    Version {
        /// The version there was.
        found: u32,
    },
    /// The structure says that it is shorter than this version's.
    Size {
        /// The size there was.
        found: u32,
    },
}

impl fmt::Display for LaunchInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { found } => {
                write!(
                    f,
                    "launch info needs {} bytes, there are {found}",
                    LaunchInfo::BYTES
                )
            }
            Self::Magic { found } => write!(
                f,
                "no launch info here: it starts with {found:#018x} instead of {LAUNCH_MAGIC:#018x}; was the program started by Lacuna?"
            ),
            Self::Version { found } => write!(
                f,
                "launch info of ABI version {found}, this program knows {ABI_VERSION}; rebuild it against the hypervisor's guest-abi"
            ),
            Self::Size { found } => {
                write!(
                    f,
                    "launch info says it has {found} bytes, this version has {}",
                    LaunchInfo::BYTES
                )
            }
        }
    }
}

impl core::error::Error for LaunchInfoError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> LaunchInfo {
        LaunchInfo {
            magic: LAUNCH_MAGIC,
            abi_version: ABI_VERSION,
            bytes: LaunchInfo::BYTES as u32,
            memory_bytes: 64 << 20,
            image_start: 0x10_0000,
            image_end: 0x10_8000,
            page_tables_start: 0x8_0000,
            page_tables_end: 0x8_6000,
            stack_start: 0x4_0000,
            stack_end: 0x8_0000,
            instance: 7,
            flags: 0,
            seed: 0x0123_4567_89ab_cdef,
        }
    }

    #[test]
    fn bytes_are_laid_out_as_the_structure_is() {
        let bytes = info().to_bytes();
        assert_eq!(&bytes[..8], b"LACUNAgi");
        assert_eq!(bytes[core::mem::offset_of!(LaunchInfo, bytes)], 88);
        assert_eq!(bytes[core::mem::offset_of!(LaunchInfo, instance)], 7);
        assert_eq!(bytes[core::mem::offset_of!(LaunchInfo, image_end) + 1], 0x80);
        assert_eq!(bytes[core::mem::offset_of!(LaunchInfo, seed)], 0xef);
    }

    #[test]
    fn free_memory_is_what_lies_between() {
        let free: Vec<_> = info().free_extents().collect();
        assert_eq!(
            free,
            [
                0..0x1000,
                0x3000..0x4_0000,
                0x8_6000..0x10_0000,
                0x10_8000..64 << 20
            ]
        );
        let full = LaunchInfo {
            image_end: 64 << 20,
            page_tables_end: 0x10_0000,
            ..info()
        };
        assert_eq!(
            full.free_extents().collect::<Vec<_>>(),
            [0..0x1000, 0x3000..0x4_0000]
        );
    }

    #[test]
    fn what_is_not_launch_info_is_named() {
        let good = info().to_bytes();
        assert_eq!(
            LaunchInfo::from_bytes(&good[..87]),
            Err(LaunchInfoError::TooShort { found: 87 })
        );
        assert!(matches!(
            LaunchInfo::from_bytes(&[0; 4096]),
            Err(LaunchInfoError::Magic { found: 0 })
        ));
        let mut other = good;
        other[8] = 9;
        assert_eq!(
            LaunchInfo::from_bytes(&other),
            Err(LaunchInfoError::Version { found: 9 })
        );
        let mut other = good;
        other[12] = 80;
        assert_eq!(
            LaunchInfo::from_bytes(&other),
            Err(LaunchInfoError::Size { found: 80 })
        );
    }

    proptest! {
        /// Also for launch information that makes no sense.
        #[test]
        fn free_extents_are_disjoint_and_miss_what_is_used(words in any::<[u64; 7]>()) {
            let info = LaunchInfo {
                memory_bytes: words[0], image_start: words[1], image_end: words[2], page_tables_start: words[3],
                page_tables_end: words[4], stack_start: words[5], stack_end: words[6], ..info()
            };
            let mut last = 0;
            for free in info.free_extents() {
                prop_assert!(last <= free.start && free.start < free.end && free.end <= info.memory_bytes);
                for (start, end) in [(words[1], words[2]), (words[3], words[4]), (words[5], words[6])] {
                    prop_assert!(start >= end || end <= free.start || free.end <= start);
                }
                last = free.end;
            }
        }

        #[test]
        fn bytes_round_trip(words in any::<[u64; 8]>(), instance: u32, flags: u32, seed: u64, tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let info = LaunchInfo {
                memory_bytes: words[0], image_start: words[1], image_end: words[2], page_tables_start: words[3],
                page_tables_end: words[4], stack_start: words[5], stack_end: words[6], instance, flags, seed, ..info()
            };
            let mut bytes = info.to_bytes().to_vec();
            bytes.extend(tail);
            prop_assert_eq!(LaunchInfo::from_bytes(&bytes), Ok(info));
        }
    }
}
