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

    /// Leaves zeros on this CPU; DR6 as after a reset. Nothing is to be saved: the guest's writes all went through [`Self::set`].
    pub fn clear(&self) {
        write([0; 4]);
        // SAFETY: DR6 only reports; its upper half stays zero, as it must.
        unsafe { asm!("mov dr6, {}", in(reg) DR6_INIT, options(nomem, nostack, preserves_flags)) };
    }
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
