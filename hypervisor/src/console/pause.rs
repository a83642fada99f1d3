//! Stops the whole machine so that the harness can look at its memory from outside.
//!
//! The device is QEMU's `pvpanic` (QEMU `docs/specs/pvpanic.rst`): reading its port tells which events it takes, writing bit 0
//! says "the guest has panicked", on which QEMU run with `-action panic=pause` stops every CPU until it is told `cont`. Bochs has none;
//! there the machine stops in the debugger.

use core::fmt;

use super::{bochs, drain};

/// I/O port of `pvpanic`.
pub const PAUSE_PORT: u16 = 0x505;
/// The event "panicked".
const PANICKED: u8 = 1;

/// No pause device answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPauseDevice;

impl fmt::Display for NoPauseDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no pause device at port {PAUSE_PORT:#x}, and this is not Bochs; start QEMU with -device pvpanic -action panic=pause, or leave pause= out"
        )
    }
}

/// Pauses the machine; returns when the harness lets it go on.
///
/// Announce the pause on COM2 first. Not inlined: QEMU stops the CPU at the end of a block of translated code, and the return is
/// such an end.
///
/// # Errors
/// [`NoPauseDevice`] when nothing answers at the port.
#[inline(never)]
pub fn pause() -> Result<(), NoPauseDevice> {
    drain();
    if bochs::stop() {
        return Ok(());
    }
    // SAFETY: the port belongs to pvpanic; where it is absent, reads give all ones and the write is not done.
    unsafe {
        let events = x86::io::inb(PAUSE_PORT);
        if events == 0xff || events & PANICKED == 0 {
            return Err(NoPauseDevice);
        }
        x86::io::outb(PAUSE_PORT, PANICKED);
    }
    Ok(())
}
