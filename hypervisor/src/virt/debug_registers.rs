//! DR0 to DR3 and DR6, which neither world switch swaps (AMD APM vol. 2, 15.5.1: VMRUN swaps DR6 and DR7 only; SDM vol. 3C, 27.3.1: DR7
//! only).
//!
//! The host sets no breakpoints; #VMEXIT leaves DR7 with none enabled (APM vol. 2, 15.6), so a guest's addresses in DR0 to DR3 do nothing
//! while the host runs between two of its turns.

use core::arch::asm;
use vcpu_policy::debug_registers::DR6_INIT;
use x86::debugregs;

/// A guest's breakpoint addresses.
#[derive(Clone, Copy, Default)]
pub struct DebugRegisters([u64; 4]);

impl DebugRegisters {
    /// Puts the addresses on this CPU.
    pub fn load(&self) {
        write(self.0);
    }

    /// Changes one address while the guest's registers are on this CPU; `index` is 0 to 3.
    pub fn set(&mut self, index: u8, value: u64) {
        self.0[usize::from(index & 3)] = value;
        write(self.0);
    }

    /// Takes the addresses from this CPU, for a guest that writes the registers itself.
    pub fn save(&mut self) {
        // SAFETY: reading a debug register has no effect: DR7.GD is clear in the host.
        let addresses = unsafe {
            [
                debugregs::dr0(),
                debugregs::dr1(),
                debugregs::dr2(),
                debugregs::dr3(),
            ]
        };
        self.0 = addresses.map(|address| address as u64);
    }

    /// Leaves zeros on this CPU; DR6 as after a reset. What the guest wrote itself must have been saved.
    pub fn clear(&self) {
        write([0; 4]);
        write_status(DR6_INIT);
    }
}

/// Reads DR6.
pub fn status() -> u64 {
    let value;
    // SAFETY: reading DR6 has no effect: DR7.GD is clear in the host.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes DR6; the upper half of `value` is ignored, since it must be zero.
pub fn write_status(value: u64) {
    // SAFETY: DR6 only reports, and the CPU keeps its fixed bits.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nomem, nostack, preserves_flags)) };
}

fn write(addresses: [u64; 4]) {
    let [first, second, third, fourth] = addresses.map(|address| address as usize);
    // SAFETY: DR7 enables no breakpoint in the host, so the addresses have no effect on it.
    unsafe {
        debugregs::dr0_write(first);
        debugregs::dr1_write(second);
        debugregs::dr2_write(third);
        debugregs::dr3_write(fourth);
    }
}
