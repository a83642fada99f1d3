//! Interrupts from one CPU to another, through the interrupt command register (SDM vol. 3A, 10.6.1 and 10.12.9; APM vol. 2, 16.5).

use core::arch::asm;

use x86::apic::xapic::{XAPIC_ICR0, XAPIC_ICR1};

use super::apic::{Access, LocalApic};
use super::registers::{with_interrupts_masked, wrmsr};

/// Delivery modes (bits 10:8), each with the level "assert" (bit 14), which all but INIT ignore. Destination mode physical, no shorthand.
const FIXED: u32 = ASSERT;
const NMI: u32 = 4 << 8 | ASSERT;
const INIT: u32 = 5 << 8 | ASSERT;
const START_UP: u32 = 6 << 8 | ASSERT;
const ASSERT: u32 = 1 << 14;
/// Delivery status: the last one is still on its way. xAPIC mode only.
const PENDING: u32 = 1 << 12;
/// Polls of the delivery status before the next command is written anyway: on a bus that takes none for so long there is nothing to lose.
const POLLS: u32 = 1_000_000;
/// Where x2APIC mode has the register, in one piece.
const X2APIC_ICR: u32 = 0x830;

impl LocalApic {
    /// Resets another CPU: it waits for a start-up interrupt and does nothing else.
    ///
    /// # Safety
    /// Nothing that the CPU does may be missed by anyone.
    pub unsafe fn send_init(&self, apic_id: u32) {
        self.command(apic_id, INIT);
    }

    /// Starts a CPU that waits after INIT, in real mode, at physical address `page << 12`.
    ///
    /// # Safety
    /// There must be code for it there. A CPU that does not wait ignores the interrupt.
    pub unsafe fn send_start_up(&self, apic_id: u32, page: u8) {
        self.command(apic_id, START_UP | u32::from(page));
    }

    /// Sends an interrupt with this vector.
    pub fn send(&self, apic_id: u32, vector: u8) {
        self.command(apic_id, FIXED | u32::from(vector));
    }

    /// Sends an NMI.
    pub fn send_nmi(&self, apic_id: u32) {
        self.command(apic_id, NMI);
    }

    /// Whether a CPU with this id can be reached.
    pub fn reaches(&self, apic_id: u32) -> bool {
        match self.access() {
            // 255 is everybody (SDM vol. 3A, 10.6.2.1).
            Access::Memory(_) => apic_id < 0xff,
            Access::Msr => apic_id < u32::MAX,
        }
    }

    fn command(&self, apic_id: u32, command: u32) {
        match self.access() {
            // Two registers: an interrupt handler that sends something in between would change where it goes. NMI handlers send nothing.
            Access::Memory(_) => with_interrupts_masked(|| {
                self.wait_until_sent();
                self.write(XAPIC_ICR1, apic_id << 24);
                self.write(XAPIC_ICR0, command);
                self.wait_until_sent();
            }),
            Access::Msr => {
                // Writes of x2APIC registers overtake stores, but the receiver is to see what was stored before (SDM vol. 3A, 10.12.3).
                // SAFETY: fences have no other effect. x2APIC mode is on; reserved bits are zero.
                unsafe {
                    asm!("mfence", "lfence", options(nostack, preserves_flags));
                    wrmsr(X2APIC_ICR, u64::from(apic_id) << 32 | u64::from(command));
                }
            }
        }
    }

    fn wait_until_sent(&self) {
        for _ in 0..POLLS {
            if self.read(XAPIC_ICR0) & PENDING == 0 {
                return;
            }
            core::hint::spin_loop();
        }
    }
}
