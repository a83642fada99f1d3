//! A spin lock that masks interrupts while it is held.
//!
//! Without the mask, an interrupt handler on the same CPU could wait for a lock that the code it interrupted holds.

use crate::cpu::registers::with_interrupts_masked;

/// A value behind a spin lock; reached only inside a closure, with interrupts masked.
pub struct MaskedLock<T>(spin::Mutex<T>);

impl<T> MaskedLock<T> {
    /// An unlocked value.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Waits for the lock and runs `work` on the value. An NMI handler must not call it: NMIs cannot be masked.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        with_interrupts_masked(|| work(&mut self.0.lock()))
    }

    /// Tries `attempts` times for the lock; `None` when it stays taken. Safe to call from anywhere.
    pub fn try_with<R>(&self, attempts: u32, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        with_interrupts_masked(|| {
            for _ in 0..attempts {
                if let Some(mut value) = self.0.try_lock() {
                    return Some(work(&mut value));
                }
                core::hint::spin_loop();
            }
            None
        })
    }
}
