//! The results as one page that needs nothing else: no script, no font, no file beside it.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{self, Quantity};
use super::compare::Comparison;
use super::goals::{WORKLOAD, goals};
use super::picture;
use super::results::{Phase, PhaseResult, PolicyResult, Results};
use super::table::{range, size, workloads};

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1120px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc } h3 { font-size: 1em; margin-bottom: .3em }
table { border-collapse: collapse; font-size: 11.5px; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: 1.5px 4px; text-align: right; white-space: nowrap } th { border-bottom: 1px solid #888; font-weight: 600 }
td.name, th.name { text-align: left } tr.first td { border-top: 1px solid #ccc }
.wide { overflow-x: auto } .skip { color: #555; font-style: italic }
.maps { display: flex; flex-wrap: wrap; gap: 8px } figure { margin: 0 } figcaption { font-size: 11.5px; text-align: center }
.maps svg { border: 1px solid #888; display: block } .key { display: inline-block; width: 1em; height: 1em; border: 1px solid #888; vertical-align: -2px; margin: 0 .3em 0 1em }
svg { max-width: 100% } .met { color: #00553d } .missed { color: #a03000; font-weight: 600 }
@media print { body { max-width: none; margin: 0; font-size: 11px } table { font-size: 8.5px } th, td { padding: 1px 3px } figure, tr { break-inside: avoid } h2 { break-after: avoid } * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
";

/// The page of a run; with more than one run also how the others compare to the first.
///
/// # Errors
/// A chart can't be drawn.
pub fn page(results: &Results, comparison: Option<&Comparison>) -> Result<String> {
    let mut charts = Vec::new();
    for core in &results.cores {
        for quantity in [Quantity::Cycles, Quantity::Walks] {
            charts.push(chart::draw(results, &core.name, quantity)?);
        }
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "What hidden memory costs the TLB" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What hidden memory costs the TLB" }
                (introduction(results))
                h2 { "Goals" }
                (goal_list(results))
                h2 { "By phase and policy" }
                p { "Objects of 64 bytes at random over all of the host's memory, each found through the one before (" code { (WORKLOAD) }
                    "). On a logarithmic scale; what is 0.01 or less is drawn at the lower edge. A short vertical bar is the model's error bar, LRU to NRU." }
                @for chart in &charts { div { (PreEscaped(chart)) } }
                (main_table(results))
                h2 { "The direct map" }
                (maps(results))
                h2 { "By workload" }
                (by_workload(results))
                @if let Some(comparison) = comparison {
                    h2 { "Compared with other runs" }
                    (compared(comparison))
                }
                h2 { "Not measured" }
                ul {
                    @for skip in &results.skipped { li { (skip.what) ": " span class="skip" { "SKIP" } " (" (skip.reason) ")" } }
                    @for policy in &results.policies {
                        @for skip in &policy.skipped { li { (policy.policy) ", " (skip.what) ": " span class="skip" { "SKIP" } " (" (skip.reason) ")" } }
                    }
                }
                h2 { "The model" }
                p { "One address at a time, in order: nothing is overlapped, prefetched or speculated, so cycles are an upper bound for work whose accesses depend
                    on each other, and too high for work whose do not. Walks in dimensions: " (results.dimensions) "." }
                table {
                    tr { th class="name" { "core" } th class="name" { "cycles" } th class="name" { "figures from" } }
                    @for core in &results.cores {
                        tr { td class="name" { (core.core) } td class="name" style="white-space: normal" { (core.weights) } td class="name" style="white-space: normal" { (core.source) } }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn introduction(results: &Results) -> Markup {
    html! {
        p { (size(results.ram)) " of RAM, seed " (results.seed) ", " (results.lifetimes) " lifetimes of guests before the aged phases, version "
            (results.version) ". All figures are from a " strong { "model" } " of TLBs, fed with the direct map as an independent page-table walker met it; none was measured on a
            CPU. " (results.accesses) " accesses were counted for each figure, after as many that were not." }
        p { "The same guests come and go under every policy, and in all phases of one policy the work touches the same addresses, none of which is ever hidden." }
    }
}

fn goal_list(results: &Results) -> Markup {
    let goals = goals(results);
    html! {
        @if goals.is_empty() { p class="skip" { "SKIP (they are about the policy grouped, which was not measured)" } }
        ul {
            @for goal in &goals {
                li { @if goal.met { span class="met" { "met" } } @else { span class="missed" { "MISSED" } } ": " (goal.text) }
            }
        }
    }
}

fn pair(phase: &PhaseResult, core: &str, workload: &str, value: fn(&super::Figure) -> f64) -> Markup {
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

fn main_table(results: &Results) -> Markup {
    html! {
        div class="wide" {
            table {
                tr { th colspan="7" {} @for core in &results.cores { th colspan="3" { (core.name) ", for 1000 accesses" } } th colspan="3" {} }
                tr {
                    th class="name" { "policy" } th class="name" { "phase" } th { "guests" } th { "hidden" } th { "1G" } th { "2M" } th { "4K" }
                    @for _ in &results.cores { th { "misses" } th { "walks" } th { "cycles" } }
                    th { "source" } th { "latency" } th { "pmu" }
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

fn maps(results: &Results) -> Markup {
    html! {
        p { "Each cell is 2 MiB, row by row from physical address 0 on; the darker, the more TLB entries it takes."
            @for (_, colour, meaning) in picture::KINDS { span class="key" style=(format!("background: {colour}")) {} (meaning) } }
        @for policy in results.policies.iter().filter(|policy| !policy.policy.is_yardstick()) {
            h3 { (policy.policy) }
            div class="maps" {
                @for phase in &policy.phases {
                    figure {
                        (PreEscaped(picture::draw(&phase.map, &format!("direct map, {}, {}", policy.policy, phase.phase), 134)))
                        figcaption { (phase.phase) }
                    }
                }
            }
        }
    }
}

fn by_workload(results: &Results) -> Markup {
    const SHOWN: [Phase; 3] = [Phase::Boot, Phase::Guests64, Phase::After];
    let names = workloads(results);
    html! {
        @for core in &results.cores {
            h3 { "Translation cycles for 1000 accesses on " (core.name) }
            div class="wide" {
                table {
                    tr { th class="name" { "policy" } th class="name" { "phase" } @for name in &names { th { (name) } } }
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

fn compared(comparison: &Comparison) -> Markup {
    html! {
        @for note in &comparison.notes { p class="missed" { (note) } }
        p { "Translation cycles for 1000 accesses (" code { (WORKLOAD) } ", LRU), and the change against the first run." }
        div class="wide" {
            table {
                tr { th class="name" { "core" } th class="name" { "policy" } th class="name" { "phase" } @for name in &comparison.names { th { (name) } } }
                @for row in &comparison.rows {
                    tr {
                        td class="name" { (row.core) } td class="name" { (row.policy) } td class="name" { (row.phase) }
                        @for text in row.texts() { td { (text) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::sample;
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_has_all_there_is() {
        let results = sample();
        let page = page(&results, None).unwrap();
        for word in ["http://", "https://"] {
            // The namespace of SVG is a name, not something that is fetched.
            let rest = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(word), "{word}");
        }
        assert!(!page.contains("<script") && !page.contains("<link"));
        // Two charts for the one core, three pictures for each policy.
        assert_eq!(page.matches("<svg").count(), 2 + 2 * 3);
        for word in ["no counters", "not there", "made up", "guests-64", "linux-fresh"] {
            assert!(page.contains(word), "{word}");
        }
        assert_eq!(page.matches("class=\"met\"").count(), goals(&results).len());
    }

    #[test]
    fn what_is_not_there_is_a_skip_and_no_zero() {
        let mut results = sample();
        results.policies[0].phases[1].figures.clear();
        let page = page(&results, None).unwrap();
        assert!(page.matches("<td class=\"skip\">SKIP</td>").count() > 12);
    }
}
