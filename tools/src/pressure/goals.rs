//! What the results must be, and whether they are.

use std::fmt;

use super::results::{Figure, Phase, Policy, Results};

/// The work that the goals are about: objects over all of the host's memory.
pub const WORKLOAD: &str = "objects-all";
/// The same over all RAM, what was hidden once included: only for moments at which nothing is hidden.
pub const EVERYWHERE: &str = "objects-ram";
/// During guests, `grouped` may cost this share of what the same work costs on an all-2M map, on top of what it cost at boot.
pub const OF_ALL_2M: f64 = 0.02;
/// Equal leaves, equal addresses and equal state cost equally; what is left is rounding in the file.
const ROUNDING: f64 = 1e-6;

/// One goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Whether it is met.
    pub met: bool,
    /// What was asked and what was found.
    pub text: String,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            if self.met { "met:   " } else { "MISSED:" },
            self.text
        )
    }
}

/// The cycles of the workload on a core, the higher of the two kinds of replacement.
fn cycles(figures: &[Figure], core: &str, workload: &str) -> Option<f64> {
    figures
        .iter()
        .filter(|figure| figure.core == core && figure.workload == workload)
        .map(|figure| figure.cycles)
        .reduce(f64::max)
}

/// The goals, for each core; none when the run has not measured what they need.
pub fn goals(results: &Results) -> Vec<Goal> {
    let Some(grouped) = results.policy(Policy::Grouped) else {
        return Vec::new();
    };
    let mut goals = Vec::new();
    for core in &results.cores {
        let at = |phase| cycles(&grouped.phase(phase)?.figures, &core.name, WORKLOAD);
        let (Some(boot), Some(all_2m)) = (at(Phase::Boot), cycles(&grouped.on_all_2m, &core.name, WORKLOAD))
        else {
            continue;
        };
        for phase in [Phase::Guests1, Phase::Guests8, Phase::Guests64, Phase::AgedAlive] {
            let Some(during) = at(phase) else { continue };
            let limit = boot + OF_ALL_2M * all_2m;
            goals.push(Goal {
                met: during <= limit,
                text: format!(
                    "{}, {phase}: {during:.0} translation cycles for 1000 accesses, at most {limit:.0} (boot {boot:.0} + 2 % of {all_2m:.0} on all-2m)",
                    core.name
                ),
            });
        }
        for (phase, workload) in [Phase::AgedEmpty, Phase::After]
            .into_iter()
            .flat_map(|phase| [WORKLOAD, EVERYWHERE].map(|workload| (phase, workload)))
        {
            let at = |phase| cycles(&grouped.phase(phase)?.figures, &core.name, workload);
            let (Some(boot), Some(after)) = (at(Phase::Boot), at(phase)) else {
                continue;
            };
            goals.push(Goal {
                met: (after - boot).abs() <= ROUNDING,
                text: format!(
                    "{}, {phase}: {workload} {after:.0}, equal to boot ({boot:.0})",
                    core.name
                ),
            });
        }
    }
    if let (Some(boot), Some(after)) = (grouped.phase(Phase::Boot), grouped.phase(Phase::After)) {
        goals.push(Goal {
            met: boot.leaves == after.leaves && boot.map == after.map,
            text: "the direct map after the last guest is that of the boot, block for block".into(),
        });
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::super::results::sample;
    use super::*;

    #[test]
    fn each_goal_is_met_by_the_sample_and_missed_where_it_is_changed() {
        let met = |results: &Results| goals(results).iter().all(|goal| goal.met);
        let good = sample();
        assert!(met(&good) && !goals(&good).is_empty(), "{:?}", goals(&good));
        let changed = |change: fn(&mut Results)| {
            let mut results = sample();
            change(&mut results);
            let missed: Vec<Goal> = goals(&results).into_iter().filter(|goal| !goal.met).collect();
            missed
        };
        // 2 % of 1000 on all-2m over 100 at boot: 120 is the most.
        let more = changed(|results| results.policies[0].phases[1].figures[2].cycles = 120.5);
        assert!(
            more.len() == 1 && more[0].text.contains("at most 120"),
            "{more:?}"
        );
        let after = changed(|results| results.policies[0].phases[2].figures[0].cycles = 101.0);
        assert!(
            after.len() == 1 && after[0].text.contains("equal to boot"),
            "{after:?}"
        );
        let shape = changed(|results| results.policies[0].phases[2].leaves.m2 += 1);
        assert!(shape.len() == 1 && shape[0].text.contains("block for block"));
    }

    #[test]
    fn without_grouped_there_are_no_goals() {
        let mut results = sample();
        results.policies.remove(0);
        assert!(goals(&results).is_empty());
    }
}
