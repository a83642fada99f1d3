//! What must be true of a run, read from its report.
//!
//! [`standing`] is asked of every run that must pass; a row of the table adds what it is about: `changes` of guests' memory, `cpus`, `guests`, the
//! `stress`. Each has a test in which just its point is wrong.

mod changes;
mod cpus;
mod guests;
mod stress;
#[cfg(test)]
mod tests;

pub use changes::*;
pub use cpus::*;
pub use guests::*;
pub use stress::*;

use report::{Event, Leaves, Outcome as Word, SCHEMA};

use crate::emulator::Record;
use crate::report::Report;

type Held = Result<(), String>;

fn must(held: bool, otherwise: impl FnOnce() -> String) -> Held {
    if held { Ok(()) } else { Err(otherwise()) }
}

fn leaves(report: &Report, phase: &str) -> Result<Leaves, String> {
    report
        .phase(phase)
        .map(|line| line.leaves)
        .ok_or_else(|| format!("the report has no phase `{phase}`"))
}

/// Looked at after every run that must pass: the report is whole and in order, every check and guest held, memory was really
/// hidden, and afterwards the direct map is what it was.
pub fn standing(record: &Record) -> Held {
    let report = &record.report;
    must(report.unknown.is_empty(), || {
        format!("lines that are no report: {}", report.unknown.join(" | "))
    })?;
    let start = report.start().ok_or("the report has no `start`")?;
    must(start.schema == SCHEMA, || {
        format!("the report's schema is {}", start.schema)
    })?;
    must(matches!(report.events.first(), Some(Event::Start(_))), || {
        "`start` is not the first line".into()
    })?;
    match report.events.last() {
        Some(Event::Verdict(verdict)) if verdict.verdict == Word::Pass => {}
        last => return Err(format!("the report ends with {last:?}")),
    }

    must(report.guests().next().is_some(), || "no guest ran".into())?;
    let broken = report.guests().find(|guest| !guest.held);
    must(broken.is_none(), || {
        format!("a guest that did not hold: {broken:?}")
    })?;
    must(report.checks().next().is_some(), || {
        "the hypervisor checked nothing".into()
    })?;
    let broken = report.checks().find(|check| !check.held);
    must(broken.is_none(), || {
        format!("a check that did not hold: {broken:?}")
    })?;

    // Where every guest was refused, as it was expected to be, or destroyed before it was launched, there was nothing to hide.
    let launches = report.guests().any(|guest| guest.vcpus > 0);
    let hidden = |phase: &str| report.phase(phase).map(|line| line.hidden_mib);
    must(hidden("boot") == Some(0), || {
        format!("hidden at boot: {:?} MiB", hidden("boot"))
    })?;
    must(hidden("after") == Some(0), || {
        format!("hidden after: {:?} MiB", hidden("after"))
    })?;
    must(!launches || hidden("guests") > Some(0), || {
        format!("hidden with guests: {:?} MiB", hidden("guests"))
    })?;
    let (boot, after) = (leaves(report, "boot")?, leaves(report, "after")?);
    must(boot == after, || {
        format!("leaves at boot {boot:?}, after {after:?}")
    })?;
    let blocks = |phase: &str| report.phase(phase).map(|line| line.gigablocks.clone());
    must(blocks("boot") == blocks("after"), || {
        "a gigablock is not what it was at boot".into()
    })?;

    let counters = report.counters().ok_or("the report has no `counters`")?;
    let (hidden, restored) = (counters.regions_hidden, counters.regions_restored);
    must((hidden > 0 || !launches) && hidden == restored, || {
        format!("{hidden} regions hidden, {restored} restored")
    })?;
    let level2 = (
        counters.direct_map_level2_splits,
        counters.direct_map_level2_collapses,
    );
    let level3 = (
        counters.direct_map_level3_splits,
        counters.direct_map_level3_collapses,
    );
    must(level2.0 == level2.1 && level3.0 == level3.1, || {
        format!("splits and collapses differ: level 2 {level2:?}, level 3 {level3:?}")
    })?;
    must(level2 == (0, 0) || counters.pages_hidden > 0, || {
        format!("hiding whole regions made 4K tables: {level2:?}")
    })?;
    must(counters.bytes_scrubbed >= hidden << 21, || {
        format!("{} bytes scrubbed for {hidden} regions", counters.bytes_scrubbed)
    })
}

/// 1G leaves are used where memory allows, and splitting one was needed and undone.
pub fn gigabyte_leaves(record: &Record) -> Held {
    let report = &record.report;
    let start = report.start().ok_or("no start")?;
    must(start.machine.leaf_1g, || {
        "the machine line says that there are no 1G leaves".into()
    })?;
    let boot = leaves(report, "boot")?;
    must(boot.g1 > 0, || format!("no 1G leaf at boot: {boot:?}"))
}

/// No 1G leaf anywhere.
pub fn no_gigabyte_leaves(record: &Record) -> Held {
    let report = &record.report;
    let start = report.start().ok_or("no start")?;
    must(!start.machine.leaf_1g, || {
        "the machine line says that there are 1G leaves".into()
    })?;
    for phase in ["boot", "guests", "after"] {
        let found = leaves(report, phase)?;
        must(found.g1 == 0, || format!("1G leaves at {phase}: {found:?}"))?;
    }
    let boot = leaves(report, "boot")?;
    must(boot.m2 > 0, || format!("no 2M leaf at boot: {boot:?}"))
}

/// Three guests of 64 MiB, one after the other, with a cache of 20 regions: the first hides 32, the others 12 each and reuse 20. The trace says
/// the same as the counters, the view has the guest's memory, and in the end the cache is empty.
pub fn cache_of_20(record: &Record) -> Held {
    let report = &record.report;
    let counters = report.counters().ok_or("no counters")?;
    let (hidden, hits) = (counters.regions_hidden, counters.cache_hits);
    must((hidden, hits) == (32 + 12 + 12, 20 + 20), || {
        format!("{hidden} regions hidden, {hits} from the cache")
    })?;
    let traced = |action: &str| -> u64 {
        let events = report.events.iter().filter_map(|event| match event {
            Event::Trace(trace) if trace.action == action => Some(trace.bytes >> 21),
            _ => None,
        });
        events.sum()
    };
    let trace = ["carve", "hide", "flush", "restore"].map(traced);
    must(
        trace == [hidden, hidden, hidden, counters.regions_restored],
        || format!("regions traced: {trace:?}"),
    )?;
    let views: Vec<_> = report
        .events
        .iter()
        .filter_map(|event| match event {
            Event::View(view) => Some((view.phase.as_str(), &view.memory)),
            _ => None,
        })
        .collect();
    let regions = |counts: &[u64]| -> u64 {
        (9..)
            .zip(&counts[9..])
            .map(|(order, count)| count << (order - 9))
            .sum()
    };
    let seen: Vec<_> = views
        .iter()
        .map(|(phase, memory)| {
            (
                *phase,
                regions(&memory.private),
                memory.holes,
                memory.cached_regions,
            )
        })
        .collect();
    must(
        seen == [("boot", 0, 0, 0), ("guests", 32, 32, 0), ("after", 0, 0, 0)],
        || format!("the views: {seen:?}"),
    )?;
    must(views[0].1.host_free == views[2].1.host_free, || {
        "free memory is in other pieces than at boot".into()
    })
}

/// The report ends with the word that the text says, and with a reason.
pub fn report_agrees(record: &Record) -> Held {
    let Some(Event::Verdict(verdict)) = record.report.events.last() else {
        return Err(format!("the report ends with {:?}", record.report.events.last()));
    };
    let word = match verdict.verdict {
        Word::Pass => "PASS",
        Word::Fail => "FAIL",
        Word::Panic => "PANIC",
        Word::Refused => "REFUSED",
    };
    must(word == record.outcome.word(), || {
        format!("the report's verdict is {word}")
    })?;
    must(word == "PASS" || !verdict.reason.is_empty(), || {
        "the report gives no reason".into()
    })
}
