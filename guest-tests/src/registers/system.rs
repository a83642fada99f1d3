//! Registers of the system that are a guest's own: the hypervisor swaps them with the guest.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use super::Source;

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// DR6 without a recorded event, DR7 without an armed breakpoint: what they hold after a reset (AMD APM vol. 2, 14.1.3). Later CPUs
/// have further bits of DR6 that are 1 then.
pub const INITIAL_DR7: u64 = 0x400;
/// B0 to B3, BD, BS, BT of DR6: which event happened.
pub const DR6_EVENTS: u64 = 0xe00f;

/// The model-specific registers that a guest may use, with the bits that may hold anything. Addresses must be canonical: 47 bits are
/// (AMD APM vol. 2, appendix A; MSR numbers also Intel SDM vol. 4).
pub const MSRS: [(u32, u64, &str); 10] = [
    (0x174, 0xffff, "SYSENTER_CS"),
    (0x175, ADDRESS, "SYSENTER_ESP"),
    (0x176, ADDRESS, "SYSENTER_EIP"),
    (0xc000_0081, u64::MAX, "STAR"),
    (0xc000_0082, ADDRESS, "LSTAR"),
    (0xc000_0083, ADDRESS, "CSTAR"),
    (0xc000_0084, 0xffff_ffff, "SFMASK"),
    (0xc000_0100, ADDRESS, "FS_BASE"),
    (0xc000_0101, ADDRESS, "GS_BASE"),
    (0xc000_0102, ADDRESS, "KERNEL_GS_BASE"),
];
const ADDRESS: u64 = (1 << 47) - 1;

/// What a guest put or finds into the debug registers 0 to 3 and [`MSRS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct System {
    /// DR0 to DR3.
    pub debug: [u64; 4],
    /// In the order of [`MSRS`].
    pub msrs: [u64; MSRS.len()],
}

impl System {
    /// All zero: the initial state.
    pub const ZERO: Self = Self {
        debug: [0; 4],
        msrs: [0; MSRS.len()],
    };

    /// Words of `source` in every register.
    pub fn of(source: &Source<'_>) -> Self {
        let debug = core::array::from_fn(|index| source.word(400 + index as u64));
        let msrs = core::array::from_fn(|index| source.word(410 + index as u64) & MSRS[index].1);
        Self { debug, msrs }
    }

    /// Loads the registers.
    pub fn load(&self) {
        let [dr0, dr1, dr2, dr3] = self.debug;
        // SAFETY: addresses of breakpoints, none of which is armed in DR7.
        unsafe {
            asm!(
                "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
                in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3,
                options(nomem, nostack, preserves_flags),
            );
        }
        for ((msr, ..), value) in MSRS.iter().zip(self.msrs) {
            let (low, high) = (value as u32, (value >> 32) as u32);
            // SAFETY: guests use neither SYSCALL nor SYSENTER nor FS and GS, so these have no effect on compiled code; the values are valid (MSRS).
            unsafe {
                asm!("wrmsr", in("ecx") *msr, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags));
            }
        }
    }

    /// Reads the registers.
    pub fn store() -> Self {
        let (dr0, dr1, dr2, dr3);
        // SAFETY: reads registers.
        unsafe {
            asm!(
                "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
                out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3,
                options(nomem, nostack, preserves_flags),
            );
        }
        Self {
            debug: [dr0, dr1, dr2, dr3],
            msrs: core::array::from_fn(|index| read_msr(MSRS[index].0)),
        }
    }

    /// The first register of `self` that is not that of `expected`, with what was found.
    pub fn difference(&self, expected: &Self) -> Option<(&'static str, u64)> {
        let names = ["DR0", "DR1", "DR2", "DR3"]
            .into_iter()
            .chain(MSRS.iter().map(|msr| msr.2));
        let found = self.debug.iter().chain(&self.msrs);
        let expected = expected.debug.iter().chain(&expected.msrs);
        names
            .zip(found.zip(expected))
            .find(|(_, (found, expected))| found != expected)
            .map(|(name, (found, _))| (name, *found))
    }
}

/// Reads a model-specific register. One that guests do not have is a #GP.
pub fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect on memory; of a register that guests do not have it is #GP.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Writes a model-specific register. One that guests do not have, and a bad value, is a #GP.
pub fn write_msr(msr: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the registers that guests have change nothing that compiled code uses.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags));
    }
}

/// CR2, DR6 and DR7.
pub fn fault_registers() -> [u64; 3] {
    let (cr2, dr6, dr7);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, cr2", "mov {}, dr6", "mov {}, dr7", out(reg) cr2, out(reg) dr6, out(reg) dr7,
            options(nomem, nostack, preserves_flags));
    }
    [cr2, dr6, dr7]
}

/// Leaves a value in CR2 and events in DR6, and conditions without armed breakpoints in DR7.
pub fn dirty_fault_registers(cr2: u64) {
    // SAFETY: CR2 and DR6 only record; DR7 enables no breakpoint (bits 0 to 7 are 0).
    unsafe {
        asm!("mov cr2, {}", "mov dr6, {}", "mov dr7, {}", in(reg) cr2, in(reg) 0xffff_0fff_u64, in(reg) 0x3333_0400_u64,
            options(nomem, nostack, preserves_flags));
    }
}

/// Lets the guest use XGETBV and XSETBV, if CPUID offers XSAVE (leaf 1, ECX bit 26).
pub fn enable_xsave() -> bool {
    let offered = __cpuid(1).ecx & 1 << 26 != 0;
    if offered {
        set_cr4(CR4_OSXSAVE);
    }
    offered
}

/// XCR0. [`enable_xsave`] has returned `true`.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; CR4.OSXSAVE is set.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Sets XCR0 to a value that CPUID leaf 0DH offers. [`enable_xsave`] has returned `true`.
pub fn set_xcr0(value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: compiled code uses no vector register; a value that is not offered ends the guest.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags));
    }
}

/// Lets the guest use the protection-key register, if CPUID offers it (leaf 7, ECX bit 3).
pub fn enable_protection_keys() -> bool {
    let offered = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ecx & 1 << 3 != 0;
    if offered {
        set_cr4(CR4_PKE);
    }
    offered
}

/// PKRU. [`enable_protection_keys`] has returned `true`.
pub fn pkru() -> u32 {
    let value;
    // SAFETY: reads a register; CR4.PKE is set.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Sets PKRU, which has no effect on the supervisor pages of a guest. [`enable_protection_keys`] has returned `true`.
pub fn set_pkru(value: u32) {
    // SAFETY: protection keys guard user pages; the launch tables have none.
    unsafe {
        asm!("wrpkru", in("ecx") 0, in("eax") value, in("edx") 0, options(nomem, nostack, preserves_flags))
    };
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: reads a register that guests have.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn set_cr4(bits: u64) {
    // SAFETY: adds features that change nothing for code that does not use them.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, {1}", "mov cr4, {0}", out(reg) _, in(reg) bits, options(nomem, nostack));
    }
}
