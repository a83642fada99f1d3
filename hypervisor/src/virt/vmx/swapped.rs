//! Registers that are a guest's own and that neither VMX nor the vector state swaps: CR2, DR6, and the MSRs of SYSCALL and SWAPGS.
//!
//! The host uses none of them, so they stay on the CPU for a guest's whole turn, and the guest reads and writes them without an exit. What
//! the VMCS swaps itself: FS, GS, the SYSENTER registers, EFER, DR7.

use crate::cpu::registers::{rdmsr, read_cr2, wrmsr};
use crate::virt::debug_registers;
use core::arch::asm;
use vcpu_policy::debug_registers::DR6_INIT;
use x86::msr::{IA32_CSTAR, IA32_FMASK, IA32_KERNEL_GSBASE, IA32_LSTAR, IA32_STAR};

/// The MSRs, each of which a CPU in 64-bit mode has.
const MSRS: [u32; 5] = [IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK, IA32_KERNEL_GSBASE];

/// One guest's values.
#[derive(Clone, Copy)]
pub struct Swapped {
    cr2: u64,
    dr6: u64,
    msrs: [u64; MSRS.len()],
}

impl Swapped {
    /// The values after a reset.
    pub const INITIAL: Self = Self {
        cr2: 0,
        dr6: DR6_INIT,
        msrs: [0; MSRS.len()],
    };

    /// Puts the values on this CPU.
    pub fn load(&self) {
        debug_registers::write_status(self.dr6);
        // SAFETY: CR2 only reports.
        unsafe { asm!("mov cr2, {}", in(reg) self.cr2, options(nomem, nostack, preserves_flags)) };
        for (msr, value) in MSRS.into_iter().zip(self.msrs) {
            // SAFETY: the CPU has these registers and took these values from the guest (or they are 0); the host uses neither SYSCALL
            // nor SWAPGS.
            unsafe { wrmsr(msr, value) };
        }
    }

    /// Takes the values from this CPU and leaves those after a reset.
    pub fn save_and_clear(&mut self) {
        self.dr6 = debug_registers::status();
        self.cr2 = read_cr2();
        for (msr, value) in MSRS.into_iter().zip(&mut self.msrs) {
            // SAFETY: the CPU has these registers.
            *value = unsafe { rdmsr(msr) };
        }
        Self::INITIAL.load();
    }
}
