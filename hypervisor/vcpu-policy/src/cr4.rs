//! CR4: which bits are a guest's, and what a write does (Intel SDM vol. 3A, 2.5; AMD APM vol. 2, 3.1.3).
//!
//! A guest has the bits of the features that CPUID shows it, on either vendor's CPUs: a feature that is hidden can't be switched on. Not MCE (a
//! machine check is the host's), VMXE, SMXE, PCIDE, CET, PKS, LA57, KL, UINTR, and whatever comes later.

use crate::Fault;
use crate::cpuid::{CR4_OSXSAVE, CR4_PKE, GuestView, answer};
use crate::cr0::{CR4_PAE, EFER_LMA};
use raw_cpuid::CpuIdReader;

/// CR4.VME and CR4.PVI: virtual interrupts of 8086 tasks and of programs.
const VME_PVI: u64 = 0b11;
/// CR4.TSD: the time-stamp counter is the kernel's.
const TSD: u64 = 1 << 2;
/// CR4.DE: breakpoints on ports; DR4 and DR5 are undefined.
const DE: u64 = 1 << 3;
/// CR4.PSE: 4M pages.
const PSE: u64 = 1 << 4;
/// CR4.PGE: global pages.
const PGE: u64 = 1 << 7;
/// CR4.PCE: programs may use RDPMC, which is intercepted.
const PCE: u64 = 1 << 8;
/// CR4.OSFXSR.
const OSFXSR: u64 = 1 << 9;
/// CR4.OSXMMEXCPT.
const OSXMMEXCPT: u64 = 1 << 10;
/// CR4.UMIP.
const UMIP: u64 = 1 << 11;
/// CR4.FSGSBASE.
const FSGSBASE: u64 = 1 << 16;
/// CR4.SMEP.
const SMEP: u64 = 1 << 20;
/// CR4.SMAP.
const SMAP: u64 = 1 << 21;

/// The bits that a guest may have at all.
pub const GUEST: u64 = VME_PVI
    | TSD
    | DE
    | PSE
    | CR4_PAE
    | PGE
    | PCE
    | OSFXSR
    | OSXMMEXCPT
    | UMIP
    | FSGSBASE
    | CR4_OSXSAVE
    | SMEP
    | SMAP
    | CR4_PKE;

/// The bits that decide what an address means: a change of one flushes (SDM vol. 3A, 4.10.4.1; APM vol. 2, 5.5.2).
const TRANSLATION: u64 = PSE | CR4_PAE | PGE | SMEP | SMAP | CR4_PKE;

/// The bits that a guest has on this CPU: those of features that CPUID shows it. `xcr0_allowed` is as in [`GuestView`].
pub fn offered(host: &impl CpuIdReader, xcr0_allowed: u64) -> u64 {
    let view = GuestView {
        cr4: 0,
        xcr0: 0,
        xcr0_allowed,
        // No feature depends on it.
        measurement: [0; guest_abi::cpuid::MEASUREMENT_BYTES],
    };
    let leaf_1 = answer(host, &view, 1, 0);
    let leaf_7 = answer(host, &view, 7, 0);
    // Leaf and bit: SDM vol. 2A, CPUID; APM vol. 3, appendix E. RDPMC is older than CPUID's leaf for it.
    let known = [
        (leaf_1.edx, 1, VME_PVI),
        (leaf_1.edx, 2, DE),
        (leaf_1.edx, 3, PSE),
        (leaf_1.edx, 4, TSD),
        (leaf_1.edx, 6, CR4_PAE),
        (leaf_1.edx, 13, PGE),
        (leaf_1.edx, 24, OSFXSR),
        (leaf_1.edx, 25, OSXMMEXCPT),
        (leaf_1.ecx, 26, CR4_OSXSAVE),
        (leaf_7.ebx, 0, FSGSBASE),
        (leaf_7.ebx, 7, SMEP),
        (leaf_7.ebx, 20, SMAP),
        (leaf_7.ecx, 2, UMIP),
        (leaf_7.ecx, 3, CR4_PKE),
    ];
    known
        .into_iter()
        .filter(|(register, bit, _)| register >> bit & 1 != 0)
        .fold(PCE, |bits, (_, _, bit)| bits | bit)
}

/// What a permitted write leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct After {
    /// CR4 to run the guest with.
    pub cr4: u64,
    /// The guest's translations must be flushed.
    pub flush: bool,
}

/// The effect of MOV to CR4, where `before` is its value and `offered` the bits that the guest has.
///
/// # Errors
/// The fault that the guest gets; nothing changes then.
pub const fn write(before: u64, efer: u64, value: u64, offered: u64) -> Result<After, Fault> {
    if value & !offered != 0 || (efer & EFER_LMA != 0 && value & CR4_PAE == 0) {
        return Err(Fault::GeneralProtection);
    }
    let flush = (before ^ value) & TRANSLATION != 0;
    Ok(After { cr4: value, flush })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xcr0;
    use proptest::prelude::*;
    use raw_cpuid::CpuIdResult;

    /// Says yes to everything, in leaves up to FFH.
    fn everything(leaf: u32, _: u32) -> CpuIdResult {
        let max = match leaf {
            0 => 0xff,
            0x8000_0000 => 0x8000_00ff,
            _ => u32::MAX,
        };
        CpuIdResult {
            eax: max,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        }
    }

    #[test]
    fn bits_follow_features() {
        assert_eq!(offered(&everything, xcr0::KNOWN), GUEST);
        assert_eq!(offered(&everything, 0), GUEST & !(CR4_OSXSAVE | CR4_PKE));
        let nothing = |_: u32, _: u32| CpuIdResult {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        };
        assert_eq!(offered(&nothing, xcr0::KNOWN), PCE);
    }

    #[test]
    fn long_mode_wants_pae() {
        assert_eq!(write(CR4_PAE, EFER_LMA, 0, GUEST), Err(Fault::GeneralProtection));
        let after = After { cr4: 0, flush: true };
        assert_eq!(write(CR4_PAE, 0, 0, GUEST), Ok(after));
        let after = After {
            cr4: CR4_PAE | TSD,
            flush: false,
        };
        assert_eq!(write(CR4_PAE, EFER_LMA, CR4_PAE | TSD, GUEST), Ok(after));
    }

    proptest! {
        /// No value switches on what is not offered; a permitted one is taken as it is.
        #[test]
        fn nothing_hidden_is_switched_on(before: u64, efer: u64, value: u64, offered: u64) {
            match write(before, efer, value, offered & GUEST) {
                Ok(after) => {
                    prop_assert_eq!(after.cr4, value);
                    prop_assert_eq!(value & !(offered & GUEST), 0);
                }
                Err(fault) => prop_assert_eq!(fault, Fault::GeneralProtection),
            }
        }
    }
}
