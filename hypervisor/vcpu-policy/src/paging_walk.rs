//! Translating a guest-virtual address by the guest's own tables (AMD APM vol. 2, 5.3; Intel SDM vol. 3A, 4.5).
//!
//! Used only to find the bytes of an intercepted instruction, so permissions are not looked at: the CPU has fetched that
//! instruction. The tables are guest memory and may say anything; the walk reads at most five entries.

use core::fmt;
use memory::address::{Gpa, Gva};

/// Present bit of an entry.
const PRESENT: u64 = 1 << 0;
/// In entries of level 2 and 3: a leaf. Reserved above.
const LARGE: u64 = 1 << 7;
/// Bits 51 to 12: the address in an entry and in CR3.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How many levels the tables have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// 48-bit virtual addresses.
    Four = 4,
    /// 57-bit virtual addresses (CR4.LA57).
    Five = 5,
}

/// Translates `gva` by the tables at `cr3`. `read` gives the eight bytes at an 8-aligned guest-physical address, or `None` where the
/// guest has no memory.
///
/// # Errors
/// [`WalkError`] names the level at which the walk stopped.
pub fn translate(
    cr3: u64,
    depth: Depth,
    gva: Gva,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Result<Gpa, WalkError> {
    let address_bits = 12 + 9 * depth as u32;
    let unused = 64 - address_bits;
    let address = gva.get();
    if ((address << unused) as i64 >> unused) as u64 != address {
        return Err(WalkError::NotCanonical(gva));
    }
    let mut table = cr3 & ADDRESS;
    let mut level = depth as u32;
    loop {
        let shift = 12 + 9 * (level - 1);
        let at = Gpa::new(table | ((address >> shift & 0x1ff) << 3));
        let entry = read(at).ok_or(WalkError::Unreadable(at))?;
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent(level));
        }
        let large = level > 1 && entry & LARGE != 0;
        if large && level > 3 {
            return Err(WalkError::ReservedBit(level));
        }
        if large || level == 1 {
            let offset = (1 << shift) - 1;
            return Ok(Gpa::new((entry & ADDRESS & !offset) | (address & offset)));
        }
        table = entry & ADDRESS;
        level -= 1;
    }
}

/// Where a walk stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// The upper bits of the address do not repeat its sign bit.
    NotCanonical(Gva),
    /// The entry of this level is not present.
    NotPresent(u32),
    /// The entry of this level has the leaf bit, which no CPU allows there.
    ReservedBit(u32),
    /// The guest has no memory where this entry should be.
    Unreadable(Gpa),
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCanonical(gva) => write!(f, "the guest-virtual address {gva} is not canonical"),
            Self::NotPresent(level) => write!(f, "the guest's table entry of level {level} is not present"),
            Self::ReservedBit(level) => write!(f, "the guest's table entry of level {level} has bit 7 set"),
            Self::Unreadable(gpa) => write!(f, "the guest's table at {gpa} is outside its memory"),
        }
    }
}

impl core::error::Error for WalkError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Tables in which the wanted entries, and nothing else, exist.
    fn tables(entries: &[(u64, u64)]) -> impl FnMut(Gpa) -> Option<u64> {
        let map: HashMap<u64, u64> = entries.iter().copied().collect();
        move |gpa| map.get(&gpa.get()).copied()
    }

    /// Indices 1, 2, 3, 4 from the top and the offset 0x567.
    const ADDRESS_1234: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x567;

    #[test]
    fn leaves_of_every_size() {
        let four_k = [
            (0x1008, 0x2003),
            (0x2010, 0x3003),
            (0x3018, 0x4003),
            (0x4020, 0x8000_0000_00ab_c063),
        ];
        assert_eq!(
            translate(0x1018, Depth::Four, Gva::new(ADDRESS_1234), tables(&four_k)),
            Ok(Gpa::new(0xab_c567))
        );
        let two_m = [(0x1008, 0x2003), (0x2010, 0x3003), (0x3018, 0x60_10e3)];
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(ADDRESS_1234), tables(&two_m)),
            Ok(Gpa::new(0x60_4567))
        );
        let one_g = [(0x1008, 0x2003), (0x2010, 0x4000_00e3)];
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(ADDRESS_1234), tables(&one_g)),
            Ok(Gpa::new(0x4060_4567))
        );
        let five = [(0x1000, 0x7003), (0x7008, 0x2003), (0x2010, 0x4000_00e3)];
        assert_eq!(
            translate(0x1000, Depth::Five, Gva::new(ADDRESS_1234), tables(&five)),
            Ok(Gpa::new(0x4060_4567))
        );
    }

    #[test]
    fn each_way_to_stop_is_named() {
        let none = |_| None;
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(0x8000_0000_0000), none),
            Err(WalkError::NotCanonical(Gva::new(0x8000_0000_0000)))
        );
        assert!(translate(0x1000, Depth::Five, Gva::new(0x8000_0000_0000), none) != Ok(Gpa::new(0)));
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(0), none),
            Err(WalkError::Unreadable(Gpa::new(0x1000)))
        );
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(0), |_| Some(0)),
            Err(WalkError::NotPresent(4))
        );
        assert_eq!(
            translate(0x1000, Depth::Four, Gva::new(0), |_| Some(0x83)),
            Err(WalkError::ReservedBit(4))
        );
    }

    proptest! {
        /// Tables full of arbitrary bits: at most five reads, each 8-aligned, and the page offset survives.
        #[test]
        fn hostile_tables(cr3: u64, gva: u64, five: bool, entries in proptest::collection::vec(any::<u64>(), 5)) {
            let depth = if five { Depth::Five } else { Depth::Four };
            let mut reads = 0;
            let result = translate(cr3, depth, Gva::new(gva), |gpa| {
                assert!(gpa.is_aligned(8));
                reads += 1;
                Some(entries[reads - 1])
            });
            prop_assert!(reads <= 5);
            if let Ok(gpa) = result {
                prop_assert_eq!(gpa.get() & 0xfff, gva & 0xfff);
                prop_assert!(gpa.get() < 1 << 52);
            }
        }
    }
}
