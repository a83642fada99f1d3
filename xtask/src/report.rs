//! The report of a run as it is read: the JSON lines of the second serial port.

use std::fs;
use std::path::Path;

use report::{Check, Counters, Event, Guest, Phase, Start};

/// The lines of one run, in order.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines that are what `docs/report-schema.md` says.
    pub events: Vec<Event<String>>,
    /// Lines that are not. A newer hypervisor may have some; ours has none.
    pub unknown: Vec<String>,
}

/// What follows the firmware's own text: the bytes from the first line on that begins like a line of ours. UEFI writes to every
/// serial port there is.
pub fn without_firmware(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while !rest.is_empty() && !rest.starts_with(b"{") {
        let end = rest.iter().position(|byte| *byte == b'\n');
        rest = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    }
    rest
}

impl Report {
    /// Reads the lines written so far. A file that is not there yet has none.
    pub fn read(path: &Path) -> Self {
        Self::parse(&fs::read(path).unwrap_or_default())
    }

    /// Reads lines.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut report = Self::default();
        let text = String::from_utf8_lossy(without_firmware(bytes));
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(event) => report.events.push(event),
                Err(error) => report.unknown.push(format!("{line} ({error})")),
            }
        }
        report
    }

    /// The phases that the `pause` lines announce.
    pub fn pauses(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match event {
            Event::Pause(pause) => Some(pause.phase.as_str()),
            _ => None,
        })
    }

    /// The phase that the last `pause` line announces.
    pub fn paused_at(&self) -> String {
        self.pauses().last().unwrap_or("unknown").into()
    }

    /// The `start` line.
    pub fn start(&self) -> Option<&Start<String>> {
        self.events.iter().find_map(|event| match event {
            Event::Start(start) => Some(start),
            _ => None,
        })
    }

    /// The `phase` line of this name; the last one, should there be several.
    pub fn phase(&self, name: &str) -> Option<&Phase<String>> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Phase(phase) if phase.phase == name => Some(phase),
            _ => None,
        })
    }

    /// The `guest` lines.
    pub fn guests(&self) -> impl Iterator<Item = &Guest<String>> {
        self.events.iter().filter_map(|event| match event {
            Event::Guest(guest) => Some(guest),
            _ => None,
        })
    }

    /// The `check` lines.
    pub fn checks(&self) -> impl Iterator<Item = &Check<String>> {
        self.events.iter().filter_map(|event| match event {
            Event::Check(check) => Some(check),
            _ => None,
        })
    }

    /// The `counters` line.
    pub fn counters(&self) -> Option<&Counters> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Counters(counters) => Some(counters),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_by_kind() {
        let report = Report::parse(
            b"{\"event\":\"pause\",\"phase\":\"boot\"}\r\n\r\n{\"event\":\"check\",\"name\":\"n\",\"held\":true,\"detail\":\"\"}\n{\"event\":\"pause\",\"phase\":\"guests\"}\n{\"event\":\"later\"}\nnoise",
        );
        assert_eq!(report.events.len(), 3);
        assert_eq!(report.unknown.len(), 2);
        assert_eq!(report.paused_at(), "guests");
        assert!(report.checks().all(|check| check.held));
        assert!(report.start().is_none() && report.counters().is_none() && report.phase("boot").is_none());
        assert_eq!(Report::read(Path::new("/nonexistent")).paused_at(), "unknown");
    }

    #[test]
    fn text_of_the_firmware_comes_before_the_report_only() {
        let ours = "{\"event\":\"x\"}\nnot json\n";
        for before in ["", "\n", "BdsDxe: loading\r\n\x1b[2J{no line of ours\n"] {
            let bytes = format!("{before}{ours}").into_bytes();
            assert_eq!(without_firmware(&bytes), ours.as_bytes());
            let unknown = Report::parse(&bytes).unknown;
            assert_eq!(unknown.len(), 2, "what follows is looked at: {unknown:?}");
        }
        assert_eq!(without_firmware(b"no line"), b"");
    }
}
