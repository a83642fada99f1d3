//! Addresses as this crate sees them; deliberately not those of the mapper.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Wraps an address, in bytes.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The address, in bytes.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
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
    /// A physical address: what the walked tables translate to.
    Pa
);
address!(
    /// The address that the walked tables translate: host-virtual for host tables, guest-physical for a second stage.
    Va
);

/// Bytes of a 4K page and of a table.
pub(crate) const K4: u64 = 1 << 12;
/// Bytes of a region.
pub(crate) const M2: u64 = 1 << 21;
/// Bytes of a gigablock.
pub(crate) const G1: u64 = 1 << 30;

/// A bijective 64-bit mix in which each input bit reaches each output bit (the SplitMix64 finaliser).
/// Stable: digests may be compared between builds.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Adds one word to an ordered digest.
pub(crate) const fn fold(digest: u64, word: u64) -> u64 {
    mix(digest.rotate_left(5).wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word)
}
