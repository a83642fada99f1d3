//! What was measured and not modelled, on the page.

use maud::{Markup, PreEscaped, html};

use super::super::chased::{CHASE, Chase, PERCENTILE_STEP};
use super::super::measured::{MeasuredRun, UNVERIFIED};
use super::super::results::Results;
use super::super::spread;

pub fn why_no_chase(results: &Results) -> &str {
    let skip = results.skipped.iter().find(|skip| skip.what == CHASE);
    skip.map_or("this file has no chase on a machine", |skip| skip.reason.as_str())
}

/// The chase on the machine that made the file.
pub fn latency(chase: &Chase, picture: &str) -> Markup {
    let percentiles = |values: &[f64]| {
        [10, 25, 50].map(|percent| {
            let value = values.get(percent / PERCENTILE_STEP);
            value.map_or_else(|| "SKIP".into(), |value| format!("{value:.1}"))
        })
    };
    html! {
        p { "Real time, on the machine that made this file: a pointer chase in user space, one object in each 4K page, over memory with 4K pages and the same with 2M pages. Caches do the same in
            both, so the difference is what translation costs. Each box has the middle half of the windows, the line the 5th to the 95th percentile, the bar the median. It is not about
            a direct map: it is what the model can be held against." }
        p { "CPU: " (chase.cpu) "; a hypervisor below: " (if chase.hypervisor { "yes" } else { "no" }) ". "
            @if chase.large_entries { "Entries of the TLB cover 2M here" } @else { strong { "2M pages become entries of 4K here" } ": an outer hypervisor backs the machine so, and 2M pages save only loads of a walk" }
            " (a load over few pages of 4K in one of 2M took " (format!("{:.1}", chase.probe.0)) " ns, over many " (format!("{:.1}", chase.probe.1)) "). Other work on the machine widens the boxes." }
        div class="chart" { (PreEscaped(picture)) }
        div class="wide" {
            table {
                tr { th {} th class="part" colspan="3" { "4K pages, ns a load" } th class="part" colspan="3" { "2M pages, ns a load" } th class="part" { "4K - 2M" } th class="part" colspan="3" { "4K - 2M by the model, ns" } th {} }
                tr { th { "memory" } @for _ in 0..2 { th class="part" { "p10" } th { "p25" } th { "median" } } th class="part" { "p25" }
                    th class="part" { "no outer" } th { "outer 4K" } th { "outer 2M" } th { "source" } }
                @for row in &chase.rows {
                    tr {
                        td { (spread::memory(row.pages)) }
                        @for values in [&row.small, &row.large] { @for (place, text) in percentiles(values).iter().enumerate() { td class=[(place == 0).then_some("part")] { (text) } } }
                        td class="part" { (row.measured().map_or_else(|| "SKIP".into(), |value| format!("{value:.1}"))) }
                        @for (place, value) in row.predicted.iter().enumerate() { td class=[(place == 0).then_some("part")] { (format!("{value:.1}")) } }
                        td { "latency, model" }
                    }
                }
            }
        }
    }
}

/// A run that measured on the machine that it ran on.
pub fn by_the_hypervisor(run: &MeasuredRun) -> Markup {
    let cell = |value: Option<f64>| html! { @match value { Some(value) => td { (format!("{value:.1}")) }, None => td class="skip" { "SKIP" } } };
    html! {
        p { (run.policy) ", " (run.cpu) ", " (run.memory_mib) " MiB of RAM, " code { (run.command_line) } }
        @if run.has_figures() {
            div class="wide" {
                table {
                    tr { th colspan="3" {} th class="part" colspan="4" { "latency, TSC ticks for 1000 loads" } th class="part" colspan="2" { "pmu, for 1000 loads" } }
                    tr { th class="name" { "phase" } th class="name" { "work" } th { "TLB entries" } th class="part" { "p10" } th { "p25" } th { "median" } th { "p25 to boot" }
                        th class="part" { "walks" } th { "second hits" } }
                    @for row in run.rows() {
                        tr {
                            td class="name" { (row.phase) } td class="name" { (row.workload) } td { (row.entries) }
                            @for value in row.latency { (cell(value)) }
                            td { (row.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"))) }
                            (cell(row.walks)) (cell(row.second_hits))
                        }
                    }
                }
            }
            p class="small" { (UNVERIFIED) "." }
        }
        ul { @for skip in run.skipped() { li { (skip.what) ": " span class="skip" { "SKIP" } " (" (skip.reason) ")" } } }
    }
}
