//! Types of addresses, frame numbers and page sizes.
//!
//! Every address is a newtype; arithmetic that can leave the type's range is checked. The four address spaces are host and
//! guest, physical and virtual; frame numbers count 4 KiB frames of the physical ones.

use core::fmt;

/// Bytes in a 4 KiB page, the smallest translation (Intel SDM vol. 3A, 4.5; AMD APM vol. 2, 5.3).
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Entries in one table at every level (Intel SDM vol. 3A, 4.5; AMD APM vol. 2, 5.3).
pub const ENTRIES: usize = 512;
/// log2 of the 4 KiB frames in a region (2 MiB).
pub const REGION_ORDER: u8 = 9;
/// log2 of the 4 KiB frames in a gigablock (1 GiB).
pub const GIGABLOCK_ORDER: u8 = 18;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this numeric value.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The numeric value.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of 64 bits.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `size`, a power of two.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & (size - 1) == 0
            }

            /// The largest multiple of `size` (a power of two) that is not above the address.
            pub const fn align_down(self, size: u64) -> Self {
                Self(self.0 & !(size - 1))
            }

            /// The smallest multiple of `size` (a power of two) that is not below the address; `None` past 64 bits.
            pub const fn checked_align_up(self, size: u64) -> Option<Self> {
                match self.0.checked_add(size - 1) {
                    Some(value) => Some(Self(value & !(size - 1))),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($label, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A host-physical address in bytes.
    Hpa,
    "hpa"
);
address!(
    /// A host-virtual address in bytes.
    Hva,
    "hva"
);
address!(
    /// A guest-physical address in bytes.
    Gpa,
    "gpa"
);
address!(
    /// A guest-virtual address in bytes.
    Gva,
    "gva"
);
address!(
    /// A host frame number: host-physical address divided by 4096.
    Pfn,
    "pfn"
);
address!(
    /// A guest frame number: guest-physical address divided by 4096.
    Gfn,
    "gfn"
);

impl Hpa {
    /// The frame that holds this byte.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// The first byte of the frame.
    pub const fn hpa(self) -> Hpa {
        Hpa(self.0 << PAGE_SHIFT)
    }

    /// The frame `frames` further on.
    pub const fn add(self, frames: u64) -> Self {
        Self(self.0 + frames)
    }

    /// The number of the aligned 2 MiB block that holds the frame.
    pub const fn region_number(self) -> u64 {
        self.0 >> REGION_ORDER
    }

    /// The number of the aligned 1 GiB block that holds the frame.
    pub const fn gigablock_number(self) -> u64 {
        self.0 >> GIGABLOCK_ORDER
    }
}

impl Gpa {
    /// The guest frame that holds this byte.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// The first byte of the guest frame.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// The guest frame `frames` further on.
    pub const fn add(self, frames: u64) -> Self {
        Self(self.0 + frames)
    }
}

impl Hva {
    /// Index of this address in the table of the given level (4 = top level; level 1 = 4K).
    pub const fn index(self, level: u8) -> usize {
        ((self.0 >> (PAGE_SHIFT + 9 * (level as u32 - 1))) & (ENTRIES as u64 - 1)) as usize
    }
}

/// The level of a translation table, as Linux counts: 1 holds 4K leaves, 2 holds 2M leaves, 3 holds 1G leaves, 4 is the top.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// Leaves of 4 KiB.
    L1 = 1,
    /// Leaves of 2 MiB.
    L2 = 2,
    /// Leaves of 1 GiB.
    L3 = 3,
    /// The top-level table; no leaves.
    L4 = 4,
}

impl Level {
    /// Bytes that one entry of a table of this level covers.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << (9 * (self as u32 - 1))
    }

    /// 4 KiB frames that one entry of a table of this level covers.
    pub const fn frames(self) -> u64 {
        self.bytes() >> PAGE_SHIFT
    }

    /// The level of the tables that entries of this level point to.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_rounds_both_ways_and_stops_at_the_end() {
        assert_eq!(Hpa::new(0x1fff).align_down(PAGE_SIZE), Hpa::new(0x1000));
        assert_eq!(
            Hpa::new(0x1001).checked_align_up(PAGE_SIZE),
            Some(Hpa::new(0x2000))
        );
        assert_eq!(
            Hpa::new(0x1000).checked_align_up(PAGE_SIZE),
            Some(Hpa::new(0x1000))
        );
        assert_eq!(Hpa::new(u64::MAX).checked_align_up(PAGE_SIZE), None);
        assert_eq!(Hpa::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn indices_select_nine_bits_a_level() {
        let address = Hva::new(0xffff_8000_4020_1000);
        assert_eq!(
            (
                address.index(4),
                address.index(3),
                address.index(2),
                address.index(1)
            ),
            (256, 1, 1, 1)
        );
        assert_eq!(Level::L3.bytes(), 1 << 30);
        assert_eq!(Level::L2.frames(), 512);
    }
}
