//! The end by our own fault: the panic handler, and who may report when several things go wrong.
//!
//! The first panic or exception claims the report. A second one on the same CPU means that reporting itself failed: it prints
//! the first one's verdict and ends the run. On any other CPU it stops that CPU.

use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::String;
use spin::Once;

use super::{ExitCode, finish};
use crate::cpu::{apic, backtrace, registers};
use crate::println;

/// Bytes of a verdict's reason that are kept.
const REASON_BYTES: usize = 256;

/// 0: nobody reports. Otherwise the reporting CPU's local APIC id plus one.
static REPORTER: AtomicU64 = AtomicU64::new(0);
/// What the first report is about, for the second if there is one.
static REASON: Once<String<REASON_BYTES>> = Once::new();

/// Whether a fatal report is under way, on whichever CPU.
pub fn reporting() -> bool {
    REPORTER.load(Ordering::Acquire) != 0
}

/// Claims the report for this CPU and remembers its reason. Returns only to the first.
pub fn claim(reason: fmt::Arguments<'_>) {
    registers::mask_interrupts();
    let me = u64::from(apic::id_from_cpuid()) + 1;
    match REPORTER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            REASON.call_once(|| one_line(reason));
        }
        Err(first) if first == me => {
            println!("a second fault while the first was being reported: {reason}");
            verdict()
        }
        Err(_) => registers::halt_for_ever(),
    }
}

/// Prints the verdict of the report that was claimed, and ends the run.
pub fn verdict() -> ! {
    match REASON.get() {
        Some(reason) => finish(ExitCode::Panic, format_args!("{reason}")),
        None => finish(
            ExitCode::Panic,
            format_args!("a fault while a panic's message was being formatted"),
        ),
    }
}

/// The text on one line, as much as fits: a verdict is one line.
fn one_line(text: fmt::Arguments<'_>) -> String<REASON_BYTES> {
    struct Clip(String<REASON_BYTES>);
    impl fmt::Write for Clip {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for character in text.chars() {
                let character = if character.is_control() { ' ' } else { character };
                if self.0.push(character).is_err() {
                    break;
                }
            }
            Ok(())
        }
    }
    let mut clip = Clip(String::new());
    // Clip's write never fails.
    let _ = clip.write_fmt(text);
    clip.0
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    claim(format_args!("{}", info.message()));
    match info.location() {
        Some(place) => println!("panic: {} at {}:{}", info.message(), place.file(), place.line()),
        None => println!("panic: {}", info.message()),
    }
    println!("backtrace:{}", backtrace::from_here());
    verdict()
}
