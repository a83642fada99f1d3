//! JSON lines on COM2; `docs/report-schema.md` documents them.

use core::fmt;

use heapless::String;
use report::{Event, Gigablocks, LINE_BYTES, Outcome, PhaseHeader, Span, Verdict};

use crate::console::{ExitCode, JsonPort};
use crate::println;

/// Writes one line. A line that cannot be written is told on COM1: it would be missing without a word.
pub fn event(event: &Event<&str>) {
    let mut buffer = [0; LINE_BYTES];
    if let Err(error) = report::write_event(event, &mut buffer, &mut JsonPort) {
        println!("a JSON line is missing: {error}");
    }
}

/// Writes a `phase` line.
pub fn phase(header: &PhaseHeader<&str>, spans: &mut dyn Iterator<Item = Span>) {
    let mut buffer = [0; LINE_BYTES];
    if let Err(error) = report::write_phase(header, Gigablocks::new(spans), &mut buffer, &mut JsonPort) {
        println!("a JSON line is missing: {error}");
    }
}

/// Writes the last line.
pub fn verdict(code: ExitCode, reason: fmt::Arguments<'_>) {
    let mut text = String::<512>::new();
    // What does not fit is cut; COM1 has it all.
    let _ = fmt::write(&mut text, reason);
    let verdict = match code {
        ExitCode::Pass => Outcome::Pass,
        ExitCode::Fail => Outcome::Fail,
        ExitCode::Panic => Outcome::Panic,
        ExitCode::Refused => Outcome::Refused,
    };
    event(&Event::Verdict(Verdict {
        verdict,
        reason: &text,
    }));
}
