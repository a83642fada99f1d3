//! Everything that leaves the machine: text, JSON lines, verdicts, exit codes.
//!
//! - `serial`: one serial port, with bounded waits.
//! - this file: COM1 for text (`print!`, `println!`) and for commands, COM2 for JSON lines; `finish` and `exit` end the run.
//! - `fatal`: the panic handler, and who may report when several things go wrong.
//! - `bochs`: stops or ends a run on Bochs, which has no devices for that.
//! - `pause`: stops the machine so that the harness can look at it.
//!
//! A caller formats into `print!`; the lock keeps lines whole; a fatal report or an NMI does not wait for the lock for long, but
//! goes on with a port handle of its own.

mod bochs;
pub mod fatal;
pub mod pause;
mod serial;

pub use bochs::is_here as is_bochs;

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::lock::{MaskedLock, Rank};
use serial::Serial;

/// I/O port of QEMU's `isa-debug-exit` as our runs configure it.
pub const EXIT_PORT: u16 = 0xf4;

/// COM1 and COM2, where every PC has them.
const COM1: u16 = 0x3f8;
const COM2: u16 = 0x2f8;

/// Attempts at the text lock before a report goes on without it; about a tenth of a second.
const URGENT_ATTEMPTS: u32 = 100_000;

static TEXT: MaskedLock<Option<Serial>> = MaskedLock::new(Rank::Console, None);
static JSON: MaskedLock<Option<Serial>> = MaskedLock::new(Rank::Console, None);
/// Set once COM1 has been found, so that an urgent report knows whether to write there.
static TEXT_PRESENT: AtomicBool = AtomicBool::new(false);

/// What is written to [`EXIT_PORT`]; QEMU ends with status `2 * code + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitCode {
    /// Everything held.
    Pass = 0x10,
    /// Something did not hold.
    Fail = 0x11,
    /// The hypervisor found one of its own invariants broken.
    Panic = 0x12,
    /// Bad configuration, or a machine that cannot do it.
    Refused = 0x13,
}

impl ExitCode {
    /// The word after `VERDICT:`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Panic => "PANIC",
            Self::Refused => "REFUSED",
        }
    }
}

/// Which ports answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// COM1.
    pub text: bool,
    /// COM2.
    pub json: bool,
}

/// Sets up both ports. What is printed before, or to a port that is absent, is lost.
pub fn init() -> Ports {
    let text = Serial::open(COM1);
    let json = Serial::open(COM2);
    let ports = Ports {
        text: text.is_some(),
        json: json.is_some(),
    };
    TEXT_PRESENT.store(ports.text, Ordering::Release);
    TEXT.with(|port| *port = text);
    JSON.with(|port| {
        *port = json;
        if let Some(port) = port {
            // UEFI writes its text to every serial port, and does not end its last line.
            port.write_bytes(b"\n");
        }
    });
    ports
}

/// Prints text on COM1. Use `print!` and `println!`.
pub fn print(arguments: fmt::Arguments<'_>) {
    if fatal::reporting() {
        return print_urgent(arguments);
    }
    TEXT.with(|port| {
        if let Some(port) = port {
            // Serial's write never fails; a formatting error of the caller's has nowhere better to go.
            let _ = port.write_fmt(arguments);
        }
    });
}

/// A byte that somebody has typed on COM1, if there is one.
pub fn receive() -> Option<u8> {
    TEXT.with(|port| port.as_mut()?.receive())
}

/// Prints text on COM1 even while someone holds the port: for NMIs and fatal reports.
///
/// The holder may be what this report interrupted, so it waits only for a bounded time and then writes through a handle of its
/// own. Both handles only do port I/O: the worst outcome is a mixed line.
pub fn print_urgent(arguments: fmt::Arguments<'_>) {
    let printed = TEXT.try_with(URGENT_ATTEMPTS, |port| {
        if let Some(port) = port {
            let _ = port.write_fmt(arguments);
        }
    });
    if printed.is_none()
        && TEXT_PRESENT.load(Ordering::Acquire)
        && let Some(mut port) = Serial::attach(COM1)
    {
        let _ = port.write_fmt(arguments);
    }
}

/// COM2, for JSON lines. Without that port what is written is dropped: the text on COM1 tells the same.
#[derive(Clone, Copy, Debug)]
pub struct JsonPort;

impl fmt::Write for JsonPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let write = |port: &mut Option<Serial>| {
            if let Some(port) = port {
                port.write_bytes(text.as_bytes());
            }
        };
        // While a fatal report runs, the port may be held by what failed; the report can do without.
        if fatal::reporting() {
            JSON.try_with(URGENT_ATTEMPTS, write);
        } else {
            JSON.with(write);
        }
        Ok(())
    }
}

/// COM1 as a [`fmt::Write`].
#[derive(Clone, Copy, Debug)]
pub struct TextPort;

impl fmt::Write for TextPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(format_args!("{text}"));
        Ok(())
    }
}

/// Prints text on COM1 without ending the line.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(core::format_args!($($argument)*)) };
}

/// Prints one line of text on COM1.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::console::print(core::format_args!("{}\n", core::format_args!($($argument)*))) };
}

/// Prints the verdict line, the last of the run, and ends it. `reason` may be empty.
pub fn finish(code: ExitCode, reason: fmt::Arguments<'_>) -> ! {
    crate::reporting::json::verdict(code, reason);
    if reason.as_str() == Some("") {
        println!("VERDICT: {}", code.word());
    } else {
        println!("VERDICT: {} {reason}", code.word());
    }
    exit(code)
}

/// Ends the run without a word: QEMU's exit device, Bochs' debugger, and where there is neither, sleep for ever.
pub fn exit(code: ExitCode) -> ! {
    drain();
    // SAFETY: on a machine without the device nothing listens at this port.
    unsafe { x86::io::outl(EXIT_PORT, code as u32) };
    bochs::end();
    crate::cpu::registers::halt_for_ever()
}

/// Waits until everything written is sent. On a machine that stops, what is left in a port's FIFO is not.
fn drain() {
    serial::drain(COM1);
    serial::drain(COM2);
}
