//! Each check accepts a good report and refuses one that is wrong in just its point.

mod changes;
mod cpus;
mod guests;
mod stress;

use std::time::Duration;

use report::{Check, Counters, Gigablock, Guest, Machine, Phase, ReportValue, Start, Verdict as VerdictLine};

use super::*;
use crate::verdict::Outcome;

fn start() -> Event<String> {
    Event::Start(Start {
        schema: SCHEMA,
        version: "0".into(),
        commit: "0".into(),
        machine: Machine {
            cpu: "c".into(),
            second_stage: "npt".into(),
            leaf_1g: true,
            nrip_save: false,
            decode_assists: false,
            flush_by_asid: false,
            asids: 16,
            physical_bits: 40,
        },
        memory_mib: 4096,
        cpus_found: 1,
        cpus_used: 1,
        seed: 1,
        command_line: String::new(),
    })
}

fn phase(name: &str, hidden_mib: u64, g1: u64, m2: u64) -> Event<String> {
    let leaves = Leaves { g1, m2, k4: 3 };
    let gigablocks = vec![Gigablock {
        gib: 0,
        count: 1,
        leaves,
        holes: 0,
    }];
    Event::Phase(Phase {
        phase: name.into(),
        leaves,
        hidden_mib,
        gigablocks,
    })
}

fn guest(instance: u32, ending: &str, held: bool) -> Event<String> {
    Event::Guest(Guest {
        name: "hello".into(),
        instance,
        memory_mib: 4,
        large_leaves_mib: 4,
        measurement: String::new(),
        ending: ending.into(),
        expected: "exit:0".into(),
        held,
        detail: "more than enough".into(),
        vcpus: 1,
        at_once: 1,
        turns: 1,
        exits: 3,
        hypercalls: 2,
        alternations: 7,
        moves: 0,
        kicks: 0,
        cpu_us: 10,
    })
}

fn with_vcpus(vcpus: u32, at_once: u32, ending: &str) -> Event<String> {
    match guest(9, ending, true) {
        Event::Guest(guest) => Event::Guest(Guest {
            vcpus,
            at_once,
            ..guest
        }),
        other => other,
    }
}

fn check(held: bool) -> Event<String> {
    Event::Check(Check {
        name: "walk".into(),
        held,
        detail: String::new(),
    })
}

fn counters() -> Counters {
    Counters {
        direct_map_level3_splits: 1,
        direct_map_level3_collapses: 1,
        flushes: 2,
        regions_hidden: 2,
        regions_restored: 2,
        bytes_scrubbed: 4 << 20,
        ..Counters::default()
    }
}

fn verdict(verdict: Word, reason: &str) -> Event<String> {
    Event::Verdict(VerdictLine {
        verdict,
        reason: reason.into(),
    })
}

/// A good report; the places of its lines are used below.
fn good() -> Vec<Event<String>> {
    vec![
        start(),
        phase("boot", 0, 2, 500),
        phase("guests", 4, 1, 1010),
        guest(1, "exit:0", true),
        check(true),
        phase("after", 0, 2, 500),
        Event::Counters(counters()),
        verdict(Word::Pass, ""),
    ]
}

fn record(outcome: Outcome, events: Vec<Event<String>>) -> Record {
    let report = Report {
        events,
        unknown: Vec::new(),
    };
    Record {
        outcome,
        text: String::new(),
        report,
        stopped_at: Vec::new(),
        took: Duration::ZERO,
    }
}

/// `standing` on the good report with one line replaced.
fn with(line: usize, event: Event<String>) -> String {
    let mut events = good();
    events[line] = event;
    standing(&record(Outcome::Pass, events)).err().unwrap_or_default()
}

fn without(line: usize) -> String {
    let mut events = good();
    events.remove(line);
    standing(&record(Outcome::Pass, events)).err().unwrap_or_default()
}

#[test]
fn a_good_report_stands() {
    assert_eq!(standing(&record(Outcome::Pass, good())), Ok(()));
}

#[test]
fn every_line_is_needed() {
    for line in 0..good().len() {
        assert!(!without(line).is_empty(), "line {line} is not missed");
    }
}

#[test]
fn lines_that_are_wrong_are_found() {
    assert!(with(1, phase("boot", 2, 2, 500)).contains("hidden at boot"));
    assert!(with(2, phase("guests", 0, 2, 500)).contains("hidden with guests"));
    assert!(with(3, guest(1, "shutdown", false)).contains("a guest that did not hold"));
    assert!(with(4, check(false)).contains("a check that did not hold"));
    assert!(with(5, phase("after", 2, 2, 500)).contains("hidden after"));
    assert!(with(5, phase("after", 0, 1, 1012)).contains("leaves at boot"));
    assert!(with(7, verdict(Word::Fail, "x")).contains("ends with"));
    let mut noisy = record(Outcome::Pass, good());
    noisy.report.unknown.push("noise".into());
    assert!(standing(&noisy).is_err());
}

#[test]
fn counters_that_are_wrong_are_found() {
    type Spoil = fn(&mut Counters);
    let spoilt: [(Spoil, &str); 5] = [
        (|c| c.regions_restored = 1, "2 regions hidden, 1 restored"),
        (
            |c| (c.regions_hidden, c.regions_restored) = (0, 0),
            "0 regions hidden",
        ),
        (
            |c| c.direct_map_level3_collapses = 0,
            "splits and collapses differ",
        ),
        (
            |c| (c.direct_map_level2_splits, c.direct_map_level2_collapses) = (1, 1),
            "made 4K tables",
        ),
        (|c| c.bytes_scrubbed = 2 << 20, "bytes scrubbed"),
    ];
    for (spoil, says) in spoilt {
        let mut counters = counters();
        spoil(&mut counters);
        let error = with(6, Event::Counters(counters));
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn where_none_is_launched_nothing_is_hidden() {
    for (ending, vcpus, stands) in [
        ("refused", 0, true),
        ("destroyed", 0, true),
        ("destroyed", 1, false),
    ] {
        let mut events = good();
        events[2] = phase("guests", 0, 2, 500);
        events[3] = guest(1, ending, true);
        if let Event::Guest(guest) = &mut events[3] {
            guest.vcpus = vcpus;
        }
        events[6] = Event::Counters(Counters::default());
        let held = standing(&record(Outcome::Pass, events));
        assert_eq!(held.is_ok(), stands, "{ending}: {held:?}");
    }
}

#[test]
fn leaves_of_1g() {
    let with_leaves = record(Outcome::Pass, good());
    assert_eq!(gigabyte_leaves(&with_leaves), Ok(()));
    assert!(no_gigabyte_leaves(&with_leaves).is_err());
    let mut events = good();
    if let Event::Start(start) = &mut events[0] {
        start.machine.leaf_1g = false;
    }
    assert!(
        no_gigabyte_leaves(&record(Outcome::Pass, events.clone()))
            .unwrap_err()
            .contains("1G leaves at boot")
    );
    for (line, name, hidden) in [(1, "boot", 0), (2, "guests", 4), (5, "after", 0)] {
        events[line] = phase(name, hidden, 0, 1524);
    }
    let without_leaves = record(Outcome::Pass, events);
    assert_eq!(no_gigabyte_leaves(&without_leaves), Ok(()));
    assert!(gigabyte_leaves(&without_leaves).is_err());
}
