//! Events that ended guest mode and are the host's.

use core::arch::asm;

/// Lets a pending physical interrupt be handled, and masks them again. STI takes effect after the next instruction.
///
/// # Safety
/// The descriptor tables must be loaded, and the caller must hold nothing that a handler needs.
pub unsafe fn handle_pending_interrupt() {
    // SAFETY: the caller vouches for the handlers. Their effects on memory are seen: no `nomem`.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Hands a machine check that hit the guest to the host's own handler: an intercepted one is not delivered (AMD APM vol. 2, 15.12.18; Intel
/// SDM vol. 3C, 28.2).
///
/// # Safety
/// The descriptor tables must be loaded.
pub unsafe fn deliver_machine_check() {
    // SAFETY: the vector has a handler, which takes no error code (AMD APM vol. 2, 8.2.18).
    unsafe { asm!("int 18") };
}

/// Hands an NMI that ended guest mode to the host's own handler. Its IRET also lets the next NMI in, which such an exit has blocked (SDM
/// vol. 3C, 28.5.5). SVM leaves the NMI pending instead.
///
/// # Safety
/// The descriptor tables must be loaded.
pub unsafe fn deliver_nmi() {
    // SAFETY: the vector has a handler, which takes no error code (SDM vol. 3A, 6.15).
    unsafe { asm!("int 2") };
}
