//! The tables of figures on the page.

use maud::{Markup, html};

use super::super::axes::Phase;
use super::super::goals::{NEAR, WORKLOAD};
use super::super::results::{Figure, PhaseResult, PolicyResult, Results, SizeResult};
use super::super::table::{range, size, workloads};

pub fn by_size(results: &Results) -> Markup {
    let cell = |result: &SizeResult, core: &str, workload: &str| {
        let more = |replacement| result.more(core, workload, replacement);
        html! {
            @match more("lru").zip(more("nru")) {
                Some((lru, nru)) => td { (range(lru, nru)) },
                None => td class="skip" { "SKIP" },
            }
        }
    };
    let broken = |before: u64, now: u64| before.saturating_sub(now);
    let mut last = None;
    html! {
        div class="wide" {
            table {
                thead {
                    tr { th colspan="5" {} @for core in &results.cores { th colspan="2" { (core.name) ", cycles more for 1000 accesses" } } }
                    tr {
                        th class="name" { "policy" } th { "guest" } th { "1G leaves lost" } th { "2M leaves" } th { "4K leaves" }
                        @for _ in &results.cores { th { (WORKLOAD) } th { (NEAR) } }
                    }
                }
                @for result in &results.sizes {
                    tr class=[(last.replace(result.policy) != Some(result.policy)).then_some("first")] {
                        td class="name" { (result.policy) } td { (size(result.bytes)) } td { (broken(result.before.g1, result.leaves.g1)) } td { (result.leaves.m2) } td { (result.leaves.k4) }
                        @for core in &results.cores { (cell(result, &core.name, WORKLOAD)) (cell(result, &core.name, NEAR)) }
                    }
                }
            }
        }
    }
}

fn pair(phase: &PhaseResult, core: &str, workload: &str, value: fn(&Figure) -> f64) -> Markup {
    let ends = phase
        .figure(core, "lru", workload)
        .zip(phase.figure(core, "nru", workload));
    html! {
        @match ends {
            Some((lru, nru)) => td { (range(value(lru), value(nru))) },
            None => td class="skip" { "SKIP" },
        }
    }
}

pub fn main_table(results: &Results) -> Markup {
    html! {
        div class="wide" {
            table {
                thead {
                    tr { th colspan="4" {} th colspan="3" { "leaves" } @for core in &results.cores { th colspan="3" { (core.name) ", for 1000 accesses" } } th colspan="3" {} }
                    tr {
                        th class="name" { "policy" } th class="name" { "phase" } th { "guests" } th { "hidden" } th { "1G" } th { "2M" } th { "4K" }
                        @for _ in &results.cores { th { "misses" } th { "walks" } th { "cycles" } }
                        th { "source" } th { "latency" } th { "pmu" }
                    }
                }
                @for policy in &results.policies { @for (place, phase) in policy.phases.iter().enumerate() { (main_row(results, policy, place, phase)) } }
            }
        }
    }
}

fn main_row(results: &Results, policy: &PolicyResult, place: usize, phase: &PhaseResult) -> Markup {
    let source = phase.figures.first().map_or("", |figure| figure.source.as_str());
    html! {
        tr class=[(place == 0).then_some("first")] {
            td class="name" { (policy.policy) } td class="name" { (phase.phase) } td { (phase.guests) } td { (size(phase.hidden_bytes)) }
            td { (phase.leaves.g1) } td { (phase.leaves.m2) } td { (phase.leaves.k4) }
            @for core in &results.cores {
                (pair(phase, &core.name, WORKLOAD, |figure| figure.misses))
                (pair(phase, &core.name, WORKLOAD, |figure| figure.walks))
                (pair(phase, &core.name, WORKLOAD, |figure| figure.cycles))
            }
            td { (source) } td class="skip" { "SKIP" } td class="skip" { "SKIP" }
        }
    }
}

pub fn by_workload(results: &Results) -> Markup {
    const SHOWN: [Phase; 3] = [Phase::Boot, Phase::Guests64, Phase::After];
    let names = workloads(results);
    html! {
        @for core in &results.cores {
            h3 { "Translation cycles for 1000 accesses on " (core.name) }
            div class="wide" {
                table {
                    thead { tr { th class="name" { "policy" } th class="name" { "phase" } @for name in &names { th { (name) } } } }
                    @for policy in &results.policies {
                        @for (place, phase) in policy.phases.iter().filter(|phase| SHOWN.contains(&phase.phase)).enumerate() {
                            tr class=[(place == 0).then_some("first")] {
                                td class="name" { (policy.policy) } td class="name" { (phase.phase) }
                                @for name in &names { (pair(phase, &core.name, name, |figure| figure.cycles)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
