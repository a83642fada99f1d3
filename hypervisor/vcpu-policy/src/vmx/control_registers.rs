//! CR0 and CR4 of a guest under VMX: which bits it writes itself, and what the registers really hold (Intel SDM vol. 3C, 25.6.6 and
//! 26.3; vol. 3D, appendix A.7 and A.8).
//!
//! A bit of the guest/host mask is the host's: the guest reads the shadow, and a write that differs from the shadow exits.

use crate::{cr0, cr4};

/// CR4.MCE: machine checks are exceptions.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4.VMXE: VMX is on.
pub const CR4_VMXE: u64 = 1 << 13;

/// The bits of CR4 that are the host's; MCE among them, whose real value is the host's, or a machine check would shut the CPU down. The other
/// bits the guest writes itself, and one that the CPU does not have is a #GP by itself. The guest reads each of them as 0, so a write that exits wants one set: #GP.
pub const HOST_CR4: u64 = !cr4::GUEST;

/// What CR4 holds while the guest runs and sees `guest`; `fixed0` is IA32_VMX_CR4_FIXED0, `host` the host's CR4.
pub const fn real_cr4(guest: u64, fixed0: u64, host: u64) -> u64 {
    guest & cr4::GUEST | fixed0 | CR4_VMXE | host & CR4_MCE
}

/// What the guest sees of CR4.
pub const fn guest_cr4(real: u64) -> u64 {
    real & cr4::GUEST
}

/// The bits of CR0 that must be one in VMX operation, PE and PG excepted, since a guest is unrestricted (appendix A.7).
const fn fixed_cr0(fixed0: u64) -> u64 {
    fixed0 & !(cr0::PE | cr0::PG)
}

/// The bits of CR0 that are the host's: caching, and what VMX itself wants. Everything else the CPU does for the guest, with all
/// checks and effects of its own.
pub const fn host_cr0(fixed0: u64) -> u64 {
    fixed_cr0(fixed0) | cr0::CD | cr0::NW
}

/// What CR0 holds while the guest runs and sees `guest`; caching stays on.
pub const fn real_cr0(guest: u64, fixed0: u64) -> u64 {
    guest & !(cr0::CD | cr0::NW) | fixed_cr0(fixed0)
}

/// What the guest sees of CR0.
pub const fn guest_cr0(real: u64, shadow: u64, fixed0: u64) -> u64 {
    let host = host_cr0(fixed0);
    real & !host | shadow & host
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As every CPU has it: PE, NE and PG.
    const CR0_FIXED0: u64 = 0x8000_0021;

    #[test]
    fn numeric_errors_look_as_the_guest_wants() {
        let real = real_cr0(cr0::PE | cr0::PG, CR0_FIXED0);
        assert_eq!(real, cr0::PE | cr0::PG | cr0::NE);
        assert_eq!(guest_cr0(real, cr0::PE | cr0::PG, CR0_FIXED0), cr0::PE | cr0::PG);
    }

    #[test]
    fn vmx_is_on_and_not_seen() {
        let real = real_cr4(cr0::CR4_PAE, CR4_VMXE, CR4_MCE | 1 << 20);
        assert_eq!(real, cr0::CR4_PAE | CR4_VMXE | CR4_MCE);
        assert_eq!(guest_cr4(real), cr0::CR4_PAE);
        assert_ne!(HOST_CR4 & CR4_VMXE, 0);
    }

    proptest! {
        /// Whatever the guest's value, the real one runs under VMX, is cached, and reads back as the guest's own.
        #[test]
        fn the_guest_reads_what_it_wrote(guest: u32, host: u64) {
            let wanted = u64::from(guest) & !(cr0::CD | cr0::NW);
            let real = real_cr0(u64::from(guest), CR0_FIXED0);
            prop_assert_eq!(real & (cr0::CD | cr0::NW), 0);
            prop_assert_eq!(real & cr0::NE, cr0::NE);
            prop_assert_eq!(guest_cr0(real, wanted, CR0_FIXED0), wanted);
            let cr4 = real_cr4(u64::from(guest), CR4_VMXE, host);
            prop_assert_eq!(guest_cr4(cr4), u64::from(guest) & !HOST_CR4);
            prop_assert_eq!(cr4 & HOST_CR4 & !(CR4_VMXE | CR4_MCE), 0);
        }
    }
}
