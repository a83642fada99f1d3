//! A mistake in guests' control blocks: EFER.FFXSR is set in every VMCB, whether the CPU has it or not. [`guest_efer`] is asked for each
//! guest.

use core::sync::atomic::{AtomicBool, Ordering};

use boot_config::Hook;

/// EFER.FFXSR, which exists where CPUID 8000_0001H EDX bit 25 says so and is reserved elsewhere (APM vol. 2, 3.1.7).
const EFER_FFXSR: u64 = 1 << 14;

/// Whether the CPU has refused to enter a guest.
static ENTRY_REFUSED: AtomicBool = AtomicBool::new(false);

/// What a control block gets as the guest's EFER instead of `efer`.
pub fn guest_efer(efer: u64) -> u64 {
    if super::is_set(Hook::BadControlBlock) {
        efer | EFER_FFXSR
    } else {
        efer
    }
}

/// The CPU has refused to enter a guest.
pub fn entry_refused() {
    ENTRY_REFUSED.store(true, Ordering::Relaxed);
}

/// Whether the CPU has taken the bad control blocks.
pub fn was_taken() -> bool {
    !ENTRY_REFUSED.load(Ordering::Relaxed)
}
