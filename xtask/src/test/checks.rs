//! What must be true of a run, read from its report.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use boot_config::Config;
use report::{Event, Leaves, Outcome as Word, SCHEMA};

use crate::emulator::Record;
use crate::machine::Kind;
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

/// Calls of `share-and-take-back` that make something absent: to share and to take back, for each of its nine ranges and for what it prints.
const CHANGES: u64 = 2 * (9 + 1);

/// Calls of `share-in-place` that make something absent: to share and to take back, for each of its six ranges, and five for what it prints.
const CHANGES_IN_PLACE: u64 = 2 * 6 + 5;

/// After a run of `share-in-place`: no ordinary frame but the one for the page that it also shares otherwise, and nothing scrubbed for the rest.
pub fn shared_in_place(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let (there, back) = (counters.pages_shared_in_place, counters.pages_unshared_in_place);
    must(there > 512 && there == back, || {
        format!("{there} pages were shared in place, {back} came back")
    })?;
    must(counters.pages_shared == 1, || {
        format!("{} pages got an ordinary frame", counters.pages_shared)
    })?;
    must(counters.guest_flushes == CHANGES_IN_PLACE, || {
        format!(
            "{} flushes of the guest, should be {CHANGES_IN_PLACE}",
            counters.guest_flushes
        )
    })?;
    let (split, whole) = (counters.second_stage_splits, counters.second_stage_collapses);
    let stays = counters.promotions_blocked_executable > 0;
    must(split > 0 && (stays || split == whole), || {
        format!("{split} 2M leaves of the guest were split, {whole} came back")
    })?;
    must(!record.text.contains("this is private again"), || {
        "text of a private page was printed".to_owned()
    })
}

/// After a run of `share-and-take-back`.
pub fn shared_and_back(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let pages = [
        counters.pages_shared,
        counters.pages_unshared,
        counters.pages_accepted,
    ];
    must(pages[0] > 0 && pages == [pages[0]; 3], || {
        format!("pages shared, private again, accepted: {pages:?}")
    })?;
    must(counters.guest_flushes == CHANGES, || {
        format!(
            "{} flushes of the guest, should be {CHANGES}",
            counters.guest_flushes
        )
    })?;
    let (split, back) = (counters.second_stage_splits, counters.second_stage_collapses);
    // Where code must not run from large leaves, those stay split.
    let stays = counters.promotions_blocked_executable > 0;
    must(split > 0 && (stays || split == back), || {
        format!("{split} 2M leaves of the guest were split, {back} came back")
    })?;
    must(!record.text.contains("this was private"), || {
        "text of a private page was printed".to_owned()
    })
}

/// MiB in large leaves, and MiB of memory, of the three instances of `conversion-storm`: that which ended before the storm, in the middle of it, and after it.
///
/// # Errors
/// There is one more or less of them.
pub fn storm(report: &Report) -> Result<[(u64, u64); 3], String> {
    const NAME: &str = "conversion-storm";
    let found = [0, 1, 2].map(|moment| {
        let says = report.events.iter().find_map(|event| match event {
            Event::ReportValue(value)
                if value.guest == NAME && value.name == "moment" && value.value == moment =>
            {
                Some(value.instance)
            }
            _ => None,
        })?;
        let guest = report
            .guests()
            .find(|guest| guest.name == NAME && guest.instance == says)?;
        Some((guest.large_leaves_mib, guest.memory_mib))
    });
    match found {
        [Some(before), Some(during), Some(after)] => Ok([before, during, after]),
        _ => Err(format!(
            "of the moments of the storm, MiB in large leaves: {found:?}"
        )),
    }
}

/// After a run of `conversion-storm`: large leaves before it and after it, and few in the middle.
pub fn conversion_storm(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let [(before, all), (during, _), (after, _)] = storm(&record.report)?;
    // Where code must not run from large leaves, those stay split.
    let stays = counters.promotions_blocked_executable > 0;
    must(
        (before == all || stays) && during < before && (after == before || stays),
        || format!("MiB in large leaves before, during, after: {before}, {during}, {after} of {all}"),
    )
}

/// At most one flush for 512 conversions, the guests' and the host's: of the latter a launch has one, and so may a teardown.
pub fn few_flushes(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let pages = counters.pages_shared + counters.pages_unshared;
    let flushes = counters.guest_flushes;
    must(flushes > 0 && flushes * 512 <= pages, || {
        format!("{flushes} flushes of guests for {pages} conversions")
    })?;
    let guests = record.report.guests().count() as u64;
    must(counters.flushes <= 2 * guests, || {
        format!("{} flushes of the host for {guests} guests", counters.flushes)
    })
}

/// Memory was low: what was kept for a guest's pages was taken, other frames came for them, and that is why a large leaf is missing. Still at most one
/// flush for 512 conversions, the guests' and the host's.
pub fn squeezed(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let (taken, supplied) = (counters.kept_frames_taken, counters.frames_supplied);
    // Every other page of two regions, one by one, and the regions behind them.
    must(supplied == 512 && taken > 512 + 8 * 512, || {
        format!("{taken} frames taken, and {supplied} supplied")
    })?;
    // Where code must not run from large leaves, that is the first reason.
    let blocked = counters.promotions_blocked_address + counters.promotions_blocked_executable;
    must(blocked > 0, || {
        "frames of others are mapped by one leaf".to_owned()
    })?;
    let pages = counters.pages_shared + counters.pages_unshared;
    must(counters.flushes * 512 <= pages, || {
        format!("{} flushes of the host for {pages} conversions", counters.flushes)
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

/// The firmware's list has this many CPUs, and so many of them are used.
pub fn cpus(record: &Record, found: u32, used: u32) -> Held {
    let start = record.report.start().ok_or("no start")?;
    let there = (start.cpus_found, start.cpus_used);
    must(there == (found, used), || {
        format!("CPUs found and used: {there:?}, not {:?}", (found, used))
    })
}

/// The CPU has this many translation tags, the host's own included.
pub fn tags(record: &Record, count: u32) -> Held {
    let start = record.report.start().ok_or("no start")?;
    let found = start.machine.asids;
    must(found == count, || format!("{found} translation tags"))
}

/// The second stage is that of the CPU which this kind of machine has: with another one the test is not what its name says.
pub fn second_stage(report: &Report, kind: Kind) -> Held {
    let start = report.start().ok_or("no start")?;
    let found = start.machine.second_stage.as_str();
    let right: &[&str] = match kind {
        Kind::Tcg | Kind::NestedAmd => &["npt"],
        Kind::Bochs | Kind::NestedIntel => &["ept"],
        // That of the host.
        Kind::Kvm => &["npt", "ept"],
    };
    must(right.contains(&found), || {
        format!("the second stage is `{found}`, not one of {right:?}")
    })
}

/// There were `instances` guests of this name, and together they took turns right after another guest at least `least` times: the
/// hypervisor's count, whatever the guests say.
pub fn alternations(report: &Report, name: &str, instances: usize, least: u64) -> Held {
    let counts: Vec<_> = report
        .guests()
        .filter(|guest| guest.name == name)
        .map(|guest| guest.alternations)
        .collect();
    must(counts.len() == instances, || {
        format!("{} instances of `{name}`, not {instances}", counts.len())
    })?;
    must(counts.iter().sum::<u64>() >= least, || {
        format!("`{name}` alternated {counts:?} times, together less than {least}")
    })
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

/// A guest of this name was kicked out of guest mode at least once, and went on.
pub fn kicked(report: &Report, name: &str) -> Held {
    let guest = report.guests().find(|guest| guest.name == name);
    let guest = guest.ok_or_else(|| format!("the report has no guest `{name}`"))?;
    must(guest.kicks > 0 && guest.exits > guest.kicks, || {
        format!(
            "`{name}` was kicked {} times in {} exits",
            guest.kicks, guest.exits
        )
    })
}

/// So many CPUs ran guests: flushes left some undisturbed, in a guest or asleep, and reached all of the others.
pub fn busy(record: &Record, count: u32) -> Held {
    cpus(record, count, count)?;
    let counters = record.report.counters().ok_or("no counters")?;
    must(counters.cpus_flagged > 0, || "no CPU was flagged".into())?;
    // Each flush reaches every other CPU in one of three ways.
    let reached = counters.cpus_interrupted + counters.cpus_flagged + counters.cpus_spared;
    must(reached == counters.flushes * u64::from(count - 1), || {
        format!("{} flushes reached {reached} CPUs of {count}", counters.flushes)
    })
}

/// Each guest of this name started so many vCPUs; `least` of them, or more, had a turn at the same time in one of the guests.
pub fn vcpus(report: &Report, name: &str, vcpus: u32, least: u32) -> Held {
    let guests = || report.guests().filter(|guest| guest.name == name);
    must(guests().count() > 0, || format!("no guest `{name}`"))?;
    let wrong = guests().find(|guest| guest.vcpus != vcpus);
    must(wrong.is_none(), || {
        format!(
            "a guest `{name}` had {:?} vCPUs, not {vcpus}",
            wrong.map(|guest| guest.vcpus)
        )
    })?;
    let most = guests().map(|guest| guest.at_once).max();
    must(most >= Some(least), || {
        format!("{most:?} vCPUs of `{name}` ran at the same time, fewer than {least}")
    })
}

/// On so many CPUs guests with four vCPUs each: some of a guest run at the same time, and when one ends its guest the others are kicked out.
pub fn several_vcpus(record: &Record, count: u32) -> Held {
    cpus(record, count, count)?;
    vcpus(&record.report, "vcpus", 4, count.min(2))?;
    vcpus(&record.report, "vcpus-left-behind", 4, count.min(2))?;
    let counters = record.report.counters().ok_or("no counters")?;
    must(count == 1 || counters.kicks > 0, || "nobody was kicked".into())
}

/// As [`guests_flushed`], and CPUs were in the guest and had to be kicked.
pub fn guests_kicked(record: &Record) -> Held {
    guests_flushed(record)?;
    let counters = record.report.counters().ok_or("no counters")?;
    must(counters.guest_cpus_kicked > 0, || {
        "no CPU was kicked out of a guest that changed".into()
    })
}

/// Changes of guests' memory reached every CPU in one way, and flagged those that had left the guest.
pub fn guests_flushed(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("no counters")?;
    let cpus = record.report.start().ok_or("no start")?.cpus_used;
    let reached = counters.guest_cpus_kicked + counters.guest_cpus_flagged + counters.guest_cpus_spared;
    must(counters.guest_cpus_flagged > 0, || "no CPU was flagged".into())?;
    must(reached == counters.guest_flushes * u64::from(cpus), || {
        format!(
            "{} flushes of guests reached {reached} CPUs of {cpus}",
            counters.guest_flushes
        )
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

/// As [`busy`] with 4 CPUs, and a 1G leaf was split: its table waits for CPUs that sleep, and is free in the end (`free-frames`).
pub fn split_while_cpus_sleep(record: &Record) -> Held {
    busy(record, 4)?;
    let splits = record
        .report
        .counters()
        .map_or(0, |counters| counters.direct_map_level3_splits);
    must(splits > 0, || "no 1G leaf was split".into())
}

/// As [`kicked`], and every kick that was sent is counted.
pub fn kicks_arrive(record: &Record) -> Held {
    cpus(record, 2, 2)?;
    kicked(&record.report, "spin")?;
    let counters = record.report.counters().ok_or("no counters")?;
    let taken: u64 = record.report.guests().map(|guest| guest.kicks).sum();
    must(taken <= counters.kicks, || {
        format!("{taken} guests were kicked out by {} kicks", counters.kicks)
    })
}

/// Kicks were meant to be sent, and no guest was kicked: that is noticed.
pub fn kicks_left_out(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("no counters")?;
    must(counters.kicks > 0, || "no CPU was to be kicked".into())?;
    must(kicked(&record.report, "spin").is_err(), || {
        "a kick that was left out was not missed".into()
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
