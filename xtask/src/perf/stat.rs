//! What `perf stat -j` writes: a JSON object a line, among comments.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// An object of perf's. Versions differ in what else is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    counter_value: String,
    event: String,
    #[serde(default)]
    pcnt_running: f64,
}

/// What an event came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Count {
    /// The event, as perf names it.
    pub event: String,
    /// Who says so: always `pmu`.
    pub source: &'static str,
    /// The count, scaled by perf where the event did not count all the time.
    pub value: Option<f64>,
    /// Why there is none.
    pub reason: Option<String>,
    /// The part of the time in which it was counted, in percent.
    pub percent_running: f64,
    /// Whether a run on such hardware is recorded in the documents.
    pub verified: bool,
}

impl Count {
    /// Whether the kernel can count it at all.
    pub fn is_supported(&self) -> bool {
        self.reason.as_deref() != Some(NOT_SUPPORTED)
    }
}

/// perf's words where there is no count, with the reason.
const NOT_SUPPORTED: &str = "not supported";
const WORDS: [(&str, &str); 2] = [
    ("<not supported>", NOT_SUPPORTED),
    (
        "<not counted>",
        "not counted: the event never had a counter, or no guest ran",
    ),
];

/// Reads what perf has written.
///
/// # Errors
/// A line that begins like an object is none, or there is none at all.
pub fn read(text: &str) -> Result<Vec<Count>> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('{'));
    let counts: Vec<Count> = lines
        .map(|line| {
            let line: Line = serde_json::from_str(line).with_context(|| format!("perf's line {line}"))?;
            let reason = WORDS.iter().find(|(word, _)| *word == line.counter_value);
            let value = match reason {
                Some(_) => None,
                None => {
                    let value = line.counter_value.parse::<f64>();
                    Some(value.with_context(|| format!("perf's count {}", line.counter_value))?)
                }
            };
            Ok(Count {
                event: line.event,
                source: "pmu",
                value,
                reason: reason.map(|(_, reason)| (*reason).into()),
                percent_running: line.pcnt_running,
                verified: false,
            })
        })
        .collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "perf has counted nothing");
    Ok(counts)
}

/// The counts as text.
pub struct Table<'c>(pub &'c [Count]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instructions = self
            .0
            .iter()
            .find(|count| count.event.starts_with("instructions"))
            .and_then(|count| count.value)
            .filter(|value| *value > 0.0);
        writeln!(
            f,
            "  {:<28}{:>18}{:>22}{:>12}",
            "event", "count", "per 1000 instructions", "counted"
        )?;
        for count in self.0 {
            write!(f, "  {:<28}", count.event)?;
            match (count.value, &count.reason) {
                (Some(value), _) => {
                    let each = instructions.map_or("-".into(), |all| format!("{:.3}", value * 1000.0 / all));
                    writeln!(f, "{value:>18.0}{each:>22}{:>11.0}%", count.percent_running)?;
                }
                (None, reason) => writeln!(f, "SKIP: {}", reason.as_deref().unwrap_or("no count"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What perf 6.1 wrote in a virtual machine without counters, and one of its events that needs none.
    const WITHOUT: &str = r#"# started on Fri Nov 27 18:41:00 2026

{"counter-value" : "<not supported>", "unit" : "", "event" : "dTLB-load-misses", "event-runtime" : 0, "pcnt-running" : 100.00, "metric-value" : 0.000000, "metric-unit" : ""}
{"counter-value" : "0.745913", "unit" : "msec", "event" : "task-clock", "event-runtime" : 745913, "pcnt-running" : 100.00, "metric-value" : 240.617097, "metric-unit" : "CPUs utilized"}
"#;

    #[test]
    fn what_perf_writes_is_read() {
        let counts = read(WITHOUT).unwrap();
        assert_eq!(counts.len(), 2);
        assert!(!counts[0].is_supported() && counts[0].value.is_none());
        assert_eq!(counts[1].value, Some(0.745_913));
        assert!(counts[1].is_supported());
    }

    #[test]
    fn lines_of_other_versions_are_read_and_other_text_is_an_error() {
        let newer = r#"{"event" : "cycles:G", "counter-value" : "<not counted>", "variance" : 0.1, "metric-value" : "none"}"#;
        let counts = read(newer).unwrap();
        assert!(counts[0].is_supported() && counts[0].value.is_none());
        assert!(read("no counts").unwrap_err().to_string().contains("nothing"));
        assert!(read("{\"event\": \"x\"}").is_err());
        assert!(read(r#"{"event" : "x", "counter-value" : "many"}"#).is_err());
    }

    #[test]
    fn a_missing_count_is_never_a_number() {
        let text = r#"{"counter-value" : "2000.000000", "event" : "instructions:G", "pcnt-running" : 100.0}
{"counter-value" : "5.000000", "event" : "walks", "pcnt-running" : 80.4}
{"counter-value" : "<not supported>", "event" : "dTLB-store-misses:G", "pcnt-running" : 100.0}"#;
        let text = Table(&read(text).unwrap()).to_string();
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("walks").contains("2.500") && line("walks").ends_with("80%"));
        assert!(line("dTLB-store-misses").ends_with("SKIP: not supported"));
        assert!(!line("dTLB-store-misses").contains('0'));
    }
}
