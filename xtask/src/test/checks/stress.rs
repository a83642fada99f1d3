//! The stress did what it was asked for.

use boot_config::Config;
use report::Event;

use crate::emulator::Record;

use super::{Held, cpus, must};

/// The stress has done what the command line asked for, on all CPUs, with guests on half of them at times; operations of every kind were made,
/// memory changed hands between CPUs, and flushes left CPUs undisturbed.
pub fn stress(record: &Record) -> Held {
    let report = &record.report;
    let start = report.start().ok_or("no start")?;
    cpus(record, start.cpus_found, start.cpus_found)?;
    let line = report.events.iter().find_map(|event| match event {
        Event::Stress(stress) => Some(stress),
        _ => None,
    });
    let line = line.ok_or("the report has no `stress`")?;
    let asked = Config::parse(&start.command_line)
        .ok()
        .and_then(|config| config.stress)
        .ok_or("no stress was asked for")?;
    must(
        (line.cpus, line.operations, line.stops) == (start.cpus_used, asked.operations, asked.stops),
        || format!("asked for {asked:?}, done: {line:?}"),
    )?;
    must(line.failures == 0, || format!("{} failures", line.failures))?;
    // While one is launched and others are taken down, none may be there for a moment.
    must(line.stops_without_guests <= line.stops.div_ceil(10), || {
        format!(
            "no guest lived at {} of {} stops",
            line.stops_without_guests, line.stops
        )
    })?;
    let kinds = line.kinds();
    must(
        kinds.iter().map(|(_, count)| count).sum::<u64>() == line.operations,
        || format!("the kinds are not all operations: {kinds:?}"),
    )?;
    // Of what is rarest, 100,000 operations have ten on average; fewer may have none.
    let many = asked.operations >= 100_000;
    let never = kinds.iter().find(|(_, count)| *count == 0);
    must(never.is_none() || !many, || format!("never done: {never:?}"))?;
    must(line.given_elsewhere > 0, || {
        "nothing changed hands between CPUs".into()
    })?;
    // Some thousands are over so soon that it is a matter of the seed.
    let some = asked.operations >= 10_000;
    must(line.most_in_guests * 2 >= line.cpus || !some, || {
        format!("at most {} CPUs were in guests at once", line.most_in_guests)
    })?;
    must(line.magazine_returned > 0 || !many, || {
        "no magazine gave anything back when asked".into()
    })?;
    // A batch is 128 frames. What is asked for, and what gets a region, costs a few takes more.
    must(line.magazine_locks * 32 < line.magazine_operations, || {
        format!(
            "magazines took the lock {} times for {} frames",
            line.magazine_locks, line.magazine_operations
        )
    })?;
    let counters = report.counters().ok_or("no counters")?;
    must(counters.pages_shared > 0, || "no guest shared a page".into())?;
    must(counters.cpus_flagged > 0, || "no CPU was flagged".into())
}
