//! What an absent entry of a second stage remembers: hardware reads nothing of an entry that is not present (AMD APM vol. 2, 5.4.1; Intel
//! SDM vol. 3C, 29.3.2), so the rest of it is free, in both layouts.
//!
//! The frame number is kept inverted: on a CPU with the flaw L1TF, speculation takes the address in an absent entry for real, and an inverted
//! one lies above all RAM (as Linux does for its own entries, "PTE inversion").

use bitfield::bitfield;

use crate::address::Pfn;

/// Why a frame that stands in an entry can't be reached by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Mark {
    /// Private and zeroed, and the guest has not accepted it.
    Pending = 1,
    /// The page is shared at the moment: the hidden frame stays here, zeroed, until the page is private again.
    Kept = 2,
    /// A shared page's frame on its way back to the host, until the guest's translations are flushed.
    Leaving = 3,
    /// The page is shared in place: the hidden frame is the guest's at the shared alias.
    InPlace = 4,
    /// The guest has given the page back: the hidden frame stays here, zeroed, because others of its 2 MiB are still in use.
    Given = 5,
    /// The page is shared, and the hidden frame that was kept for it was taken for other uses: the frame in the entry means nothing.
    Taken = 6,
}

bitfield! {
    /// An entry that is absent in both layouts.
    #[derive(Clone, Copy)]
    struct Entry(u64);
    // Bits that make an entry present in one of the layouts: bit 0 in nested tables, bits 2 to 0 in extended ones.
    present, _: 2, 0;
    mark, set_mark: 5, 3;
    frame, set_frame: 51, 12;
}

/// Every bit of a frame number as it stands in an entry.
const FRAME: u64 = (1 << 40) - 1;

impl Mark {
    /// The entry.
    pub(super) fn entry(self, pfn: Pfn) -> u64 {
        let mut entry = Entry(0);
        entry.set_mark(self as u64);
        entry.set_frame(!pfn.get());
        entry.0
    }

    /// The mark of an entry, and the frame; `None` for one that is present, or simply absent.
    pub(super) fn read(entry: u64) -> Option<(Self, Pfn)> {
        let entry = Entry(entry);
        let mark = match (entry.present(), entry.mark()) {
            (0, 1) => Self::Pending,
            (0, 2) => Self::Kept,
            (0, 3) => Self::Leaving,
            (0, 4) => Self::InPlace,
            (0, 5) => Self::Given,
            (0, 6) => Self::Taken,
            _ => return None,
        };
        Some((mark, Pfn::new(entry.frame() ^ FRAME)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Level;
    use crate::paging::format::{Attributes, Decoded, Format, LongMode};
    use crate::paging::{Ept, EptAttributes};
    use proptest::prelude::*;

    proptest! {
        /// To hardware such an entry is absent at every level, in both layouts, and names no RAM.
        #[test]
        fn a_mark_is_absent_to_hardware_and_comes_back(pfn in 0_u64..1 << 39) {
            let pfn = Pfn::new(pfn);
            for mark in [Mark::Pending, Mark::Kept, Mark::Leaving, Mark::InPlace, Mark::Given, Mark::Taken] {
                let entry = mark.entry(pfn);
                prop_assert_eq!(Mark::read(entry), Some((mark, pfn)));
                for level in [Level::L1, Level::L2, Level::L3] {
                    prop_assert_eq!(LongMode::decode(level, entry), Decoded::Absent);
                    prop_assert_eq!(Ept::decode(level, entry), Decoded::Absent);
                }
                prop_assert!((1 << 51..1 << 52).contains(&entry), "L1TF: what an absent entry names must not be RAM");
            }
        }

        #[test]
        fn what_is_present_has_no_mark(pfn in 0_u64..1 << 30) {
            let pfn = Pfn::new(pfn << 9);
            for level in [Level::L1, Level::L2] {
                prop_assert_eq!(Mark::read(LongMode::leaf(level, pfn, Attributes::GUEST_RAM).unwrap()), None);
                prop_assert_eq!(Mark::read(Ept::leaf(level, pfn, EptAttributes::GUEST_RAM).unwrap()), None);
            }
            prop_assert_eq!(Mark::read(LongMode::table(pfn)), None);
            prop_assert_eq!(Mark::read(Ept::table(pfn)), None);
            prop_assert_eq!(Mark::read(0), None);
        }
    }
}
