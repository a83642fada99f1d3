//! DR0 to DR3 and DR6, which neither world switch swaps (AMD APM vol. 2, 15.5.1: VMRUN swaps DR6 and DR7 only; SDM vol. 3C, 27.3.1: DR7
//! only).
//!
//! The host sets no breakpoints; #VMEXIT leaves DR7 with none enabled (APM vol. 2, 15.6), so a guest's addresses in DR0 to DR3 do nothing
//! while the host runs between two of its turns.

use core::arch::asm;
use x86::debugregs;

/// DR6 with nothing reported: the bits that read as one (AMD APM vol. 2, 13.1.1.3).
pub const DR6_INIT: u64 = 0xffff_0ff0;
/// DR7 with no breakpoint: bit 10 reads as one (AMD APM vol. 2, 13.1.1.4).
pub const DR7_INIT: u64 = 0x400;

/// A guest's breakpoint addresses.
#[derive(Clone, Copy, Default)]
pub struct DebugRegisters([usize; 4]);

impl DebugRegisters {
    /// Puts the addresses on this CPU.
    pub fn load(&self) {
        write(self.0);
    }

    /// Takes the addresses from this CPU and leaves zeros; DR6 as after a reset.
    pub fn save_and_clear(&mut self) {
        // SAFETY: reading debug registers at privilege level 0 has no effect; DR7.GD is clear in the host.
        self.0 = unsafe {
            [
                debugregs::dr0(),
                debugregs::dr1(),
                debugregs::dr2(),
                debugregs::dr3(),
            ]
        };
        write([0; 4]);
        // SAFETY: DR6 only reports; its upper half stays zero, as it must.
        unsafe { asm!("mov dr6, {}", in(reg) DR6_INIT, options(nomem, nostack, preserves_flags)) };
    }
}

fn write(addresses: [usize; 4]) {
    // SAFETY: DR7 enables no breakpoint in the host, so the addresses have no effect on it.
    unsafe {
        debugregs::dr0_write(addresses[0]);
        debugregs::dr1_write(addresses[1]);
        debugregs::dr2_write(addresses[2]);
        debugregs::dr3_write(addresses[3]);
    }
}
