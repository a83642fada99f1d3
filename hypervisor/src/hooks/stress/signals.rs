//! Interrupts that CPUs send each other for shootdowns, and kicks: as many must arrive as were sent.

use core::sync::atomic::{AtomicU64, Ordering};

/// Interrupts for shootdowns that were to be sent, and those that a handler has taken; NMIs that a handler has taken for a kick.
static SENT: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static KICKED: AtomicU64 = AtomicU64::new(0);

/// An interrupt is to be sent.
pub fn interrupt_sent() {
    SENT.fetch_add(1, Ordering::AcqRel);
}

/// A handler has taken one.
pub fn interrupt_taken() {
    TAKEN.fetch_add(1, Ordering::AcqRel);
}

/// An NMI has come that another CPU had sent as a kick.
pub fn kick_taken() {
    KICKED.fetch_add(1, Ordering::AcqRel);
}

/// Interrupts sent and taken.
pub fn interrupts() -> (u64, u64) {
    // Taken first: each was sent before.
    let taken = TAKEN.load(Ordering::Acquire);
    (SENT.load(Ordering::Acquire), taken)
}

/// Kicks taken.
pub fn kicks() -> u64 {
    KICKED.load(Ordering::Acquire)
}
