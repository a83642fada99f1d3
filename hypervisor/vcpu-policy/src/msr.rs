//! What a guest's RDMSR and WRMSR do.
//!
//! Three kinds: registers that are swapped with the guest (under SVM by VMLOAD and VMSAVE, under VMX by the VMCS or by software) are its own and
//! are passed through; EFER and PAT are kept as values; any other is one that the guest's CPU does not have. Its access is #GP, as on real CPUs
//! (Intel SDM vol. 2B, RDMSR; AMD APM vol. 3, RDMSR), so that a kernel can probe for registers and go on. No value of the host's, not even a
//! zero in place of one, stands for a register that we do not know.

use crate::Fault;
use crate::cr0;
use raw_cpuid::{CpuId, CpuIdReader};
use x86::msr::{
    IA32_CSTAR, IA32_EFER, IA32_FMASK, IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GSBASE, IA32_LSTAR, IA32_PAT,
    IA32_STAR, IA32_SYSENTER_CS, IA32_SYSENTER_EIP, IA32_SYSENTER_ESP,
};

/// The registers a guest reads and writes without an exit: VMLOAD and VMSAVE swap them (AMD APM vol. 2, 15.5.2), except FS_BASE and
/// GS_BASE, which are part of the segments that they swap.
pub const PASS_THROUGH: [u32; 10] = [
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GSBASE,
];

/// EFER.SCE: SYSCALL and SYSRET (AMD APM vol. 2, 3.1.7).
pub const EFER_SCE: u64 = 1 << 0;
/// EFER.NXE: no-execute pages.
pub const EFER_NXE: u64 = 1 << 11;

/// PAT after a reset: WB, WT, UC-, UC, and again (AMD APM vol. 2, 7.8.2; Intel SDM vol. 3A, 11.12.4).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// The registers that are kept as values for one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtualMsrs {
    efer: u64,
    efer_writable: u64,
    pat: u64,
}

impl VirtualMsrs {
    /// The values for a guest that starts in long mode with no-execute pages, where the CPU has them.
    pub fn long_mode<R: CpuIdReader>(host: R) -> Self {
        let features = CpuId::with_cpuid_reader(host).get_extended_processor_and_feature_identifiers();
        let has = |present: Option<bool>, bit: u64| if present.unwrap_or(false) { bit } else { 0 };
        let nxe = has(features.as_ref().map(|f| f.has_execute_disable()), EFER_NXE);
        // Intel shows SYSCALL only to 64-bit code, which is where we ask.
        let sce = has(features.as_ref().map(|f| f.has_syscall_sysret()), EFER_SCE);
        Self {
            efer: cr0::EFER_LME | cr0::EFER_LMA | nxe,
            efer_writable: cr0::EFER_LME | nxe | sce,
            pat: PAT_RESET,
        }
    }

    /// EFER as the guest sees it, without the bits that virtualization itself needs.
    pub const fn efer(&self) -> u64 {
        self.efer
    }

    /// Takes over the EFER that a write to CR0 leaves behind ([`cr0::After::efer`]).
    pub const fn set_efer_after_cr0(&mut self, efer: u64) {
        self.efer = efer;
    }

    /// RDMSR of a register that is not passed through: the value for EDX:EAX.
    ///
    /// # Errors
    /// The fault that the guest gets.
    pub const fn read(&self, msr: u32) -> Result<u64, Fault> {
        match msr {
            IA32_EFER => Ok(self.efer),
            IA32_PAT => Ok(self.pat),
            _ => Err(Fault::GeneralProtection),
        }
    }

    /// WRMSR of a register that is not passed through; `cr0` is the guest's.
    ///
    /// # Errors
    /// The fault that the guest gets; nothing changes then.
    pub const fn write(&mut self, msr: u32, value: u64, cr0: u64) -> Result<(), Fault> {
        match msr {
            IA32_EFER => self.write_efer(value, cr0),
            IA32_PAT => self.write_pat(value),
            _ => Err(Fault::GeneralProtection),
        }
    }

    /// Reserved bits and bits of features that CPUID hides fault; LMA is read-only and ignored; LME cannot change under paging
    /// (AMD APM vol. 2, 3.1.7 and 14.6.1).
    const fn write_efer(&mut self, value: u64, cr0: u64) -> Result<(), Fault> {
        let wanted = value & !cr0::EFER_LMA;
        let changes_lme = (self.efer ^ wanted) & cr0::EFER_LME != 0;
        if wanted & !self.efer_writable != 0 || (changes_lme && cr0 & cr0::PG != 0) {
            return Err(Fault::GeneralProtection);
        }
        self.efer = wanted | (self.efer & cr0::EFER_LMA);
        Ok(())
    }

    /// Each of the eight bytes is a memory type: UC 0, WC 1, WT 4, WP 5, WB 6, UC- 7 (AMD APM vol. 2, 7.8.1). The value is only kept: the
    /// type that really holds is write-back.
    const fn write_pat(&mut self, value: u64) -> Result<(), Fault> {
        let bytes = value.to_le_bytes();
        let mut index = 0;
        while index < bytes.len() {
            if !matches!(bytes[index], 0 | 1 | 4..=7) {
                return Err(Fault::GeneralProtection);
            }
            index += 1;
        }
        self.pat = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use raw_cpuid::CpuIdResult;

    const GP: Fault = Fault::GeneralProtection;
    const LONG: u64 = cr0::EFER_LME | cr0::EFER_LMA;

    fn full() -> VirtualMsrs {
        VirtualMsrs::long_mode(|leaf: u32, _| match leaf {
            0x8000_0000 => CpuIdResult {
                eax: 0x8000_0008,
                ebx: 0,
                ecx: 0,
                edx: 0,
            },
            _ => CpuIdResult {
                eax: 0,
                ebx: 0,
                ecx: 0,
                edx: u32::MAX,
            },
        })
    }

    #[test]
    fn efer_takes_what_cpuid_offers() {
        let mut msrs = full();
        assert_eq!(msrs.read(IA32_EFER), Ok(LONG | EFER_NXE));
        assert_eq!(msrs.write(IA32_EFER, LONG | EFER_SCE, cr0::PG | cr0::PE), Ok(()));
        assert_eq!(msrs.efer(), LONG | EFER_SCE);
        // LMA is read-only: leaving it out changes nothing.
        assert_eq!(msrs.write(IA32_EFER, cr0::EFER_LME, cr0::PG | cr0::PE), Ok(()));
        assert_eq!(msrs.efer(), LONG);
    }

    #[test]
    fn efer_refuses_svme_and_lme_changes_under_paging() {
        let mut msrs = full();
        let before = msrs;
        assert_eq!(msrs.write(IA32_EFER, LONG | 1 << 12, cr0::PG), Err(GP));
        assert_eq!(msrs.write(IA32_EFER, 0, cr0::PG), Err(GP));
        assert_eq!(msrs, before);
    }

    #[test]
    fn a_cpu_without_no_execute_offers_none() {
        let mut msrs = VirtualMsrs::long_mode(|_: u32, _: u32| CpuIdResult {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        });
        assert_eq!(msrs.efer(), LONG);
        assert_eq!(msrs.write(IA32_EFER, LONG | EFER_NXE, cr0::PG), Err(GP));
    }

    #[test]
    fn pat_is_checked_and_kept() {
        let mut msrs = full();
        assert_eq!(msrs.read(IA32_PAT), Ok(PAT_RESET));
        assert_eq!(msrs.write(IA32_PAT, 0, 0), Ok(()));
        assert_eq!(msrs.read(IA32_PAT), Ok(0));
        assert_eq!(msrs.write(IA32_PAT, 0x02, 0), Err(GP));
        assert_eq!(msrs.write(IA32_PAT, 0x08 << 56, 0), Err(GP));
        assert_eq!(msrs.read(IA32_PAT), Ok(0));
    }

    proptest! {
        /// Only the two emulated registers give a value; every other number is #GP and changes nothing.
        #[test]
        fn a_register_that_guests_do_not_have_faults(msr: u32, value: u64) {
            prop_assume!(msr != IA32_EFER && msr != IA32_PAT);
            let mut msrs = full();
            prop_assert_eq!(msrs.read(msr), Err(GP));
            prop_assert_eq!(msrs.write(msr, value, 0), Err(GP));
            prop_assert_eq!(msrs, full());
        }

        /// EFER never holds a bit outside the four that a guest may have.
        #[test]
        fn efer_stays_inside(values: Vec<(u64, bool)>) {
            let mut msrs = full();
            for (value, paging) in values {
                let before = msrs;
                if msrs.write(IA32_EFER, value, if paging { cr0::PG } else { 0 }).is_err() {
                    prop_assert_eq!(msrs, before);
                }
                prop_assert_eq!(msrs.efer() & !(LONG | EFER_NXE | EFER_SCE), 0);
                prop_assert_eq!(msrs.efer() & cr0::EFER_LMA, cr0::EFER_LMA);
            }
        }
    }
}
