//! CPUs that must not see certain second-stage tables.

use raw_cpuid::{CpuId, CpuIdReader};

/// IA32_ARCH_CAPABILITIES.PSCHANGE_MC_NO: a change of page size never raises a machine check (Intel SDM vol. 4, table 2-2, 10AH).
pub const PSCHANGE_MC_NO: u64 = 1 << 6;
/// CPUID leaf 7 EDX: IA32_ARCH_CAPABILITIES exists.
const ARCH_CAPABILITIES: u32 = 1 << 29;

/// Models of family 6 whose instruction TLB is free of the erratum although they do not say so: Intel's list for CVE-2018-12207
/// ("Machine Check Error Avoidance on Page Size Change") names the Atom and Xeon Phi lines as not affected. By CPUID's display model:
/// Bonnell and Saltwell; Silvermont and Airmont; Knights Landing and Mill; Goldmont; Tremont (Snow Ridge).
const NOT_AFFECTED: [u8; 17] = [
    0x1c, 0x26, 0x27, 0x35, 0x36, 0x37, 0x4a, 0x4c, 0x4d, 0x5a, 0x75, 0x57, 0x85, 0x5c, 0x5f, 0x7a, 0x86,
];

/// Whether IA32_ARCH_CAPABILITIES exists.
pub fn has_arch_capabilities<R: CpuIdReader>(host: &R) -> bool {
    host.cpuid1(0).eax >= 7 && host.cpuid2(7, 0).edx & ARCH_CAPABILITIES != 0
}

/// Whether an instruction fetch through a large page whose size software changes may shut this CPU down: then a guest, whose kernel
/// chooses its pages, must not be able to execute through large second-stage leaves.
///
/// `arch_capabilities` is that MSR, 0 where there is none. A CPU under a hypervisor counts by what CPUID shows.
pub fn itlb_multihit<R: CpuIdReader>(host: &R, arch_capabilities: u64) -> bool {
    let cpuid = CpuId::with_cpuid_reader(host.clone());
    let intel = cpuid
        .get_vendor_info()
        .is_some_and(|vendor| vendor.as_str() == "GenuineIntel");
    let Some(features) = cpuid.get_feature_info() else {
        return false;
    };
    // No other family of Intel's has had both 64-bit mode and EPT until the ones (since 2025) that set PSCHANGE_MC_NO.
    intel
        && features.family_id() == 6
        && arch_capabilities & PSCHANGE_MC_NO == 0
        && !NOT_AFFECTED.contains(&features.model_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    /// A CPU with this vendor and signature (leaf 1 EAX).
    fn cpu(vendor: &'static [u8; 12], signature: u32) -> impl CpuIdReader {
        let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| vendor[at + i]));
        let (ebx, edx, ecx) = (word(0), word(4), word(8));
        move |leaf: u32, _subleaf: u32| match leaf {
            0 => CpuIdResult {
                eax: 7,
                ebx,
                ecx,
                edx,
            },
            1 => CpuIdResult {
                eax: signature,
                ebx: 0,
                ecx: 0,
                edx: 0,
            },
            _ => CpuIdResult {
                eax: 0,
                ebx: 0,
                ecx: 0,
                edx: 0,
            },
        }
    }

    #[test]
    fn the_list_counts_where_the_msr_is_silent() {
        let intel = b"GenuineIntel";
        // Skylake server, 06_55H.
        assert!(itlb_multihit(&cpu(intel, 0x5_0654), 0));
        assert!(!itlb_multihit(&cpu(intel, 0x5_0654), PSCHANGE_MC_NO));
        assert!(itlb_multihit(&cpu(intel, 0x5_0654), !PSCHANGE_MC_NO));
        // Goldmont, 06_5CH.
        assert!(!itlb_multihit(&cpu(intel, 0x5_06c9), 0));
        assert!(!itlb_multihit(&cpu(b"AuthenticAMD", 0x5_0654), 0));
    }
}
