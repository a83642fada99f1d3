//! The results as one page that needs nothing else: no script, no font, no file beside it.

mod figures;
mod measured;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::axes::{Phase, Policy};
use super::chart::{self, Quantity};
use super::compare::Comparison;
use super::goals::{CLOSE_BY, Goal, NEAR, WORKLOAD, close_by, goals};
use super::results::{PhaseResult, PolicyResult, Results};
use super::table::{range, size};
use super::{picture, spread};
use figures::{by_size, by_workload, main_table};
use measured::{by_the_hypervisor, latency, why_no_chase};

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1120px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em; margin-bottom: .3em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc } h3 { font-size: 1em; margin-bottom: .3em }
p.lead { font-size: 1.05em; max-width: 56em } p.small { color: #444; font-size: .9em }
table { border-collapse: collapse; font-size: 11.5px; font-variant-numeric: tabular-nums; width: 100% }
table.short { font-size: 14px; width: auto; min-width: 60% } table.short th, table.short td { padding: 3px 10px }
th, td { padding: 1.5px 4px; text-align: right; white-space: nowrap } th { border-bottom: 1px solid #888; font-weight: 600; vertical-align: bottom }
td.name, th.name { text-align: left } td.text { text-align: left; white-space: normal } tr.first td { border-top: 1px solid #ccc }
tr.ours td { font-weight: 600; background: #e8f1f8 } .part { border-left: 1px solid #ccc } th[colspan] { text-align: center }
.wide { overflow-x: auto } .skip { color: #555; font-style: italic }
.chart { overflow-x: auto } .chart svg { max-width: 100%; min-width: 620px; height: auto; display: block }
.maps { display: flex; flex-wrap: wrap; gap: 8px } figure { margin: 0 } figcaption { font-size: 11.5px; text-align: center }
.maps svg { border: 1px solid #888; display: block } .maps .none { width: 126px; border: 1px dashed #888; text-align: center; font-size: 11.5px } .key { display: inline-block; width: 1em; height: 1em; border: 1px solid #888; vertical-align: -2px; margin: 0 .3em 0 1em }
ul.goals { padding-left: 0; list-style: none } ul.goals li { margin: .25em 0; padding-left: 6.5em; text-indent: -6.5em }
ul.goals span { display: inline-block; width: 6.5em; text-indent: 0; white-space: nowrap } .keys span { white-space: nowrap } .keys span.key { margin-left: 1em } .met { color: #00553d } .missed { color: #a03000; font-weight: 700 }
@media print { @page { margin: 12mm } body { max-width: none; margin: 0; padding: 0; font-size: 11px } table { font-size: 7.5px } table.short { font-size: 10px } th, td { padding: 1px 2.5px }
 .wide, .chart { overflow: visible } .chart svg { min-width: 0; width: 100% } .maps { gap: 4px } .maps svg { width: 76px; height: auto } .maps .none { width: 76px; font-size: 8px } figcaption { font-size: 8px }
 figure, tr, .chart, .maps { break-inside: avoid } h2, h3, h2 + p, thead { break-after: avoid } thead { break-inside: avoid } * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
";

/// The page of a run; with more than one run also how the others compare to the first.
///
/// # Errors
/// A chart can't be drawn.
pub fn page(results: &Results, comparison: Option<&Comparison>) -> Result<String> {
    let mut charts = Vec::new();
    for core in &results.cores {
        for quantity in Quantity::ALL {
            charts.push(chart::draw(results, &core.name, quantity)?);
        }
    }
    let mut sizes = Vec::new();
    if !results.sizes.is_empty() {
        for core in &results.cores {
            sizes.push(chart::by_size(results, &core.name, NEAR)?);
        }
    }
    let spread = results.chase.as_ref().map(spread::draw).transpose()?;
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
                (in_short(results))
                h2 { "Goals" }
                (goal_list(results))
                h2 { "The direct map" }
                (maps(results))
                h2 { "By phase and policy" }
                p { "Objects of 64 bytes at random over all of the host's memory, each found through the one before (" code { (WORKLOAD) }
                    "). A miss in the first level hits the second one or walks. The scale is logarithmic; what is 0.01 or less is drawn at the lower edge. A short vertical bar is the model's error bar, LRU to NRU. Each policy has a
                    mark of its own; dashed lines are direct maps without holes." }
                @for chart in &charts { div class="chart" { (PreEscaped(chart)) } }
                (main_table(results))
                h2 { "By size of one guest" }
                @if results.sizes.is_empty() { p class="skip" { "SKIP (this file has no guests by size)" } } @else {
                    p { "A guest of this size alone on the machine: what the host's work costs more while it lives than before, by the model. " code { (NEAR) }
                        " meets a neighbour of the guest's memory one time in eight. What launching and ending such a guest costs, in instructions, is what " code { "cargo xtask bench" } " measures." }
                    @for chart in &sizes { div class="chart" { (PreEscaped(chart)) } }
                    (by_size(results))
                }
                h2 { "Latency" }
                @match &results.chase {
                    Some(chase) => (latency(chase, spread.as_deref().unwrap_or_default())),
                    None => p class="skip" { "SKIP (" (why_no_chase(results)) ")" },
                }
                h2 { "By the hypervisor itself" }
                @if results.measured.is_empty() { p class="skip" { "SKIP (this file has no run of the hypervisor with " code { "measure=tlb" } ")" } }
                @for run in &results.measured { (by_the_hypervisor(run)) }
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
                        tr { td class="name" { (core.core) } td class="text" { (core.weights) } td class="text" { (core.source) } }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn introduction(results: &Results) -> Markup {
    html! {
        p class="lead" { "Memory that is hidden for guests breaks large leaves of the host's direct map. This is what the host's own work then pays for address translation: before, while and after
            64 guests of mixed size live on a machine with " (size(results.ram)) " of RAM, for each way of hiding." }
        p class="small" { "All figures but those under " em { "Latency" } " and " em { "By the hypervisor itself" } " are a " strong { "model's" } ", fed with the direct map as an independent page-table walker met it; no CPU was measured. The same guests come
            and go under every policy, and in all phases of one policy the work touches the same addresses, none of which is ever hidden. Seed " (results.seed) ", " (results.lifetimes)
            " lifetimes before the aged phases, " (results.accesses) " accesses for each figure, after as many that were not counted; version " (results.version) "." }
    }
}

/// The higher of the two ends.
fn worst(phase: &PhaseResult, core: &str, value: fn(&super::Figure) -> f64) -> Option<f64> {
    let of = |replacement| phase.figure(core, replacement, WORKLOAD).map(value);
    Some(of("lru")?.max(of("nru")?))
}

/// What matters first: a row for each policy.
fn in_short(results: &Results) -> Markup {
    const SHOWN: [(Phase, &str); 3] = [
        (Phase::Boot, "boot"),
        (Phase::Guests64, "64 guests"),
        (Phase::After, "after the last"),
    ];
    let cell = |policy: &PolicyResult, core: &str, phase: Phase| -> Markup {
        let of = |value| worst(policy.phase(phase)?, core, value);
        html! {
            @match of(|figure| figure.cycles).zip(of(|figure| figure.walks)) {
                Some((cycles, walks)) => { (each(cycles)) " / " (range(walks, walks)) },
                None if policy.policy.is_yardstick() && phase != Phase::Boot => { "" },
                None => span class="skip" { "SKIP" },
            }
        }
    };
    html! {
        div class="wide" {
            table class="short" {
                tr { th {} @for core in &results.cores { th class="part" colspan=(SHOWN.len()) { (core.core) } } }
                tr { th class="name" { "policy" } @for _ in &results.cores { @for (place, (_, name)) in SHOWN.iter().enumerate() { th class=[(place == 0).then_some("part")] { (name) } } } }
                @for policy in &results.policies {
                    tr class=[(policy.policy == Policy::Grouped).then_some("ours")] {
                        td class="name" { (policy.policy) }
                        @for core in &results.cores { @for (place, (phase, _)) in SHOWN.iter().enumerate() {
                            td class=[(place == 0).then_some("part")] { (cell(policy, &core.name, *phase)) }
                        } }
                    }
                }
            }
        }
        p class="small" { "Translation cycles of one access / walks of 1000 accesses; objects at random over all of the host's memory, the worse of two kinds of replacement. "
            code { "grouped" } " is Lacuna; " code { "grouped-whole" } " would also hide what is left of the last gigablock (not built); " code { "grouped-no-merge" } " never merges what it has split; " code { "linux-fresh" } " hides page by page as Linux' secret memory does, "
            code { "linux-aged" } " the same among neighbours that can't move, " code { "scattered" } " anywhere; the three others are direct maps without holes, to compare with." }
    }
}

/// Cycles of one access, from those of 1000.
fn each(cycles: f64) -> String {
    match cycles / 1000.0 {
        large if large >= 100.0 => format!("{large:.0}"),
        large if large >= 10.0 => format!("{large:.1}"),
        small => format!("{small:.2}"),
    }
}

fn goal_list(results: &Results) -> Markup {
    let goals = goals(results);
    let met = goals.iter().filter(|goal| goal.met).count();
    let close_by = close_by(results);
    html! {
        @if goals.is_empty() { p class="skip" { "SKIP (they are about the policy grouped, which was not measured)" } } @else {
            p { (met) " of " (goals.len()) " are met. They are about " code { "grouped" } ", at the worst phase, the worse of two kinds of replacement." }
        }
        (held(&goals, true))
        @if !close_by.is_empty() {
            p { "No goal, but held against the same limit: " (CLOSE_BY) " (" code { (NEAR) } "). What is above the limit are hits in the second level of the TLB, not walks: the last gigablock
                of the guests is only partly hidden, so the host reaches the rest of it by leaves of 2M. " code { "grouped-whole" } " has no such gigablock, and keeps up to 1 GiB more from the host." }
            (held(&close_by, false))
        }
    }
}

/// What is missed first.
fn held(goals: &[Goal], are_goals: bool) -> Markup {
    html! {
        ul class="goals" {
            @for wanted in [false, true] { @for goal in goals.iter().filter(|goal| goal.met == wanted) {
                li { @if goal.met { span class="met" { "\u{2713} " (goal.verdict(are_goals)) } } @else { span class="missed" { "\u{2717} " (goal.verdict(are_goals)) } } (goal.text) }
            } }
        }
    }
}

fn maps(results: &Results) -> Markup {
    let policies = || results.policies.iter().filter(|policy| !policy.phases.is_empty());
    let mut moments = Phase::ALL.to_vec();
    moments.retain(|moment| policies().any(|policy| policy.phase(*moment).is_some()));
    html! {
        p class="keys" { "Each cell is 2 MiB, row by row from physical address 0 on; the darker, the more TLB entries it takes."
            @for (_, colour, meaning) in picture::KINDS { " " span { span class="key" style=(format!("background: {colour}")) {} (meaning) } } }
        @for policy in policies().filter(|policy| !policy.policy.is_yardstick()) {
            h3 { (policy.policy) }
            div class="maps" {
                // Each moment at its place, below that of the policy before.
                @for moment in &moments {
                    figure {
                        @match policy.phase(*moment) {
                            Some(phase) => (PreEscaped(picture::draw(&phase.map, &format!("direct map, {}, {moment}", policy.policy), 126))),
                            None => div class="none skip" { "SKIP" },
                        }
                        figcaption { (moment) }
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
    use super::super::chased::CHASE;
    use super::super::measured::UNVERIFIED;
    use super::super::results::Skip;
    use super::super::sample::sample;
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
        // Three charts for the one core, one by size, one of latency, three pictures for each policy.
        assert_eq!(page.matches("<svg").count(), 3 + 1 + 1 + 2 * 3);
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

    #[test]
    fn parts_that_a_file_lacks_say_why() {
        let mut results = sample();
        results.sizes.clear();
        results.chase = None;
        assert!(
            page(&results, None)
                .unwrap()
                .contains("SKIP (this file has no chase")
        );
        results.skipped.push(Skip {
            what: CHASE.into(),
            reason: "no large pages".into(),
        });
        let page = page(&results, None).unwrap();
        assert!(
            page.contains("SKIP (no large pages)") && page.contains("SKIP (this file has no guests by size)")
        );
    }

    #[test]
    fn what_the_hypervisor_measured_is_shown_with_what_it_did_not() {
        let mut results = sample();
        assert!(
            page(&results, None)
                .unwrap()
                .contains("SKIP (this file has no run")
        );
        results.measured = vec![super::super::measured::tests::run()];
        let page = page(&results, None).unwrap();
        for word in ["1125.0", "1.250", "pmu objects-64", UNVERIFIED] {
            assert!(page.contains(word), "{word}");
        }
    }
}
