//! Intel's extended page tables (EPT): entries of the second stage under VMX (Intel SDM vol. 3C, 29.3.2 and tables 29-1 to 29-6; sections
//! as numbered since 2023, when chapter 25 became the one of the VMCS).

use crate::address::{Level, Pfn};

use super::format::{Decoded, Format};

/// Bits 51 to 12: an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7: in levels 2 and 3 a leaf, in level 4 reserved. In level 1 it is ignored, and here always clear.
const LARGE: u64 = 1 << 7;

/// Attributes of an EPT leaf: every bit that is neither address nor page size, so that they survive a split and a merge exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptAttributes(u64);

impl EptAttributes {
    const READ: u64 = 1 << 0;
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

    /// A guest's RAM: every access, and write-back whatever the guest asks, or it could write past the caches and defeat the scrub.
    pub const GUEST_RAM: Self =
        Self(Self::READ | Self::WRITE | Self::EXECUTE | Self::WRITE_BACK | Self::IGNORE_PAT);
    /// The same without instruction fetches.
    pub const GUEST_DATA: Self = Self(Self::GUEST_RAM.0 & !Self::EXECUTE);
}

/// Extended page tables with four levels.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Format for Ept {
    type Attributes = EptAttributes;

    const ACCESSED_DIRTY: u64 = EptAttributes::ACCESSED | EptAttributes::DIRTY;

    fn leaf(level: Level, pfn: Pfn, attributes: EptAttributes) -> Option<u64> {
        let size = match level {
            Level::L1 => 0,
            Level::L2 | Level::L3 => LARGE,
            Level::L4 => return None,
        };
        let fits = pfn.is_aligned(level.frames()) && pfn.get() <= ADDRESS >> 12;
        fits.then_some(pfn.get() << 12 | attributes.0 | size)
    }

    /// In an entry that points to a table, bits 6 to 3 are reserved: a memory type stands in leaves only (tables 29-1, 29-3 and 29-5).
    fn table(pfn: Pfn) -> u64 {
        pfn.get() << 12 & ADDRESS | EptAttributes::READ | EptAttributes::WRITE | EptAttributes::EXECUTE
    }

    /// Present is an entry that allows any access (SDM vol. 3C, 29.3.2).
    fn decode(level: Level, entry: u64) -> Decoded<EptAttributes> {
        if entry & (EptAttributes::READ | EptAttributes::WRITE | EptAttributes::EXECUTE) == 0 {
            return Decoded::Absent;
        }
        let pfn = Pfn::new((entry & ADDRESS) >> 12);
        let leaf = match level {
            Level::L1 => true,
            Level::L2 | Level::L3 => entry & LARGE != 0,
            Level::L4 => false,
        };
        if leaf {
            let attributes = EptAttributes(entry & !ADDRESS & !LARGE);
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
