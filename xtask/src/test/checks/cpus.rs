//! How many CPUs there are, who runs where, and what reaches whom.

use crate::emulator::Record;
use crate::machine::Kind;
use crate::report::Report;

use super::{Held, must};

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

/// A guest of this name was kicked out of guest mode at least once, and went on.
pub fn kicked(report: &Report, name: &str) -> Held {
    let guests = || report.guests().filter(|guest| guest.name == name);
    must(guests().next().is_some(), || {
        format!("the report has no guest `{name}`")
    })?;
    must(
        guests().any(|guest| guest.kicks > 0 && guest.exits > guest.kicks),
        || {
            let counts: Vec<_> = guests().map(|guest| (guest.kicks, guest.exits)).collect();
            format!("`{name}` (kicks, exits): {counts:?}")
        },
    )
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

/// On so many CPUs guests with four vCPUs each: some of a guest run at the same time, and when one ends its guest the others are kicked out. With two
/// CPUs on one thread of the emulator it is chance whether the other one is in the guest then; `kicked` looks after that.
pub fn several_vcpus(record: &Record, count: u32) -> Held {
    cpus(record, count, count)?;
    vcpus(&record.report, "vcpus", 4, count.min(2))?;
    vcpus(&record.report, "vcpus-left-behind", 4, count.min(2))?;
    let counters = record.report.counters().ok_or("no counters")?;
    must(count <= 2 || counters.kicks > 0, || "nobody was kicked".into())
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

/// As [`kicks_arrive`], where two guests were paused in turn, four times each, and then destroyed: pauses have kicked, for the first death kicks once at
/// most.
pub fn pauses_kick(record: &Record) -> Held {
    kicks_arrive(record)?;
    let kicks = record.report.counters().map_or(0, |counters| counters.kicks);
    must(kicks >= 3, || format!("{kicks} kicks for pauses and a death"))
}

/// Kicks were meant to be sent, and no guest was kicked: that is noticed.
pub fn kicks_left_out(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("no counters")?;
    must(counters.kicks > 0, || "no CPU was to be kicked".into())?;
    must(kicked(&record.report, "spin").is_err(), || {
        "a kick that was left out was not missed".into()
    })
}
