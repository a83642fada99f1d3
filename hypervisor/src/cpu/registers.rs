//! Control registers, model-specific registers and the interrupt flag.
//!
//! Values are raw `u64`s: the crate `x86`'s types drop bits they do not know, and a read-modify-write must not. Its constants name the
//! bits.

use core::arch::asm;
use core::fmt;

use x86::bits64::rflags::RFlags;
use x86::controlregs::{Cr0, Cr4};
use x86::msr::IA32_EFER;

use super::features::Features;

/// EFER.NXE, the no-execute bit's enable (APM vol. 2, 3.1.7; SDM vol. 3A, 2.2.1). The crate has no names for EFER's bits.
pub const EFER_NXE: u64 = 1 << 11;

macro_rules! control_register {
    ($read:ident, $write:ident, $register:literal, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register has no effect; we run at privilege level 0.
            unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The CPU must support every bit set, and what runs next must be right under the new value: mapped, executable and
        /// writable as it needs.
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller vouches for the value.
            unsafe { asm!(concat!("mov ", $register, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

control_register!(read_cr0, write_cr0, "cr0", "CR0");
control_register!(
    read_cr3,
    write_cr3,
    "cr3",
    "CR3, flushing all non-global translations"
);
control_register!(read_cr4, write_cr4, "cr4", "CR4");

/// Reads CR2: the address of the last page fault.
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reading a control register has no effect; we run at privilege level 0.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a model-specific register.
///
/// # Safety
/// The CPU must have it, else this is a #GP.
pub unsafe fn rdmsr(number: u32) -> u64 {
    // SAFETY: the caller vouches for the register.
    unsafe { x86::msr::rdmsr(number) }
}

/// Writes a model-specific register.
///
/// # Safety
/// The CPU must have it and take the value, and nothing that runs may rely on the old value.
pub unsafe fn wrmsr(number: u32, value: u64) {
    // SAFETY: the caller vouches for register and value.
    unsafe { x86::msr::wrmsr(number, value) }
}

/// Reads EFER.
pub fn read_efer() -> u64 {
    // SAFETY: every CPU in long mode has EFER.
    unsafe { rdmsr(IA32_EFER) }
}

/// Reads RFLAGS.
pub fn read_rflags() -> u64 {
    let value: u64;
    // SAFETY: pushes and pops one word of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) value, options(preserves_flags)) };
    value
}

/// Which protections are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protections {
    /// No-execute pages.
    pub nx: bool,
    /// Supervisor mode cannot execute user pages.
    pub smep: bool,
    /// Supervisor mode cannot touch user pages.
    pub smap: bool,
}

impl fmt::Display for Protections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WP")?;
        for (on, name) in [(self.nx, " NX"), (self.smep, " SMEP"), (self.smap, " SMAP")] {
            if on {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// Switches on write protection in supervisor mode, no-execute, SMEP, SMAP and machine checks, as far as CPUID offers them.
///
/// An unsupported CR4 bit is a #GP, and hangs QEMU's emulation (measured), so CPUID comes first. We have no user pages; SMEP and
/// SMAP then catch only a damaged table, and cost nothing. Global pages stay off: a reload of CR3 must drop everything.
pub fn enable_protections(features: &Features) -> Protections {
    let protections = Protections {
        nx: features.nx,
        smep: features.smep,
        smap: features.smap,
    };
    let mut cr4 = read_cr4() & !bits4(Cr4::CR4_ENABLE_GLOBAL_PAGES);
    if features.machine_check {
        // Else a machine check shuts the CPU down without a word (SDM vol. 3A, 2.5, CR4.MCE).
        cr4 |= bits4(Cr4::CR4_ENABLE_MACHINE_CHECK);
    }
    if protections.smep {
        cr4 |= bits4(Cr4::CR4_ENABLE_SMEP);
    }
    if protections.smap {
        cr4 |= bits4(Cr4::CR4_ENABLE_SMAP);
    }
    let cr0 = read_cr0() | Cr0::CR0_WRITE_PROTECT.bits() as u64;
    // SAFETY: CPUID offers every bit set. No table in use has read-only pages that are written, or user pages.
    unsafe {
        if protections.nx {
            wrmsr(IA32_EFER, read_efer() | EFER_NXE);
        }
        write_cr4(cr4);
        write_cr0(cr0);
    }
    protections
}

const fn bits4(bits: Cr4) -> u64 {
    bits.bits() as u64
}

/// Whether maskable interrupts are let in.
pub fn interrupts_enabled() -> bool {
    read_rflags() & RFlags::FLAGS_IF.bits() != 0
}

/// Masks interrupts.
pub fn mask_interrupts() {
    // SAFETY: masking interrupts delays them, nothing else.
    unsafe { asm!("cli", options(nostack)) };
}

/// Lets interrupts in.
///
/// # Safety
/// `CpuTables::load` must have run on this CPU, and the caller must hold nothing that a handler needs.
pub unsafe fn unmask_interrupts() {
    // SAFETY: the caller vouches for the handlers.
    unsafe { asm!("sti", options(nostack)) };
}

/// Lets pending interrupts in, and masks interrupts again. With none pending nothing happens.
///
/// # Safety
/// As for [`unmask_interrupts`].
pub unsafe fn let_interrupts_in() {
    // SAFETY: the caller vouches for the handlers. Interrupts stay inhibited for one instruction after STI (SDM vol. 2B, STI; APM vol. 3,
    // STI), so they come in after the NOP.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Runs `work` with interrupts masked and puts the flag back as it was.
pub fn with_interrupts_masked<R>(work: impl FnOnce() -> R) -> R {
    let enabled = interrupts_enabled();
    mask_interrupts();
    let result = work();
    if enabled {
        // SAFETY: they were let in before, so the handlers are there.
        unsafe { unmask_interrupts() };
    }
    result
}

/// Stops this CPU. NMIs still wake it for a moment.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: with interrupts masked, HLT only sleeps.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
