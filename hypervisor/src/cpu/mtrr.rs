//! What decides how a CPU caches memory: reading the MTRRs, and giving a further CPU the boot CPU's settings. What the values of MTRRs mean
//! is in the crate `memory-types`.

use core::arch::asm;

use memory::address::Hpa;
use memory_types::{FIXED, MAX_VARIABLE, Registers, Variable};

use x86::controlregs::Cr0;
use x86::msr::IA32_PAT;

use super::features::{Features, Vendor};
use super::registers::{rdmsr, read_cr0, with_interrupts_masked, write_cr0, wrmsr};
use super::tlb;

/// IA32_MTRRCAP: number of variable ranges (bits 7:0), fixed ranges (bit 8); IA32_MTRR_DEF_TYPE (SDM vol. 3A, 11.11.1, 11.11.2).
const CAPABILITIES: u32 = 0xfe;
const HAS_FIXED: u64 = 1 << 8;
const DEFAULT: u32 = 0x2ff;
/// IA32_MTRR_DEF_TYPE: MTRRs are on (SDM vol. 3A, 11.11.2.1).
const MTRRS_ON: u64 = 1 << 11;
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

/// A CPU's MTRRs and its page attribute table. They must be equal on all CPUs (SDM vol. 3A, 11.11.8 and 11.12.4; APM vol. 2, 7.7.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caching {
    mtrrs: Option<Registers>,
    pat: u64,
}

impl Caching {
    /// This CPU's.
    pub fn read(features: &Features) -> Self {
        Self {
            mtrrs: read(features),
            // SAFETY: every CPU with long mode has the register.
            pat: unsafe { rdmsr(IA32_PAT) },
        }
    }

    /// Gives this CPU these values, if it has others. False when it did not take them.
    ///
    /// The order is the manual's for one CPU of several (SDM vol. 3A, 11.11.7.2 and 11.11.8): caches off and empty, translations dropped, MTRRs
    /// off, the values, all of it on again. The other CPUs may go on: only this one's own caching changes, and it is the one
    /// whose values were different.
    pub fn adopt(&self, features: &Features) -> bool {
        if *self == Self::read(features) {
            return true;
        }
        with_interrupts_masked(|| {
            let cr0 = read_cr0();
            let off =
                (cr0 | Cr0::CR0_CACHE_DISABLE.bits() as u64) & !(Cr0::CR0_NOT_WRITE_THROUGH.bits() as u64);
            // SAFETY: a CPU may run without caches for a while. The values are those that the boot CPU, which has the same features, runs with.
            unsafe {
                write_cr0(off);
                asm!("wbinvd", options(nostack, preserves_flags));
                tlb::flush();
                if let Some(mtrrs) = &self.mtrrs {
                    write(mtrrs);
                }
                wrmsr(IA32_PAT, self.pat);
                asm!("wbinvd", options(nostack, preserves_flags));
                tlb::flush();
                write_cr0(cr0);
            }
        });
        *self == Self::read(features)
    }
}

/// Writes the values of another CPU's MTRRs.
///
/// # Safety
/// This CPU must have the same MTRRs as that one, and caches and translations must be empty, with CR0.CD set.
unsafe fn write(values: &Registers) {
    // SAFETY: the caller vouches for the registers. What AMD's top of memory says is the chipset's; a CPU that differs there is refused.
    unsafe {
        wrmsr(DEFAULT, values.default & !MTRRS_ON);
        if let Some(fixed) = &values.fixed {
            for (number, value) in FIXED_REGISTERS.into_iter().zip(fixed) {
                wrmsr(number, *value);
            }
        }
        let pairs = (rdmsr(CAPABILITIES) & 0xff) as usize;
        for (pair, number) in values.variable.iter().take(pairs).zip((FIRST_PAIR..).step_by(2)) {
            wrmsr(number, pair.base);
            wrmsr(number + 1, pair.mask);
        }
        wrmsr(DEFAULT, values.default);
    }
}

/// The end of the RAM that AMD CPUs cache write-back without a range for it.
fn top_of_memory(features: &Features) -> Option<Hpa> {
    if features.vendor != Vendor::Amd {
        return None;
    }
    // SAFETY: every 64-bit CPU of AMD's has it; emulators and KVM let it be read.
    let configuration = unsafe { rdmsr(SYSTEM_CONFIGURATION) };
    if configuration & TOP_IS_WRITE_BACK != TOP_IS_WRITE_BACK {
        return None;
    }
    // SAFETY: the CPU says that it uses the register. It is not read before: under KVM, which never sets the bits, it is a #GP.
    let top = unsafe { rdmsr(TOP_OF_MEMORY) };
    Some(Hpa::new(top & 0x000f_ffff_ff80_0000))
}
