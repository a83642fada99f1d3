//! Runs beside each other: the same policy, moment and core in each.

use std::fmt;

use super::axes::{Phase, Policy};
use super::goals::WORKLOAD;
use super::results::Results;
use super::table::size;

/// What one policy costs at one moment in each run.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The core.
    pub core: String,
    /// The policy.
    pub policy: Policy,
    /// The moment.
    pub phase: Phase,
    /// Translation cycles for 1000 accesses, LRU; `None` where a run has not measured them.
    pub cycles: Vec<Option<f64>>,
}

impl Row {
    /// The values, those after the first with their change.
    pub fn texts(&self) -> Vec<String> {
        let first = self.cycles.first().copied().flatten();
        let text = |(place, value): (usize, &Option<f64>)| match (value, first) {
            (None, _) => "SKIP".into(),
            (Some(value), Some(first)) if place > 0 && first > 0.0 => {
                format!("{value:.0} ({:+.1} %)", (value / first - 1.0) * 100.0)
            }
            (Some(value), _) => format!("{value:.0}"),
        };
        self.cycles.iter().enumerate().map(text).collect()
    }
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The runs' names.
    pub names: Vec<String>,
    /// What must be known before two figures are held against each other.
    pub notes: Vec<String>,
    /// The figures, for all that the first run has.
    pub rows: Vec<Row>,
}

impl Comparison {
    /// Runs with their names; the others are held against the first. `None` without a second one.
    pub fn new(runs: &[(String, Results)]) -> Option<Self> {
        let [(first_name, first), others @ ..] = runs else {
            return None;
        };
        if others.is_empty() {
            return None;
        }
        let mut notes = Vec::new();
        for (name, other) in others {
            let settings = |run: &Results| {
                [
                    ("RAM", size(run.ram)),
                    ("seed", run.seed.to_string()),
                    ("lifetimes", run.lifetimes.to_string()),
                    ("accesses", run.accesses.to_string()),
                    ("dimensions", run.dimensions.clone()),
                ]
            };
            for ((what, one), (_, two)) in settings(first).into_iter().zip(settings(other)) {
                if one != two {
                    notes.push(format!(
                        "{name} has {what} {two}, {first_name} {one}: not the same work"
                    ));
                }
            }
        }
        let mut rows = Vec::new();
        for core in &first.cores {
            for policy in &first.policies {
                for phase in &policy.phases {
                    let cycles = |run: &Results| {
                        let measured = run.policy(policy.policy)?.phase(phase.phase)?;
                        Some(measured.figure(&core.name, "lru", WORKLOAD)?.cycles)
                    };
                    rows.push(Row {
                        core: core.name.clone(),
                        policy: policy.policy,
                        phase: phase.phase,
                        cycles: runs.iter().map(|(_, run)| cycles(run)).collect(),
                    });
                }
            }
        }
        Some(Self {
            names: runs.iter().map(|(name, _)| name.clone()).collect(),
            notes,
            rows,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note: {note}"))?;
        write!(f, "{:<6}{:<17}{:<12}", "core", "policy", "phase")?;
        self.names.iter().try_for_each(|name| write!(f, "{name:>24}"))?;
        writeln!(f)?;
        for row in &self.rows {
            write!(f, "{:<6}{:<17}{:<12}", row.core, row.policy, row.phase)?;
            row.texts().iter().try_for_each(|text| write!(f, "{text:>24}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn a_change_is_shown_and_a_missing_figure_is_a_skip() {
        let mut other = sample();
        other.policies[0].phases[1].figures[0].cycles = 121.0;
        other.policies.truncate(1);
        other.seed = 7;
        other.ram *= 2;
        let runs = [("one".to_owned(), sample()), ("two".to_owned(), other)];
        let comparison = Comparison::new(&runs).unwrap();
        assert_eq!(
            comparison.notes,
            [
                "two has RAM 4G, one 2G: not the same work",
                "two has seed 7, one 1: not the same work"
            ]
        );
        let texts = |phase, policy| {
            let row = comparison
                .rows
                .iter()
                .find(|row| (row.phase, row.policy) == (phase, policy));
            row.unwrap().texts()
        };
        assert_eq!(texts(Phase::Guests64, Policy::Grouped), ["110", "121 (+10.0 %)"]);
        assert_eq!(texts(Phase::Boot, Policy::LinuxFresh), ["100", "SKIP"]);
        assert!(Comparison::new(&runs[..1]).is_none());
    }
}
