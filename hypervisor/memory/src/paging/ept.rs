//! Intel's extended page tables (EPT): entries of the second stage under VMX (Intel SDM vol. 3C, 29.3.2 and tables 29-1 to 29-6; sections
//! as numbered since 2023, when chapter 25 became the one of the VMCS).

use bitfield::bitfield;

use crate::address::{Level, Pfn};

use super::format::{Decoded, Format};

bitfield! {
    /// An entry, as far as all kinds of entries agree (Intel SDM vol. 3C, tables 29-1 to 29-6).
    #[derive(Clone, Copy)]
    struct Entry(u64);
    // Read, write, execute. Present is an entry that allows any (29.3.2).
    access, set_access: 2, 0;
    // In levels 2 and 3 a leaf, in level 4 reserved. In level 1 it is ignored, and here always clear.
    large, set_large: 7;
    frame, set_frame: 51, 12;
}

/// Bits 51 to 12: an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7, as in [`Entry`].
const LARGE: u64 = 1 << 7;
/// Every access.
const ALL: u64 = 0b111;

/// Attributes of an EPT leaf: every bit that is neither address nor page size, so that they survive a split and a merge exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptAttributes(u64);

impl EptAttributes {
    const READ: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const EXECUTE: u64 = 1 << 2;
    /// Bits 5 to 3: the memory type; 6 is write-back (SDM vol. 3C, 29.3.7.2).
    const WRITE_BACK: u64 = 6 << 3;
    /// The guest's own PAT does not count: the type above is what holds.
    const IGNORE_PAT: u64 = 1 << 6;
    /// Set by the CPU where bit 6 of the EPT pointer enables that; else ignored (SDM vol. 3C, 29.3.5).
    const ACCESSED: u64 = 1 << 8;
    /// As [`Self::ACCESSED`].
    const DIRTY: u64 = 1 << 9;

    /// A guest's data: no instruction fetches, and write-back whatever the guest asks, or it could write past the caches and defeat the scrub.
    pub const GUEST_DATA: Self = Self(Self::READ)
        .with(Self::WRITE)
        .with(Self::WRITE_BACK)
        .with(Self::IGNORE_PAT);
    /// A guest's RAM: the same with every access.
    pub const GUEST_RAM: Self = Self::GUEST_DATA.with(Self::EXECUTE);

    /// The same with these bits set.
    const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }
}

/// Extended page tables with four levels.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Format for Ept {
    type Attributes = EptAttributes;

    const ACCESSED_DIRTY: u64 = EptAttributes(EptAttributes::ACCESSED)
        .with(EptAttributes::DIRTY)
        .0;

    fn leaf(level: Level, pfn: Pfn, attributes: EptAttributes) -> Option<u64> {
        let mut entry = Entry(attributes.0);
        entry.set_frame(pfn.get());
        match level {
            Level::L1 => {}
            Level::L2 | Level::L3 => entry.set_large(true),
            Level::L4 => return None,
        }
        let fits = pfn.is_aligned(level.frames()) && entry.frame() == pfn.get();
        fits.then_some(entry.0)
    }

    /// In an entry that points to a table, bits 6 to 3 are reserved: a memory type stands in leaves only (tables 29-1, 29-3 and 29-5).
    fn table(pfn: Pfn) -> u64 {
        let mut entry = Entry(0);
        entry.set_access(ALL);
        entry.set_frame(pfn.get());
        entry.0
    }

    fn decode(level: Level, raw: u64) -> Decoded<EptAttributes> {
        let entry = Entry(raw);
        if entry.access() == 0 {
            return Decoded::Absent;
        }
        let pfn = Pfn::new(entry.frame());
        let leaf = match level {
            Level::L1 => true,
            Level::L2 | Level::L3 => entry.large(),
            Level::L4 => false,
        };
        if leaf {
            let attributes = EptAttributes(raw & !ADDRESS & !LARGE);
            Decoded::Leaf(pfn.align_down(level.frames()), attributes)
        } else {
            Decoded::Table(pfn)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bits by hand, from the tables of the manual.
    #[test]
    fn entries_are_those_of_the_manual() {
        let region = Pfn::new(0x12_3600);
        // Table 29-4: 111b access, 110b type, ignore PAT, bit 7.
        assert_eq!(
            Ept::leaf(Level::L2, region, EptAttributes::GUEST_RAM),
            Some(0x1_2360_0000 | 0b1111_0111)
        );
        // Table 29-6: bit 7 is ignored in a 4K leaf.
        assert_eq!(
            Ept::leaf(Level::L1, region, EptAttributes::GUEST_RAM),
            Some(0x1_2360_0000 | 0b0111_0111)
        );
        // Tables 29-1, 29-3, 29-5: nothing but access and the address.
        assert_eq!(Ept::table(Pfn::new(0x1234)), 0x123_4007);
    }

    #[test]
    fn attributes_are_those_of_the_manual() {
        assert_eq!(EptAttributes::GUEST_RAM.0, 0b111_0111);
        assert_eq!(EptAttributes::GUEST_DATA.0, 0b111_0011);
        assert_eq!(EptAttributes(1).with(2).with(1), EptAttributes(3));
        assert_eq!(Ept::ACCESSED_DIRTY, 0x300);
        // A bit that is set already stays set.
        assert_eq!(EptAttributes::GUEST_RAM.with(7), EptAttributes::GUEST_RAM);
    }

    #[test]
    fn unaligned_leaves_and_leaves_of_the_top_level_are_refused() {
        let ram = EptAttributes::GUEST_RAM;
        assert_eq!(Ept::leaf(Level::L2, Pfn::new(511), ram), None);
        assert_eq!(Ept::leaf(Level::L3, Pfn::new(512), ram), None);
        assert_eq!(Ept::leaf(Level::L4, Pfn::new(0), ram), None);
        assert_eq!(Ept::leaf(Level::L1, Pfn::new(1 << 40), ram), None);
    }

    #[test]
    fn any_permission_makes_an_entry_present_and_none_makes_it_absent() {
        assert_eq!(Ept::decode(Level::L2, 0x20_00f0), Decoded::Absent);
        for permission in 1..8 {
            assert!(matches!(
                Ept::decode(Level::L2, 0x20_0080 | permission),
                Decoded::Leaf(pfn, _) if pfn == Pfn::new(0x200)
            ));
        }
        assert_eq!(
            Ept::decode(Level::L4, 0x3007),
            Decoded::<EptAttributes>::Table(Pfn::new(3))
        );
    }

    proptest! {
        /// Every attribute bit comes back at every level.
        #[test]
        fn attributes_survive_every_level(bits in any::<u64>(), block in 0u64..1 << 22) {
            let attributes = EptAttributes(bits & !ADDRESS & !LARGE | EptAttributes::READ);
            for level in [Level::L1, Level::L2, Level::L3] {
                let pfn = Pfn::new(block << 18);
                let entry = Ept::leaf(level, pfn, attributes).unwrap();
                prop_assert_eq!(Ept::decode(level, entry), Decoded::Leaf(pfn, attributes));
            }
        }

        /// A table's entry is a table's entry again, and nothing reserved is set in it.
        #[test]
        fn tables_come_back(pfn in 0u64..1 << 40) {
            for level in [Level::L2, Level::L3, Level::L4] {
                prop_assert_eq!(Ept::decode(level, Ept::table(Pfn::new(pfn))), Decoded::Table(Pfn::new(pfn)));
            }
            prop_assert_eq!(Ept::table(Pfn::new(pfn)) & 0xf8, 0);
        }
    }
}
