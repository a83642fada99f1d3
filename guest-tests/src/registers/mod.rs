//! Registers that an earlier or another guest could leak through, read and written as values.
//!
//! - [`general`]: the 16 general registers as they were at the start, and a way to load all of them, give up the CPU and see what came back.
//! - [`vector`]: x87, MXCSR, XMM, YMM, ZMM and mask registers.
//! - [`system`]: debug registers, the registers of SYSCALL, SYSENTER and segment bases, protection keys, XCR0.
//!
//! Guests are compiled for a soft-float target: compiled code touches none of the vector registers, so what is loaded here stays.

pub mod general;
pub mod system;
pub mod vector;

use guest_abi::pattern::{Pattern, REGISTERS};

/// What one guest puts into its registers: words that decode to it, different ones in each round.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pattern: &'a Pattern,
    instance: u32,
    round: u64,
}

impl<'a> Source<'a> {
    /// The words of `instance` in this round.
    pub const fn new(pattern: &'a Pattern, instance: u32, round: u64) -> Self {
        Self {
            pattern,
            instance,
            round,
        }
    }

    /// The word for register number `index`. The page that stands for registers has 512; rounds shift through it.
    pub const fn word(&self, index: u64) -> u64 {
        self.pattern
            .word(self.instance, REGISTERS + (index + self.round * 7) % 512 * 8)
    }
}
