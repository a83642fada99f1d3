//! Writes to CR0 (Intel SDM vol. 3A, 2.5 and 4.1.2; AMD APM vol. 2, 3.1.1 and 14.6).
//!
//! A write is intercepted only where it changes more than TS and MP. CD and NW are taken from the value: with caching off a guest's
//! stores would bypass the caches, and the scrub of its memory would not be what it reads.

use crate::Fault;

/// Protection enable.
pub const PE: u64 = 1 << 0;
/// Monitor coprocessor.
pub const MP: u64 = 1 << 1;
/// Emulate x87.
pub const EM: u64 = 1 << 2;
/// Task switched.
pub const TS: u64 = 1 << 3;
/// Extension type; reads as 1 on every CPU with an x87 unit.
pub const ET: u64 = 1 << 4;
/// Numeric errors are exceptions.
pub const NE: u64 = 1 << 5;
/// Write protection holds for the supervisor.
pub const WP: u64 = 1 << 16;
/// Alignment checks are possible.
pub const AM: u64 = 1 << 18;
/// Not write-through.
pub const NW: u64 = 1 << 29;
/// Cache disable.
pub const CD: u64 = 1 << 30;
/// Paging.
pub const PG: u64 = 1 << 31;

/// EFER.LME: long mode enable (AMD APM vol. 2, 3.1.7).
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode active, kept by the CPU.
pub const EFER_LMA: u64 = 1 << 10;
/// CR4.PAE: physical address extension (AMD APM vol. 2, 3.1.3).
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.PCIDE: process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// CR4.CET: shadow stacks.
pub const CR4_CET: u64 = 1 << 23;

/// The bits that have a meaning; a write to any other bit of the low half is ignored.
const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;

/// The registers that decide what a write to CR0 does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// CR0 now.
    pub cr0: u64,
    /// CR4 now.
    pub cr4: u64,
    /// EFER as the guest sees it.
    pub efer: u64,
    /// CS.L: the code segment is a 64-bit one.
    pub code_is_64_bit: bool,
}

/// What a permitted write leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct After {
    /// CR0 to run the guest with.
    pub cr0: u64,
    /// EFER as the guest sees it; LMA follows paging.
    pub efer: u64,
    /// The guest's translations must be flushed: paging or protection changed.
    pub flush: bool,
}

/// The effect of MOV to CR0.
///
/// # Errors
/// The fault that the guest gets; nothing changes then.
pub const fn write(before: Before, value: u64) -> Result<After, Fault> {
    if value >> 32 != 0
        || (value & PG != 0 && value & PE == 0)
        || (value & NW != 0 && value & CD == 0)
        || (before.cr4 & CR4_CET != 0 && value & WP == 0)
    {
        return Err(Fault::GeneralProtection);
    }
    let cr0 = (value & DEFINED & !(CD | NW)) | ET;
    let mut efer = before.efer;
    if before.cr0 & PG == 0 && cr0 & PG != 0 && efer & EFER_LME != 0 {
        if before.cr4 & CR4_PAE == 0 || before.code_is_64_bit {
            return Err(Fault::GeneralProtection);
        }
        efer |= EFER_LMA;
    }
    if before.cr0 & PG != 0 && cr0 & PG == 0 {
        let in_64_bit_code = efer & EFER_LMA != 0 && before.code_is_64_bit;
        if in_64_bit_code || before.cr4 & CR4_PCIDE != 0 {
            return Err(Fault::GeneralProtection);
        }
        efer &= !EFER_LMA;
    }
    let flush = (before.cr0 ^ cr0) & (PG | PE | WP) != 0;
    Ok(After { cr0, efer, flush })
}

/// The effect of LMSW: it loads PE, MP, EM and TS and cannot clear PE (AMD APM vol. 3, LMSW).
///
/// # Errors
/// As [`write()`].
pub const fn load_machine_status(before: Before, source: u16) -> Result<After, Fault> {
    let low = source as u64 & (PE | MP | EM | TS);
    write(before, (before.cr0 & !(MP | EM | TS)) | low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG_MODE: Before = Before {
        cr0: PE | ET | NE | WP | PG,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        code_is_64_bit: true,
    };

    #[test]
    fn caching_stays_on() {
        let after = write(LONG_MODE, LONG_MODE.cr0 | CD).unwrap();
        assert_eq!(after.cr0, LONG_MODE.cr0);
        let after = write(LONG_MODE, LONG_MODE.cr0 | CD | NW).unwrap();
        assert_eq!(after.cr0, LONG_MODE.cr0);
        assert!(!after.flush);
    }

    #[test]
    fn bad_combinations_fault() {
        for value in [PG, NW | PE | PG, 1 << 32 | PE | PG] {
            assert_eq!(
                write(LONG_MODE, value),
                Err(Fault::GeneralProtection),
                "{value:#x}"
            );
        }
        // Paging off in 64-bit code.
        assert_eq!(write(LONG_MODE, PE), Err(Fault::GeneralProtection));
    }

    #[test]
    fn long_mode_follows_paging() {
        let compatibility = Before {
            code_is_64_bit: false,
            ..LONG_MODE
        };
        let off = write(compatibility, PE | ET).unwrap();
        assert_eq!(off.efer, EFER_LME);
        assert!(off.flush);
        let unpaged = Before {
            cr0: off.cr0,
            efer: off.efer,
            ..compatibility
        };
        assert_eq!(write(unpaged, PE | PG).unwrap().efer, EFER_LME | EFER_LMA);
        assert_eq!(
            write(Before { cr4: 0, ..unpaged }, PE | PG),
            Err(Fault::GeneralProtection)
        );
        assert_eq!(
            write(
                Before {
                    code_is_64_bit: true,
                    ..unpaged
                },
                PE | PG
            ),
            Err(Fault::GeneralProtection)
        );
    }

    #[test]
    fn lmsw_cannot_leave_protected_mode() {
        let after = load_machine_status(LONG_MODE, 0).unwrap();
        assert_eq!(after.cr0, LONG_MODE.cr0);
        let after = load_machine_status(LONG_MODE, 0xffff).unwrap();
        assert_eq!(after.cr0, LONG_MODE.cr0 | MP | EM | TS);
    }

    proptest! {
        /// Whatever a guest writes, the result never turns caching off and never has paging without protection.
        #[test]
        fn never_uncached(cr0: u32, cr4: u64, efer: u64, code_is_64_bit: bool, value: u64) {
            let before = Before { cr0: u64::from(cr0), cr4, efer, code_is_64_bit };
            if let Ok(after) = write(before, value) {
                prop_assert_eq!(after.cr0 & (CD | NW), 0);
                prop_assert!(after.cr0 & PG == 0 || after.cr0 & PE != 0);
                prop_assert_eq!(after.cr0 >> 32, 0);
            }
        }
    }
}
