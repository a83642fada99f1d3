//! The results as text.

use std::fmt;

use super::axes::{Phase, Policy};
use super::goals::{CLOSE_BY, EVERYWHERE, NEAR, WORKLOAD, close_by, goals};
use super::results::{EVERY_PHASE, Figure, PhaseResult, Results};

/// What stands where something was not measured; the reasons follow the table.
const SKIP: &str = "SKIP";

/// The moment with the most guests alive.
const MOST_GUESTS: Phase = Phase::Guests64;

/// The table, policy by moment, and what belongs to it.
pub struct Table<'r>(pub &'r Results);

/// Bytes in GiB or MiB.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        small if small < 1 << 30 => format!("{}M", small >> 20),
        large if large.is_multiple_of(1 << 30) => format!("{}G", large >> 30),
        large => format!("{:.1}G", large as f64 / (1_u64 << 30) as f64),
    }
}

/// A value with the other end of its error bar where the two are not the same.
pub fn range(one: f64, other: f64) -> String {
    let text = |value: f64| {
        if value >= 100.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.1}")
        }
    };
    let (low, high) = (text(one.min(other)), text(one.max(other)));
    if low == high { low } else { format!("{low}-{high}") }
}

/// The two ends of a figure.
fn ends<'r>(phase: &'r PhaseResult, core: &str, workload: &str) -> Option<(&'r Figure, &'r Figure)> {
    Some((
        phase.figure(core, "lru", workload)?,
        phase.figure(core, "nru", workload)?,
    ))
}

/// The workloads of a run, in the order in which they are shown.
pub fn workloads(results: &Results) -> Vec<&str> {
    const ORDER: [&str; 10] = [
        "objects-64",
        "objects-1k",
        "objects-16k",
        "objects-all",
        NEAR,
        EVERYWHERE,
        "virtqueue",
        "table-scan",
        "scrub-sequential",
        "scrub-random",
    ];
    let mut found: Vec<&str> = Vec::new();
    let phases = results.policies.iter().flat_map(|policy| &policy.phases);
    for figure in phases.flat_map(|phase| &phase.figures) {
        if !found.contains(&figure.workload.as_str()) {
            found.push(&figure.workload);
        }
    }
    found.sort_by_key(|name| {
        ORDER
            .iter()
            .position(|known| known == name)
            .unwrap_or(ORDER.len())
    });
    found
}

impl Table<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        writeln!(
            f,
            "What hidden memory costs the TLB: {} of RAM, {} lifetimes, seed {}, {}",
            size(results.ram),
            results.lifetimes,
            results.seed,
            results.version
        )?;
        writeln!(
            f,
            "{WORKLOAD}: for 1000 accesses, {} counted, walks in dimensions: {}\n",
            results.accesses, results.dimensions
        )?;
        write!(f, "{:<60}", "")?;
        for core in &results.cores {
            write!(f, " | {:<39}", core.name)?;
        }
        writeln!(f, " |")?;
        write!(
            f,
            "{:<17}{:<12}{:>6}{:>7}{:>5}{:>6}{:>7}",
            "policy", "phase", "guests", "hidden", "1G", "2M", "4K"
        )?;
        for _ in &results.cores {
            write!(f, " | {:>11}{:>11}{:>17}", "misses", "walks", "cycles")?;
        }
        writeln!(f, " | source  latency  pmu")
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, policy: Policy, phase: &PhaseResult) -> fmt::Result {
        // A leaf count of seven digits pushes nothing out: the columns before it are never full.
        let leaves = phase.leaves;
        write!(
            f,
            "{policy:<17}{:<12}{:>6}{:>7}{:>5}{:>6}{:>7}",
            phase.phase,
            phase.guests,
            size(phase.hidden_bytes),
            leaves.g1,
            leaves.m2,
            compact(leaves.k4)
        )?;
        let mut source = SKIP;
        for core in &self.0.cores {
            match ends(phase, &core.name, WORKLOAD) {
                Some((lru, nru)) => {
                    source = &lru.source;
                    write!(
                        f,
                        " | {:>11}{:>11}{:>17}",
                        range(lru.misses, nru.misses),
                        range(lru.walks, nru.walks),
                        range(lru.cycles, nru.cycles)
                    )?;
                }
                None => write!(f, " | {SKIP:>11}{SKIP:>11}{SKIP:>17}")?,
            }
        }
        let [latency, walks] = self.measured(policy, phase.phase);
        writeln!(f, " | {source:<7} {latency:<8} {walks}")
    }

    /// What the hypervisor measured itself under a policy, where that has such a moment: the latency beside that at boot, and walks.
    fn measured(&self, policy: Policy, phase: Phase) -> [String; 2] {
        let moment = match phase {
            Phase::Boot => "boot",
            MOST_GUESTS => "guests",
            Phase::After => "after",
            _ => return [SKIP; 2].map(Into::into),
        };
        let mut runs = self.0.measured.iter();
        let run = runs.find(|run| run.policy == policy.to_string());
        let rows = run.map(|run| run.rows()).unwrap_or_default();
        let row = rows
            .iter()
            .find(|row| (row.phase, row.workload) == (moment, WORKLOAD));
        let text = |value: Option<f64>, digits| {
            value.map_or_else(|| SKIP.into(), |value| format!("{value:.digits$}"))
        };
        [
            text(row.and_then(|row| row.ratio), 3),
            text(row.and_then(|row| row.walks), 1),
        ]
    }

    /// Cycles of every workload, at boot, with most guests, and after the last.
    fn others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: [Phase; 3] = [Phase::Boot, MOST_GUESTS, Phase::After];
        let workloads = workloads(self.0);
        for core in &self.0.cores {
            writeln!(
                f,
                "\nTranslation cycles for 1000 accesses on {}, by workload",
                core.name
            )?;
            write!(f, "{:<17}{:<10}", "policy", "phase")?;
            workloads.iter().try_for_each(|name| write!(f, "{name:>17}"))?;
            writeln!(f)?;
            for policy in &self.0.policies {
                for phase in policy.phases.iter().filter(|phase| SHOWN.contains(&phase.phase)) {
                    write!(f, "{:<17}{:<10}", policy.policy, phase.phase)?;
                    for name in &workloads {
                        let text = ends(phase, &core.name, name)
                            .map_or_else(|| SKIP.into(), |(lru, nru)| range(lru.cycles, nru.cycles));
                        write!(f, "{text:>17}")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    /// What one guest costs, a line for each policy.
    fn by_size(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        let mut sizes: Vec<u64> = results.sizes.iter().map(|result| result.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            return Ok(());
        }
        for core in &results.cores {
            writeln!(
                f,
                "\nTranslation cycles more for 1000 accesses of {NEAR} on {}, by size of the only guest",
                core.name
            )?;
            write!(f, "{:<17}", "policy")?;
            sizes
                .iter()
                .try_for_each(|bytes| write!(f, "{:>17}", size(*bytes)))?;
            writeln!(f)?;
            for policy in &results.policies {
                let own = |bytes: &u64| {
                    let mut all = results.sizes.iter();
                    all.find(|result| (result.policy, result.bytes) == (policy.policy, *bytes))
                };
                if sizes.iter().all(|bytes| own(bytes).is_none()) {
                    continue;
                }
                write!(f, "{:<17}", policy.policy)?;
                for bytes in &sizes {
                    let more = |replacement| own(bytes)?.more(&core.name, NEAR, replacement);
                    let text = more("lru").zip(more("nru"));
                    write!(
                        f,
                        "{:>17}",
                        text.map_or_else(|| SKIP.into(), |(lru, nru)| range(lru, nru))
                    )?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// A count in at most six characters.
fn compact(count: u64) -> String {
    match count {
        small if small < 100_000 => small.to_string(),
        large if large >= 100_000_000 => format!("{:.1}M", large as f64 / 1e6),
        large => format!("{:.2}M", large as f64 / 1e6),
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        self.head(f)?;
        for policy in &results.policies {
            for skip in policy.skipped.iter().filter(|skip| skip.what == EVERY_PHASE) {
                writeln!(f, "{:<17}{EVERY_PHASE} {SKIP} ({})", policy.policy, skip.reason)?;
            }
            for phase in Phase::ALL {
                if let Some(measured) = policy.phase(phase) {
                    self.row(f, policy.policy, measured)?;
                } else if let Some(skip) = policy.skipped.iter().find(|skip| skip.what == phase.name()) {
                    writeln!(f, "{:<17}{phase:<12}{SKIP} ({})", policy.policy, skip.reason)?;
                }
            }
        }
        if let Some(run) = results.measured.iter().find(|run| run.has_figures()) {
            writeln!(
                f,
                "latency (p25 beside that at boot) and pmu (walks): measured by the hypervisor, on a machine with {} of RAM; {MOST_GUESTS} there is when the policy has hidden all that it hides",
                size(run.memory_mib << 20)
            )?;
        }
        if let Some(chase) = &results.chase {
            let entries = if chase.large_entries { "2M" } else { "4K" };
            writeln!(
                f,
                "latency: on this machine only, see the page; 2M pages become entries of {entries} here"
            )?;
        }
        writeln!(
            f,
            "\nA pair such as 12-15 is the model's error bar: LRU and NRU replacement."
        )?;
        for skip in &results.skipped {
            writeln!(f, "{}: {SKIP} ({})", skip.what, skip.reason)?;
        }
        for core in &results.cores {
            writeln!(f, "{}: {}. Cycles: {}.", core.name, core.core, core.weights)?;
        }
        self.others(f)?;
        self.by_size(f)?;
        let goals = goals(results);
        if !goals.is_empty() {
            let met = goals.iter().filter(|goal| goal.met).count();
            writeln!(f, "\nGoals: {met} of {} met", goals.len())?;
        }
        for goal in &goals {
            writeln!(f, "  {:<8}{}", format!("{}:", goal.verdict(true)), goal.text)?;
        }
        let close_by = close_by(results);
        if !close_by.is_empty() {
            writeln!(f, "\nNo goal, but held against the same limit: {CLOSE_BY}")?;
        }
        for held in &close_by {
            writeln!(f, "  {:<8}{}", format!("{}:", held.verdict(false)), held.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn every_moment_has_a_row_and_what_is_missing_says_why() {
        let text = Table(&sample()).to_string();
        let (first, _) = text.split_once("Translation cycles").unwrap();
        for policy in ["grouped", "linux-fresh"] {
            for phase in ["boot", "guests-64", "after"] {
                let row = format!("{policy:<17}{phase:<12}");
                assert_eq!(
                    first.lines().filter(|line| line.starts_with(&row)).count(),
                    1,
                    "{row}\n{text}"
                );
            }
        }
        assert!(text.contains("conversions SKIP (not there)"));
        assert!(text.contains("pmu: SKIP (no counters)"));
        assert!(!text.contains("MISSED"));
        let mut none = sample();
        none.policies[1].phases.clear();
        none.policies[1].skipped[0].what = EVERY_PHASE.into();
        assert!(
            Table(&none)
                .to_string()
                .contains("linux-fresh      every phase SKIP (not there)")
        );
        let mut less = sample();
        less.policies[1].phases[0].figures.clear();
        let text = Table(&less).to_string();
        assert!(
            text.lines()
                .any(|line| line.starts_with("linux-fresh      boot") && line.contains("SKIP       SKIP"))
        );
    }

    /// What the hypervisor measured stands in the row of its policy and moment, and nowhere else.
    #[test]
    fn what_was_measured_stands_beside_the_model() {
        let mut results = sample();
        results.measured = vec![super::super::measured::tests::run()];
        let text = Table(&results).to_string();
        let (first, _) = text.split_once("Translation cycles").unwrap();
        let end = |row: &str| {
            let line = first.lines().find(|line| line.starts_with(row)).unwrap();
            let words: Vec<&str> = line.split_whitespace().rev().take(2).collect();
            (words[1].to_owned(), words[0].to_owned())
        };
        assert_eq!(end("grouped          boot"), ("1.000".into(), "12.0".into()));
        assert_eq!(end("grouped          guests-64"), ("1.250".into(), "12.0".into()));
        for row in ["grouped          after", "linux-fresh      boot"] {
            assert_eq!(end(row), (SKIP.into(), SKIP.into()), "{row}");
        }
        assert!(first.contains("on a machine with 1G of RAM"), "{first}");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            (size(0), size(3 << 19), size(1 << 30), size(3 << 29)),
            ("0".into(), "1M".into(), "1G".into(), "1.5G".into())
        );
        assert_eq!(range(12.0, 12.01), "12.0");
        assert_eq!(range(1500.4, 1400.0), "1400-1500");
        assert_eq!(
            (compact(99_999), compact(16_777_216)),
            ("99999".into(), "16.78M".into())
        );
        assert_eq!(
            compact(231_698_848),
            "231.7M",
            "or it would touch the column before"
        );
    }
}
