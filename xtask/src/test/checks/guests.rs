//! What guests did, what they said, and how they ended.

use std::collections::BTreeSet;

use report::Event;

use crate::emulator::Record;
use crate::report::Report;

use super::{Held, must};

/// So many guests of this name were destroyed on request, after they had run, or before.
pub fn destroyed(record: &Record, name: &str, count: usize, after_turns: bool) -> Held {
    let guests = || record.report.guests().filter(|guest| guest.name == name);
    let wrong = guests().find(|guest| guest.ending != "destroyed" || (guest.turns > 0) != after_turns);
    must(wrong.is_none(), || {
        format!("not destroyed when it should be: {wrong:?}")
    })?;
    must(guests().count() == count, || {
        format!("{} guests", guests().count())
    })
}

/// A guest that was listed as paused at least twice had used no CPU time between.
pub fn stands_still(record: &Record, label: &str) -> Held {
    let start = format!("console: {label}, ");
    let paused = record
        .text
        .lines()
        .filter(|line| line.starts_with(&start) && line.contains(": paused, "));
    let lines: Vec<&str> = paused.collect();
    let first = lines.first().ok_or("it is not listed as paused")?;
    must(lines.len() > 1 && lines.iter().all(|line| line == first), || {
        format!("listed while paused: {}", lines.join(" | "))
    })
}

/// Guests were paused, resumed and destroyed, and some got to their own end.
pub fn controlled(record: &Record) -> Held {
    let made = record.report.checks().find(|check| check.name == "control");
    must(made.is_some_and(|check| check.held), || {
        "no guest was paused, or in some state none was destroyed".into()
    })?;
    let endings = || record.report.guests().map(|guest| guest.ending.as_str());
    must(endings().any(|ending| ending == "destroyed"), || {
        "no guest was destroyed".into()
    })?;
    must(endings().any(|ending| ending == "exit:0"), || {
        "no guest got to its end".into()
    })
}

/// Exactly a thousand instances of `hello`, with different numbers.
pub fn thousand(record: &Record) -> Held {
    let instances: BTreeSet<_> = record.report.guests().map(|guest| guest.instance).collect();
    must(instances.len() == 1000, || {
        format!("{} instances", instances.len())
    })?;
    let others = record
        .report
        .guests()
        .filter(|guest| guest.name != "hello" || guest.ending != "exit:0")
        .count();
    must(others == 0, || {
        format!("{others} of them are not hello, or did not exit with 0")
    })?;
    let counters = record.report.counters().ok_or("no counters")?;
    // 4 MiB are two regions.
    must(counters.regions_hidden == 2000, || {
        format!("{} regions hidden, not 2000", counters.regions_hidden)
    })?;
    must(counters.flushes < 4 * 1000, || {
        format!("{} flushes for 1000 guests", counters.flushes)
    })
}

/// The hypervisor refused or failed before any guest ran.
pub fn no_guest_ran(record: &Record) -> Held {
    let ran = record.report.guests().find(|guest| guest.exits > 0);
    must(ran.is_none(), || format!("a guest ran: {ran:?}"))
}

/// One guest ended as `refused` and its detail holds `says`.
pub fn refused(report: &Report, name: &str, says: &str) -> Held {
    let guest = report.guests().find(|guest| guest.name == name);
    let guest = guest.ok_or_else(|| format!("the report has no guest `{name}`"))?;
    must(guest.ending == "refused", || {
        format!("`{name}` ended with {}", guest.ending)
    })?;
    must(guest.detail.contains(says), || {
        format!("`{name}` was refused with `{}`, not `{says}`", guest.detail)
    })
}

/// A guest reported a value of this name that is `right`.
pub fn value(report: &Report, guest: &str, name: &str, right: fn(u64) -> bool) -> Held {
    must(values(report, guest, name).any(right), || {
        let values: Vec<_> = values(report, guest, name).collect();
        format!("`{guest}` reported for `{name}`: {values:?}")
    })
}

/// So many instances of a guest have read from CPUID what the report says of them, and no two of them the same.
pub fn measured(report: &Report, guest: &str, instances: usize) -> Held {
    let mut seen = BTreeSet::new();
    for ended in report.guests().filter(|ended| ended.name == guest) {
        let read: String = report
            .events
            .iter()
            .filter_map(|event| match event {
                Event::ReportValue(value)
                    if value.instance == ended.instance && value.name.starts_with("digest") =>
                {
                    Some(format!("{:016x}", value.value))
                }
                _ => None,
            })
            .collect();
        let said = &ended.measurement;
        must(said.len() == 96 && read == *said, || {
            format!(
                "{guest}#{} read `{read}`, the report says `{said}`",
                ended.instance
            )
        })?;
        seen.insert(said);
    }
    must(seen.len() == instances, || {
        format!("{} different measurements of `{guest}`: {seen:?}", seen.len())
    })
}

/// All instances of a guest together have reported at least so much under a name.
pub fn total(report: &Report, guest: &str, name: &str, least: u64) -> Held {
    let sum = values(report, guest, name).fold(0, u64::saturating_add);
    must(sum >= least, || {
        format!("`{guest}` reported {sum} in all for `{name}`, should be {least}")
    })
}

fn values(report: &Report, guest: &str, name: &str) -> impl Iterator<Item = u64> {
    report.events.iter().filter_map(move |event| match event {
        Event::ReportValue(value) if value.guest == guest && value.name == name => Some(value.value),
        _ => None,
    })
}
