//! How table entries are written: one trait, one implementation for each layout.

use bitfield::bitfield;

use crate::address::{Level, Pfn};

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<A> {
    /// Nothing is mapped.
    Absent,
    /// A table of the level below.
    Table(Pfn),
    /// Memory.
    Leaf(Pfn, A),
}

/// A layout of translation-table entries.
pub trait Format {
    /// What a leaf says besides its address and size.
    type Attributes: Copy + PartialEq + core::fmt::Debug;

    /// The entry of a leaf. Address bits below the leaf's size are an error of the caller and are refused: `None`.
    fn leaf(level: Level, pfn: Pfn, attributes: Self::Attributes) -> Option<u64>;

    /// The entry that points to a table. It restricts nothing: permissions stand in the leaves.
    fn table(pfn: Pfn) -> u64;

    /// Reads an entry found in a table of the given level.
    fn decode(level: Level, entry: u64) -> Decoded<Self::Attributes>;

    /// The accessed and dirty bits of an entry, at every level the same. In every layout the frame number stands at bit 12.
    const ACCESSED_DIRTY: u64;
}

bitfield! {
    /// A long-mode entry (Intel SDM vol. 3A, tables 4-15 to 4-20; AMD APM vol. 2, 5.3).
    #[derive(Clone, Copy)]
    struct Entry(u64);
    present, set_present: 0;
    writable, set_writable: 1;
    user, set_user: 2;
    // Bit 7 is the page-size bit in levels 2 and 3 and the PAT bit in level 1, where bit 12 belongs to the address.
    size_or_pat, set_size_or_pat: 7;
    large_pat, set_large_pat: 12;
    frame, set_frame: 51, 12;
}

/// Address bits 12 to 51.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Attributes of a long-mode leaf: every bit that is neither address nor page size, so that they survive a split and a merge
/// exactly. The PAT bit stands at bit 7 whatever the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const WRITE_THROUGH: u64 = 1 << 3;
    const CACHE_DISABLE: u64 = 1 << 4;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    const NO_EXECUTE: u64 = 1 << 63;

    /// Readable and writable data. Accessed and dirty are set from the start: the hypervisor does not age its own memory, and
    /// hardware then has no reason to write the entries.
    pub const DATA: Self = Self::READ_ONLY.with(Self::WRITABLE);
    /// Constants.
    pub const READ_ONLY: Self = Self::CODE.with(Self::NO_EXECUTE);
    /// Code.
    pub const CODE: Self = Self(Self::PRESENT).with(Self::ACCESSED).with(Self::DIRTY);
    /// Device registers: PCD and PWT select PAT entry 3, strong uncacheable at reset (SDM vol. 3A, table 11-12; APM
    /// vol. 2, table 7-9).
    pub const DEVICE: Self = Self::DATA.with(Self::WRITE_THROUGH).with(Self::CACHE_DISABLE);
    /// A guest's RAM in nested tables: everything, as user, since nested walks are user accesses (APM vol. 2, 15.25.5).
    pub const GUEST_RAM: Self = Self(Self::PRESENT).with(Self::WRITABLE).with(Self::USER);

    /// The same with these bits set.
    const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }
}

/// Tables of 64-bit mode with four levels: the host's own, and nested tables (NPT), which use the same layout (APM vol. 2, 15.25.3).
#[derive(Clone, Copy, Debug)]
pub struct LongMode;

impl Format for LongMode {
    type Attributes = Attributes;

    const ACCESSED_DIRTY: u64 = Attributes(Attributes::ACCESSED).with(Attributes::DIRTY).0;

    fn leaf(level: Level, pfn: Pfn, attributes: Attributes) -> Option<u64> {
        let mut entry = Entry(attributes.0);
        entry.set_frame(pfn.get());
        let fits = pfn.is_aligned(level.frames()) && entry.frame() == pfn.get();
        match level {
            Level::L1 => {}
            Level::L2 | Level::L3 => {
                entry.set_large_pat(entry.size_or_pat());
                entry.set_size_or_pat(true);
            }
            Level::L4 => return None,
        }
        fits.then_some(entry.0)
    }

    fn table(pfn: Pfn) -> u64 {
        let mut entry = Entry(0);
        entry.set_present(true);
        entry.set_writable(true);
        entry.set_user(true);
        entry.set_frame(pfn.get());
        entry.0
    }

    fn decode(level: Level, raw: u64) -> Decoded<Attributes> {
        let entry = Entry(raw);
        if !entry.present() {
            return Decoded::Absent;
        }
        match level {
            Level::L1 => Decoded::Leaf(Pfn::new(entry.frame()), Attributes(raw & !ADDRESS)),
            Level::L2 | Level::L3 if entry.size_or_pat() => {
                let mut attributes = Entry(raw & !ADDRESS);
                attributes.set_size_or_pat(entry.large_pat());
                Decoded::Leaf(
                    Pfn::new(entry.frame()).align_down(level.frames()),
                    Attributes(attributes.0),
                )
            }
            Level::L2 | Level::L3 | Level::L4 => Decoded::Table(Pfn::new(entry.frame())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE_OR_PAT: u64 = 1 << 7;

    /// The bits by hand, from the tables of the manual.
    #[test]
    fn attributes_are_those_of_the_manual() {
        const NO_EXECUTE: u64 = 1 << 63;
        for (attributes, bits) in [
            (Attributes::DATA, 0x63 | NO_EXECUTE),
            (Attributes::READ_ONLY, 0x61 | NO_EXECUTE),
            (Attributes::CODE, 0x61),
            (Attributes::DEVICE, 0x7b | NO_EXECUTE),
            (Attributes::GUEST_RAM, 0x7),
        ] {
            assert_eq!(attributes.0, bits);
            // A bit that is set already stays set.
            assert_eq!(attributes.with(bits), attributes);
        }
        assert_eq!(Attributes(1).with(2).with(1), Attributes(3));
        assert_eq!(LongMode::ACCESSED_DIRTY, 0x60);
        assert_eq!(LongMode::table(Pfn::new(0x1234)), 0x123_4007);
        // What is no frame number does not spill into other bits.
        assert_eq!(LongMode::table(Pfn::new(1 << 40)), 0x7);
    }

    #[test]
    fn the_pat_bit_moves_with_the_level() {
        let pat = Attributes(Attributes::DATA.0 | SIZE_OR_PAT);
        let small = LongMode::leaf(Level::L1, Pfn::new(512), pat).unwrap();
        let large = LongMode::leaf(Level::L2, Pfn::new(512), pat).unwrap();
        assert_eq!(small & 0x1fff, (512 << 12 | Attributes::DATA.0 | 1 << 7) & 0x1fff);
        assert_eq!(large & (1 << 7 | 1 << 12), 1 << 7 | 1 << 12);
        assert_eq!(
            LongMode::decode(Level::L2, large),
            Decoded::Leaf(Pfn::new(512), pat)
        );
        assert_eq!(
            LongMode::decode(Level::L1, small),
            Decoded::Leaf(Pfn::new(512), pat)
        );
    }

    #[test]
    fn unaligned_leaves_and_leaves_of_the_top_level_are_refused() {
        assert_eq!(LongMode::leaf(Level::L2, Pfn::new(511), Attributes::DATA), None);
        assert_eq!(LongMode::leaf(Level::L3, Pfn::new(512), Attributes::DATA), None);
        assert_eq!(LongMode::leaf(Level::L4, Pfn::new(0), Attributes::DATA), None);
        assert_eq!(
            LongMode::leaf(Level::L1, Pfn::new(1 << 40), Attributes::DATA),
            None
        );
    }

    proptest! {
        /// Every attribute bit, software bits and the global bit included, comes back at every level.
        #[test]
        fn attributes_survive_every_level(bits in any::<u64>(), block in 0u64..1 << 22) {
            let attributes = Attributes(bits & !ADDRESS | Attributes::PRESENT);
            for level in [Level::L1, Level::L2, Level::L3] {
                let pfn = Pfn::new(block << 18);
                let entry = LongMode::leaf(level, pfn, attributes).unwrap();
                prop_assert_eq!(LongMode::decode(level, entry), Decoded::Leaf(pfn, attributes));
            }
        }
    }
}
