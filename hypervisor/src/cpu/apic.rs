//! The local APIC, through its registers in memory (xAPIC) or through MSRs (x2APIC).
//!
//! Register numbers are those of SDM vol. 3A, 10.4.1, table 10-1; the x2APIC's MSR is 0x800 plus the number divided by 16 (10.12.1.2).

use memory::address::{Hpa, Hva};
use x86::apic::xapic::{
    XAPIC_EOI, XAPIC_ID, XAPIC_LVT_CMCI, XAPIC_LVT_ERROR, XAPIC_LVT_LINT0, XAPIC_LVT_LINT1, XAPIC_LVT_PMI,
    XAPIC_LVT_THERMAL, XAPIC_LVT_TIMER, XAPIC_SVR, XAPIC_TIMER_CURRENT_COUNT, XAPIC_TIMER_DIV_CONF,
    XAPIC_TIMER_INIT_COUNT, XAPIC_TPR, XAPIC_VERSION,
};
use x86::msr::IA32_APIC_BASE;

use super::exception::{SPURIOUS_VECTOR, TIMER_VECTOR};
use super::features::Features;
use super::registers::{rdmsr, wrmsr};

/// IA32_APIC_BASE: enabled, x2APIC mode (SDM vol. 3A, 10.4.4, 10.12.1).
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
/// Spurious-vector register: APIC enabled by software (SDM vol. 3A, 10.9).
const SVR_ENABLED: u32 = 1 << 8;
/// Local vector table: masked; delivery mode NMI (SDM vol. 3A, 10.5.1).
const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 4 << 8;
/// Entries of the local vector table that not every APIC has, each with the least "max LVT entry" (version register, bits 23:16: the
/// number of entries less one) of an APIC that has it. They came one after the other, so the number tells which there are: five with the
/// performance counters' (P6), six with the thermal sensor's (Pentium 4), seven with the corrected machine checks' (Nehalem;
/// SDM vol. 3A, 10.4.8 and 10.5.1). AMD's have six, the same ones (APM vol. 2, 16.3.4 and 16.4).
const LATER_ENTRIES: [(u32, u32); 3] = [(4, XAPIC_LVT_PMI), (5, XAPIC_LVT_THERMAL), (6, XAPIC_LVT_CMCI)];
/// Divide configuration: by 16 (SDM vol. 3A, 10.5.4, figure 10-10). Slices up to a minute fit the 32-bit count at 1 GHz.
const DIVIDE_BY_16: u32 = 0b0011;

/// How the registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Memory(Hva),
    Msr,
}

/// This CPU's local APIC.
#[derive(Debug)]
pub struct LocalApic {
    access: Access,
}

/// This CPU's local APIC id as CPUID tells it, for when there is no [`LocalApic`] yet (SDM vol. 2A, CPUID leaf 1, EBX bits
/// 31:24). Ids above 255 come out truncated.
pub fn id_from_cpuid() -> u8 {
    raw_cpuid::CpuId::new()
        .get_feature_info()
        .map_or(0, |leaf| leaf.initial_local_apic_id())
}

/// Where the hardware says its registers are; the MADT says the same for sane firmware.
pub fn base_from_msr() -> Hpa {
    // SAFETY: every CPU with long mode has a local APIC and this register.
    Hpa::new(unsafe { rdmsr(IA32_APIC_BASE) } & 0x000f_ffff_ffff_f000)
}

impl LocalApic {
    /// Switches this CPU's local APIC on: x2APIC where CPUID offers it, else through `registers`. Every entry of the local vector table
    /// is masked, the optional ones included, but LINT1, which every PC wires to NMI. AMD's extended entries (APM vol. 2, 16.4.5)
    /// stay as the firmware left them.
    ///
    /// # Safety
    /// `registers` must be the virtual address of this CPU's APIC page, mapped writable for as long as the value lives; uncacheable
    /// by page table or MTRR. No other `LocalApic` for this CPU may be in use.
    pub unsafe fn enable(features: &Features, registers: Hva) -> Self {
        // SAFETY: every CPU with long mode has the register. Going from xAPIC to x2APIC mode is allowed where CPUID has it; firmware may
        // have done it before us, and leaving that mode again is not needed.
        let access = unsafe {
            let base = rdmsr(IA32_APIC_BASE);
            if features.x2apic || base & BASE_X2APIC != 0 {
                wrmsr(IA32_APIC_BASE, base | BASE_ENABLED);
                wrmsr(IA32_APIC_BASE, base | BASE_ENABLED | BASE_X2APIC);
                Access::Msr
            } else {
                wrmsr(IA32_APIC_BASE, base | BASE_ENABLED);
                Access::Memory(registers)
            }
        };
        let apic = Self { access };
        apic.write(XAPIC_TPR, 0);
        apic.write(XAPIC_LVT_TIMER, LVT_MASKED | u32::from(TIMER_VECTOR));
        apic.write(XAPIC_LVT_LINT0, LVT_MASKED);
        apic.write(XAPIC_LVT_LINT1, LVT_NMI);
        apic.write(XAPIC_LVT_ERROR, LVT_MASKED);
        let last_entry = apic.read(XAPIC_VERSION) >> 16 & 0xff;
        for (least, register) in LATER_ENTRIES {
            if last_entry >= least {
                apic.write(register, LVT_MASKED);
            }
        }
        apic.write(XAPIC_TIMER_DIV_CONF, DIVIDE_BY_16);
        apic.write(XAPIC_SVR, SVR_ENABLED | u32::from(SPURIOUS_VECTOR));
        // Whatever the firmware left in service: one end-of-interrupt is harmless and enough, it used no nesting.
        apic.end_of_interrupt();
        apic
    }

    /// This CPU's id: 8 bits in xAPIC mode (SDM vol. 3A, 10.4.6), 32 in x2APIC mode (10.12.5.1).
    pub fn id(&self) -> u32 {
        let id = self.read(XAPIC_ID);
        match self.access {
            Access::Memory(_) => id >> 24,
            Access::Msr => id,
        }
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Ends the interrupt in service.
    pub fn end_of_interrupt(&self) {
        self.write(XAPIC_EOI, 0);
    }

    /// Starts the timer with a count; its interrupt comes once.
    pub(super) fn start_timer_once(&self, count: u32) {
        self.write(XAPIC_LVT_TIMER, u32::from(TIMER_VECTOR));
        self.write(XAPIC_TIMER_INIT_COUNT, count);
    }

    /// Starts the timer with a count and without an interrupt.
    pub(super) fn start_timer_silent(&self, count: u32) {
        self.write(XAPIC_LVT_TIMER, LVT_MASKED | u32::from(TIMER_VECTOR));
        self.write(XAPIC_TIMER_INIT_COUNT, count);
    }

    /// Stops the timer. An interrupt that is already pending still comes.
    pub(super) fn stop_timer(&self) {
        self.start_timer_silent(0);
    }

    /// What is left of the timer's count.
    pub(super) fn timer_count(&self) -> u32 {
        self.read(XAPIC_TIMER_CURRENT_COUNT)
    }

    pub(super) fn read(&self, register: u32) -> u32 {
        match self.access {
            Access::Memory(base) => {
                let pointer =
                    core::ptr::with_exposed_provenance::<u32>(base.get() as usize + register as usize);
                // SAFETY: `enable`'s caller vouched for the page; the registers used here can be read without side effects.
                unsafe { pointer.read_volatile() }
            }
            // SAFETY: x2APIC mode is on and has all registers used here.
            Access::Msr => (unsafe { rdmsr(0x800 + (register >> 4)) }) as u32,
        }
    }

    pub(super) fn write(&self, register: u32, value: u32) {
        match self.access {
            Access::Memory(base) => {
                let pointer =
                    core::ptr::with_exposed_provenance_mut::<u32>(base.get() as usize + register as usize);
                // SAFETY: `enable`'s caller vouched for the page; only this file chooses registers and values, and every vector that they
                // can raise has a handler.
                unsafe { pointer.write_volatile(value) };
            }
            // SAFETY: x2APIC mode is on; the values keep reserved bits zero.
            Access::Msr => unsafe { wrmsr(0x800 + (register >> 4), u64::from(value)) },
        }
    }
}
