//! What the hypervisor measured itself (`measure=tlb`), beside what the model says.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::results::Skip;

/// Said under every figure until a run of a user's is recorded in the documents.
pub const UNVERIFIED: &str =
    "unverified on hardware: no recorded run of counters or latency is in docs/tlb.md yet";

/// A figure and who says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredFigure {
    /// The work.
    pub workload: String,
    /// `latency` or `pmu`.
    pub source: String,
    /// `p10`, `p25` or `median`, in TSC ticks; or what a counter counts. All for 1000 loads.
    pub what: String,
    /// The figure.
    pub value: f64,
}

/// A moment of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredMoment {
    /// `boot`, `guests` or `after`.
    pub phase: String,
    /// What the probe said of TLB entries: `large`, `4k`, or `unknown`.
    pub entries: String,
    /// The figures.
    pub figures: Vec<MeasuredFigure>,
    /// What was not measured then.
    pub skipped: Vec<Skip>,
}

impl MeasuredMoment {
    /// A figure.
    pub fn figure(&self, workload: &str, source: &str, what: &str) -> Option<f64> {
        let mut figures = self.figures.iter();
        figures
            .find(|figure| {
                (
                    figure.workload.as_str(),
                    figure.source.as_str(),
                    figure.what.as_str(),
                ) == (workload, source, what)
            })
            .map(|figure| figure.value)
    }

    /// Walks, by the event that counts all of them on this maker's cores.
    fn walks(&self, workload: &str) -> Option<f64> {
        ["load-walks", "walks"]
            .into_iter()
            .find_map(|metric| self.figure(workload, "pmu", metric))
    }

    /// Hits in the second level: one event, or those of all sizes.
    fn second_hits(&self, workload: &str) -> Option<f64> {
        const SIZES: [&str; 4] = [
            "second-hits-4k",
            "second-hits-coalesced",
            "second-hits-2m",
            "second-hits-1g",
        ];
        self.figure(workload, "pmu", "load-second-hits").or_else(|| {
            let sizes = SIZES.map(|metric| self.figure(workload, "pmu", metric));
            // Without one of them the sum would be too small.
            sizes.into_iter().sum()
        })
    }

    /// The workloads that have figures, in the order in which they came.
    fn workloads(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let names = self.figures.iter().map(|figure| figure.workload.as_str());
        names.filter(|name| seen.insert(*name)).collect()
    }
}

/// One boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredRun {
    /// How memory was hidden, or `guests` for a run of guests.
    pub policy: String,
    /// The CPU, as it calls itself.
    pub cpu: String,
    /// MiB of RAM.
    pub memory_mib: u64,
    /// The hypervisor's command line.
    pub command_line: String,
    /// The moments.
    pub moments: Vec<MeasuredMoment>,
}

impl MeasuredRun {
    /// Whether any figure was taken.
    pub fn has_figures(&self) -> bool {
        self.moments.iter().any(|moment| !moment.figures.is_empty())
    }

    /// The figures, a row for each work at each moment.
    pub fn rows(&self) -> Vec<MeasuredRow<'_>> {
        let boot = self.moments.iter().find(|moment| moment.phase == "boot");
        let rows = self.moments.iter().flat_map(|moment| {
            moment.workloads().into_iter().map(move |workload| {
                let latency = ["p10", "p25", "median"].map(|what| moment.figure(workload, "latency", what));
                let before = boot.and_then(|boot| boot.figure(workload, "latency", "p25"));
                MeasuredRow {
                    phase: &moment.phase,
                    workload,
                    entries: &moment.entries,
                    latency,
                    ratio: latency[1]
                        .zip(before.filter(|before| *before > 0.0))
                        .map(|(now, before)| now / before),
                    walks: moment.walks(workload),
                    second_hits: moment.second_hits(workload),
                }
            })
        });
        rows.collect()
    }

    /// What was not measured and why, each once, with the moments for which that holds.
    pub fn skipped(&self) -> Vec<Skip> {
        let mut skips: Vec<(&Skip, Vec<&str>)> = Vec::new();
        for moment in &self.moments {
            for skip in &moment.skipped {
                match skips.iter_mut().find(|(known, _)| *known == skip) {
                    Some((_, phases)) => phases.push(&moment.phase),
                    None => skips.push((skip, vec![&moment.phase])),
                }
            }
        }
        let all = self.moments.len();
        let said = |(skip, phases): (&Skip, Vec<&str>)| Skip {
            what: skip.what.clone(),
            reason: if phases.len() == all {
                skip.reason.clone()
            } else {
                format!("{} ({})", skip.reason, phases.join(", "))
            },
        };
        skips.into_iter().map(said).collect()
    }
}

/// What was measured of one work at one moment; what was not is `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredRow<'r> {
    /// The moment.
    pub phase: &'r str,
    /// The work.
    pub workload: &'r str,
    /// What the probe said of TLB entries.
    pub entries: &'r str,
    /// TSC ticks for 1000 loads: the 10th and 25th percentile, and the median.
    pub latency: [Option<f64>; 3],
    /// The 25th percentile over that of the boot.
    pub ratio: Option<f64>,
    /// Walks for 1000 loads, by a counter.
    pub walks: Option<f64>,
    /// Hits in the second level for 1000 loads, by a counter.
    pub second_hits: Option<f64>,
}

/// The boots as a table, policy by moment and work.
pub struct MeasuredTable<'r>(pub &'r [MeasuredRun]);

/// A figure, or the word for none.
fn or_skip(value: Option<f64>) -> String {
    value.map_or_else(|| "SKIP".into(), |value| format!("{value:.1}"))
}

impl fmt::Display for MeasuredTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0 {
            writeln!(
                f,
                "Measured by the hypervisor itself: {}, {} MiB of RAM, `{}`",
                run.cpu, run.memory_mib, run.command_line
            )?;
            if run.has_figures() {
                writeln!(
                    f,
                    "{:<12}{:<8}{:<16}{:>8} | {:>9}{:>9}{:>9}{:>8}  latency | {:>9}{:>12}  pmu",
                    "policy",
                    "phase",
                    "work",
                    "entries",
                    "p10",
                    "p25",
                    "median",
                    "x boot",
                    "walks",
                    "second hits"
                )?;
            }
            for row in run.rows() {
                let [p10, p25, median] = row.latency.map(or_skip);
                let ratio = row
                    .ratio
                    .map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"));
                writeln!(
                    f,
                    "{:<12}{:<8}{:<16}{:>8} | {p10:>9}{p25:>9}{median:>9}{ratio:>8}  latency | {:>9}{:>12}  pmu",
                    run.policy,
                    row.phase,
                    row.workload,
                    row.entries,
                    or_skip(row.walks),
                    or_skip(row.second_hits),
                )?;
            }
            if run.has_figures() {
                writeln!(f, "ticks of the TSC and events, for 1000 loads; {UNVERIFIED}")?;
            }
            for skip in run.skipped() {
                writeln!(f, "SKIP {}: {}", skip.what, skip.reason)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn figure(workload: &str, source: &str, what: &str, value: f64) -> MeasuredFigure {
        MeasuredFigure {
            workload: workload.into(),
            source: source.into(),
            what: what.into(),
            value,
        }
    }

    /// A run with figures at two moments.
    pub fn run() -> MeasuredRun {
        let moment = |phase: &str, times: f64| MeasuredMoment {
            phase: phase.into(),
            entries: "large".into(),
            figures: vec![
                figure("objects-all", "latency", "p10", 900.0 * times),
                figure("objects-all", "latency", "p25", 1000.0 * times),
                figure("objects-all", "latency", "median", 1100.0 * times),
                figure("objects-all", "pmu", "walks", 12.0),
                figure("objects-all", "pmu", "second-hits-4k", 1.0),
                figure("objects-all", "pmu", "second-hits-2m", 5.0),
                figure("objects-all", "pmu", "second-hits-1g", 6.0),
            ],
            skipped: vec![Skip {
                what: "pmu objects-64".into(),
                reason: "lost".into(),
            }],
        };
        MeasuredRun {
            policy: "grouped".into(),
            cpu: "a CPU".into(),
            memory_mib: 1024,
            command_line: "measure=tlb".into(),
            moments: vec![moment("boot", 1.0), moment("guests", 1.25)],
        }
    }

    #[test]
    fn figures_are_held_against_the_boot_and_none_is_made_up() {
        let text = MeasuredTable(&[run()]).to_string();
        let of = |line: &&str, phase: &str| {
            line.split_whitespace().nth(1) == Some(phase) && line.starts_with("grouped")
        };
        let line = |phase: &str| text.lines().find(|line| of(line, phase)).unwrap().to_owned();
        assert!(
            line("guests").contains("1.250") && line("guests").contains("large"),
            "{text}"
        );
        // One of the sizes has no live event, so their sum is unknown.
        assert!(
            line("boot").contains("12.0") && line("boot").contains("SKIP"),
            "{text}"
        );
        assert!(text.contains("unverified on hardware"));
        assert!(text.contains("SKIP pmu objects-64: lost\n"));
    }

    #[test]
    fn second_hits_are_one_event_or_all_sizes() {
        let mut moment = run().moments.remove(0);
        assert_eq!(moment.second_hits("objects-all"), None);
        moment
            .figures
            .push(figure("objects-all", "pmu", "second-hits-coalesced", 2.0));
        assert_eq!(moment.second_hits("objects-all"), Some(14.0));
        moment
            .figures
            .push(figure("objects-all", "pmu", "load-second-hits", 3.0));
        assert_eq!(moment.second_hits("objects-all"), Some(3.0));
    }

    #[test]
    fn a_run_without_figures_has_reasons_and_no_table() {
        let mut emulated = run();
        for moment in &mut emulated.moments {
            moment.figures.clear();
        }
        emulated.moments[1].skipped.push(Skip {
            what: "latency".into(),
            reason: "an emulator".into(),
        });
        let text = MeasuredTable(&[emulated]).to_string();
        assert!(!text.contains("p10") && !text.contains("unverified"));
        assert!(text.contains("SKIP latency: an emulator (guests)"), "{text}");
    }
}
