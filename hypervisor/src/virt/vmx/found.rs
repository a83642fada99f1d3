//! What the CPU offers of VMX.

use crate::cpu::registers::{rdmsr, read_cr0, read_cr4};
use crate::virt::{self, Unsupported};
use memory::guest::SecondStageKind;
use raw_cpuid::{CpuId, CpuIdReaderNative};
use vcpu_policy::asid::{AsidCount, Asids};
use vcpu_policy::vmx::capabilities::{Capabilities, CapabilityMsrs, Vpid};
use vcpu_policy::vmx::quirks;
use x86::controlregs::Cr0;

/// How many VPIDs there are, the host's own included: they have 16 bits (Intel SDM vol. 3C, 29.1).
const VPIDS: u32 = 1 << 16;
/// IA32_ARCH_CAPABILITIES (Intel SDM vol. 4, table 2-2).
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;

/// VMX as it was found on this CPU: usable, with or without the features that save work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmxFound {
    capabilities: Capabilities,
    itlb_multihit: bool,
}

impl VmxFound {
    /// Asks the CPU.
    pub(super) fn detect() -> Result<Self, Unsupported> {
        let has_vmx = CpuId::new()
            .get_feature_info()
            .is_some_and(|features| features.has_vmx());
        if !has_vmx {
            return Err(Unsupported::NoVmx);
        }
        // SAFETY: CPUID has just shown VMX, and `read` reads only what exists then.
        let msrs = CapabilityMsrs::read(|number| unsafe { rdmsr(number) });
        // NE is set when VMX is switched on.
        let cr0 = read_cr0() | Cr0::CR0_NUMERIC_ERROR.bits() as u64;
        let capabilities = Capabilities::check(&msrs, cr0, read_cr4()).map_err(Unsupported::Vmx)?;
        let arch_capabilities = if quirks::has_arch_capabilities(&CpuIdReaderNative) {
            // SAFETY: CPUID shows the register.
            unsafe { rdmsr(IA32_ARCH_CAPABILITIES) }
        } else {
            0
        };
        Ok(Self {
            capabilities,
            itlb_multihit: quirks::itlb_multihit(&CpuIdReaderNative, arch_capabilities),
        })
    }

    /// What was found, for the report. An exit by an instruction always tells its length and, for a move, its operands.
    pub(super) fn report(&self) -> virt::Capabilities {
        virt::Capabilities {
            second_stage: "ept",
            quirk: self
                .itlb_multihit
                .then_some("iTLB multihit: 2M leaves can't be executed, and the first fetch splits them"),
            asids: self.capabilities.vpid.map_or(1, |_| VPIDS),
            nrip_save: true,
            decode_assists: true,
            flush_by_asid: self.capabilities.vpid.is_some_and(|vpid| vpid.single),
        }
    }

    /// The capabilities that were checked.
    pub(super) const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The tables that guests need on this CPU.
    pub(super) const fn second_stage(&self) -> SecondStageKind {
        if self.itlb_multihit {
            SecondStageKind::ExtendedSplit
        } else {
            SecondStageKind::Extended
        }
    }

    /// The VPIDs of one CPU, where it tags translations.
    pub(super) fn tags(&self, cpu: u32) -> Option<Asids> {
        let Vpid { single } = self.capabilities.vpid?;
        Some(Asids::new(cpu, AsidCount::new(VPIDS)?, single))
    }
}
