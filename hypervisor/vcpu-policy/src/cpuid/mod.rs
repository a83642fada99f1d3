//! What CPUID tells a guest: the host's answer through a whitelist.
//!
//! Lists (`features`) say which feature bits pass; a bit that is not in them is hidden, so a CPU newer than this code
//! shows a guest nothing that nobody has thought about. `xsave` computes leaf 0DH from the parts the guest may have. Vendor, family,
//! brand and address widths are the host's. The rest is zero.
//!
//! CPUID does not stop a guest from using what it hides: what could do harm is intercepted or swapped as well.

mod features;
mod xsave;

use guest_abi::ABI_VERSION;
use guest_abi::cpuid::{
    LEAF_ABI, LEAF_ALIASES, LEAF_MAX, LEAF_MEASUREMENT, LEAF_MEASUREMENT_LAST, LEAF_SIGNATURE,
    MEASUREMENT_BYTES, SIGNATURE_REGISTERS, measurement_leaf,
};
use raw_cpuid::{CpuIdReader, CpuIdResult};

pub use xsave::area_size;

/// CR4.OSXSAVE: the guest's system uses XSAVE (AMD APM vol. 2, 3.1.3).
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.PKE: protection keys are on.
pub const CR4_PKE: u64 = 1 << 22;

/// Highest basic leaf shown: the one of XSAVE.
const LAST_BASIC: u32 = 0xd;
/// Highest extended leaf shown: the one of address widths.
const LAST_EXTENDED: u32 = 0x8000_0008;
/// Bits of virtual address without five-level paging.
const LINEAR_BITS: u32 = 48;

/// The state of the guest that some leaves depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestView {
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// The largest XCR0 the guest may load ([`crate::xcr0::allowed`]); 0 hides XSAVE and all that needs it.
    pub xcr0_allowed: u64,
    /// What its launch was measured as.
    pub measurement: [u8; MEASUREMENT_BYTES],
}

const ZERO: CpuIdResult = CpuIdResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

/// Bits of guest-physical address that a guest can use: those that CPUID shows it, as far as four levels of second-stage tables translate
/// them. The highest is the shared bit. 36 when CPUID does not say (Intel SDM vol. 3A, 4.1.4).
pub fn guest_address_bits(host: &impl CpuIdReader) -> u8 {
    let shown = if host.cpuid1(0x8000_0000).eax >= LAST_EXTENDED {
        host.cpuid1(LAST_EXTENDED).eax & 0xff
    } else {
        0
    };
    match shown {
        0 => 36,
        bits => bits.clamp(32, LINEAR_BITS) as u8,
    }
}

/// The answer to CPUID with this leaf in EAX and this subleaf in ECX. `host` reads the leaves of the CPU itself.
pub fn answer(host: &impl CpuIdReader, view: &GuestView, leaf: u32, subleaf: u32) -> CpuIdResult {
    let last_basic = host.cpuid1(0).eax.min(LAST_BASIC);
    let last_extended = host.cpuid1(0x8000_0000).eax.min(LAST_EXTENDED);
    match leaf {
        LEAF_SIGNATURE => CpuIdResult {
            eax: LEAF_MAX,
            ebx: SIGNATURE_REGISTERS[0],
            ecx: SIGNATURE_REGISTERS[1],
            edx: SIGNATURE_REGISTERS[2],
        },
        LEAF_ABI => CpuIdResult {
            eax: ABI_VERSION,
            ..ZERO
        },
        LEAF_ALIASES => CpuIdResult {
            eax: u32::from(guest_address_bits(host)) - 1,
            ..ZERO
        },
        LEAF_MEASUREMENT..=LEAF_MEASUREMENT_LAST => measurement_leaf(&view.measurement, leaf)
            .map_or(ZERO, |[eax, ebx, ecx, edx]| CpuIdResult { eax, ebx, ecx, edx }),
        0 => CpuIdResult {
            eax: last_basic,
            ..host.cpuid1(0)
        },
        1..=LAST_BASIC if leaf <= last_basic => basic(host, view, leaf, subleaf),
        0x8000_0000 => CpuIdResult {
            eax: last_extended,
            ..host.cpuid1(leaf)
        },
        0x8000_0001..=LAST_EXTENDED if leaf <= last_extended => extended(host, view, leaf),
        _ => ZERO,
    }
}

fn basic(host: &impl CpuIdReader, view: &GuestView, leaf: u32, subleaf: u32) -> CpuIdResult {
    match (leaf, subleaf) {
        (1, _) => {
            let real = host.cpuid1(1);
            let mut ecx = real.ecx & features::leaf_1_ecx(view.xcr0_allowed) | features::HYPERVISOR;
            if ecx & features::XSAVE != 0 && view.cr4 & CR4_OSXSAVE != 0 {
                ecx |= features::OSXSAVE;
            }
            CpuIdResult {
                // Family, model and stepping.
                eax: real.eax,
                // Brand index and CLFLUSH size; one logical processor, whose APIC identifier is 0.
                ebx: real.ebx & 0xffff,
                ecx,
                edx: real.edx & features::LEAF_1_EDX,
            }
        }
        (7, 0) => {
            let real = host.cpuid2(7, 0);
            let mut ecx = real.ecx & features::leaf_7_ecx(view.xcr0_allowed);
            if ecx & features::PKU != 0 && view.cr4 & CR4_PKE != 0 {
                ecx |= features::OSPKE;
            }
            CpuIdResult {
                // No subleaf beyond 0.
                eax: 0,
                ebx: real.ebx & features::leaf_7_ebx(view.xcr0_allowed),
                ecx,
                edx: real.edx & features::LEAF_7_EDX,
            }
        }
        (LAST_BASIC, _) => xsave::answer(host, view, subleaf),
        _ => ZERO,
    }
}

fn extended(host: &impl CpuIdReader, view: &GuestView, leaf: u32) -> CpuIdResult {
    let real = host.cpuid1(leaf);
    match leaf {
        0x8000_0001 => CpuIdResult {
            eax: real.eax,
            ebx: 0,
            ecx: real.ecx & features::extended_1_ecx(view.xcr0_allowed),
            edx: real.edx & features::EXTENDED_1_EDX,
        },
        // The brand string.
        0x8000_0002..=0x8000_0004 => real,
        0x8000_0007 => CpuIdResult {
            edx: real.edx & features::EXTENDED_7_EDX,
            ..ZERO
        },
        0x8000_0008 => {
            let physical = real.eax & 0xff;
            let linear = (real.eax >> 8 & 0xff).min(LINEAR_BITS);
            CpuIdResult {
                eax: linear << 8 | physical,
                ebx: real.ebx & features::EXTENDED_8_EBX,
                ..ZERO
            }
        }
        _ => ZERO,
    }
}

#[cfg(test)]
mod tests;
