//! Reading the MTRRs. What their values mean is in the crate `memory-types`.

use memory::address::Hpa;
use memory_types::{FIXED, MAX_VARIABLE, Registers, Variable};

use super::features::{Features, Vendor};
use super::registers::rdmsr;

/// IA32_MTRRCAP: number of variable ranges (bits 7:0), fixed ranges (bit 8); IA32_MTRR_DEF_TYPE (SDM vol. 3A, 11.11.1, 11.11.2).
const CAPABILITIES: u32 = 0xfe;
const HAS_FIXED: u64 = 1 << 8;
const DEFAULT: u32 = 0x2ff;
/// The first pair; each has two registers.
const FIRST_PAIR: u32 = 0x200;
/// The fixed ranges in ascending order (SDM vol. 3A, table 11-9).
const FIXED_REGISTERS: [u32; FIXED] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// AMD's SYSCFG, its bits MtrrTom2En and Tom2ForceMemTypeWB, and TOP_MEM2 (APM vol. 2, 7.9.5 and appendix A).
const SYSTEM_CONFIGURATION: u32 = 0xc001_0010;
const TOP_IS_WRITE_BACK: u64 = 1 << 21 | 1 << 22;
const TOP_OF_MEMORY: u32 = 0xc001_001d;

/// The values that the firmware left; `None` on a CPU without MTRRs.
pub fn read(features: &Features) -> Option<Registers> {
    if !features.mtrrs {
        return None;
    }
    // SAFETY: CPUID has MTRRs, so these two exist.
    let (capabilities, default) = unsafe { (rdmsr(CAPABILITIES), rdmsr(DEFAULT)) };
    let mut variable = [Variable::default(); MAX_VARIABLE];
    let pairs = (capabilities & 0xff) as usize;
    for (pair, number) in variable.iter_mut().take(pairs).zip((FIRST_PAIR..).step_by(2)) {
        // SAFETY: the CPU says how many pairs it has.
        *pair = unsafe {
            Variable {
                base: rdmsr(number),
                mask: rdmsr(number + 1),
            }
        };
    }
    let fixed = (capabilities & HAS_FIXED != 0).then(|| {
        FIXED_REGISTERS.map(|number| {
            // SAFETY: the CPU says that it has the fixed ranges, and they are all of these.
            unsafe { rdmsr(number) }
        })
    });
    Some(Registers {
        default,
        fixed,
        variable,
        top_of_memory: top_of_memory(features),
        physical_bits: features.physical_address_bits,
    })
}

/// The end of the RAM that AMD CPUs cache write-back without a range for it.
fn top_of_memory(features: &Features) -> Option<Hpa> {
    if features.vendor != Vendor::Amd {
        return None;
    }
    // SAFETY: every 64-bit CPU of AMD's has both registers; emulators and KVM let them be read.
    let (configuration, top) = unsafe { (rdmsr(SYSTEM_CONFIGURATION), rdmsr(TOP_OF_MEMORY)) };
    (configuration & TOP_IS_WRITE_BACK == TOP_IS_WRITE_BACK).then_some(Hpa::new(top & 0x000f_ffff_ff80_0000))
}
