//! Each check accepts a good report and refuses one that is wrong in just its point.

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
fn where_all_are_refused_nothing_is_hidden() {
    let mut events = good();
    events[2] = phase("guests", 0, 2, 500);
    events[3] = guest(1, "refused", true);
    events[6] = Event::Counters(Counters::default());
    assert_eq!(standing(&record(Outcome::Pass, events)), Ok(()));
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

#[test]
fn cpus_are_counted() {
    assert!(cpus(&record(Outcome::Pass, good()), 1, 1).is_ok());
    assert!(cpus(&record(Outcome::Pass, good()), 4, 1).is_err());
    assert!(cpus(&record(Outcome::Pass, good()), 1, 0).is_err());
}

#[test]
fn kicks_are_counted() {
    let run = |name: &str, exits: u64, kicks: u64, sent: u64| {
        let mut events = good();
        if let Event::Start(start) = &mut events[0] {
            (start.cpus_found, start.cpus_used) = (2, 2);
        }
        events.push(Event::Guest(Guest {
            name: name.into(),
            instance: 9,
            memory_mib: 4,
            large_leaves_mib: 4,
            measurement: String::new(),
            ending: "time-limit".into(),
            expected: "time-limit".into(),
            held: true,
            detail: String::new(),
            vcpus: 1,
            at_once: 1,
            turns: 1,
            exits,
            hypercalls: 1,
            alternations: 0,
            moves: 0,
            kicks,
            cpu_us: 200_000,
        }));
        events.retain(|event| !matches!(event, Event::Counters(_)));
        events.push(Event::Counters(Counters {
            kicks: sent,
            ..counters()
        }));
        record(Outcome::Pass, events)
    };
    assert_eq!(kicks_arrive(&run("spin", 24, 2, 3)), Ok(()));
    // None came, more came than were sent, the guest did not go on, another guest.
    for (name, exits, kicks, sent) in [
        ("spin", 24, 0, 3),
        ("spin", 24, 4, 3),
        ("spin", 2, 2, 3),
        ("hello", 24, 2, 3),
    ] {
        assert!(
            kicks_arrive(&run(name, exits, kicks, sent)).is_err(),
            "{name} {kicks}"
        );
    }
    assert_eq!(kicks_left_out(&run("spin", 24, 0, 3)), Ok(()));
    assert!(kicks_left_out(&run("spin", 24, 0, 0)).is_err());
    assert!(kicks_left_out(&run("spin", 24, 1, 3)).is_err());
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

#[test]
fn vcpus_are_counted() {
    let run = |count, at_once| {
        let mut events = good();
        events.retain(|event| !matches!(event, Event::Guest(_)));
        events.push(with_vcpus(count, at_once, "exit:0"));
        vcpus(&record(Outcome::Pass, events).report, "hello", 4, 2)
    };
    assert_eq!(run(4, 2), Ok(()));
    assert_eq!(run(4, 4), Ok(()));
    // Too few were started, and no two ran at the same time.
    assert!(run(3, 2).is_err());
    assert!(run(4, 1).is_err());
    assert!(vcpus(&record(Outcome::Pass, good()).report, "vcpus", 4, 1).is_err());
}

#[test]
fn changes_reach_every_cpu_in_one_way() {
    let run = |kicked: u64, flagged: u64, spared: u64| {
        let mut events = good();
        if let Event::Start(start) = &mut events[0] {
            (start.cpus_found, start.cpus_used) = (4, 4);
        }
        events.retain(|event| !matches!(event, Event::Counters(_)));
        events.push(Event::Counters(Counters {
            guest_flushes: 10,
            guest_cpus_kicked: kicked,
            guest_cpus_flagged: flagged,
            guest_cpus_spared: spared,
            ..counters()
        }));
        guests_kicked(&record(Outcome::Pass, events))
    };
    assert_eq!(run(10, 20, 10), Ok(()));
    // Nobody kicked, nobody flagged, one not reached, one reached twice.
    for (kicked, flagged, spared) in [(0, 30, 10), (30, 0, 10), (10, 20, 9), (10, 20, 11)] {
        assert!(run(kicked, flagged, spared).is_err());
    }
}

#[test]
fn guests_that_were_not_controlled_are_noticed() {
    let run = |held, endings: &[&str]| {
        let mut events = good();
        events.retain(|event| !matches!(event, Event::Guest(_)));
        events.push(Event::Check(Check {
            name: "control".into(),
            held,
            detail: String::new(),
        }));
        events.extend(endings.iter().map(|ending| with_vcpus(1, 1, ending)));
        controlled(&record(Outcome::Pass, events))
    };
    assert_eq!(run(true, &["exit:0", "destroyed"]), Ok(()));
    assert!(run(false, &["exit:0", "destroyed"]).is_err());
    assert!(run(true, &["exit:0"]).is_err());
    assert!(run(true, &["destroyed"]).is_err());
    assert!(controlled(&record(Outcome::Pass, good())).is_err());
}

#[test]
fn a_stress_does_what_was_asked_for_and_nothing_fails() {
    let good_line = report::Stress {
        cpus: 4,
        operations: 100_000,
        stops: 20,
        stops_without_guests: 2,
        take_frame: 99_987,
        take: 1,
        take_large: 1,
        take_pieces: 1,
        give: 1,
        exchange: 1,
        rewrite: 1,
        host_take: 1,
        host_give: 1,
        shrink: 1,
        drain: 1,
        cache: 1,
        watermarks: 1,
        ask: 1,
        given_elsewhere: 1,
        magazine_operations: 60_000,
        magazine_locks: 1000,
        magazine_returned: 100,
        most_in_guests: 2,
        ..report::Stress::default()
    };
    let judged = |line: report::Stress, flagged: u64, converted: u64| {
        let mut events = good();
        if let Event::Start(start) = &mut events[0] {
            (start.cpus_found, start.cpus_used) = (4, 4);
            start.command_line = "guest=hello stress=100000+20".into();
        }
        events[6] = Event::Counters(Counters {
            cpus_flagged: flagged,
            pages_shared: converted,
            ..counters()
        });
        events.insert(6, Event::Stress(line));
        stress(&record(Outcome::Pass, events))
    };
    assert_eq!(judged(good_line, 1, 1), Ok(()));
    assert!(judged(good_line, 0, 1).is_err());
    assert!(judged(good_line, 1, 0).is_err());
    let wrong: [fn(&mut report::Stress); 11] = [
        |line| line.stops_without_guests = 3,
        |line| line.cpus = 3,
        |line| line.operations -= 1,
        |line| line.stops -= 1,
        |line| line.failures = 1,
        |line| line.take_frame -= 1,
        |line| (line.ask, line.take_frame) = (0, line.take_frame + 1),
        |line| line.given_elsewhere = 0,
        |line| line.most_in_guests = 1,
        |line| line.magazine_returned = 0,
        |line| line.magazine_locks = 60_000 / 32,
    ];
    for spoil in wrong {
        let mut line = good_line;
        spoil(&mut line);
        assert!(judged(line, 1, 1).is_err(), "{line:?}");
    }
    assert!(stress(&record(Outcome::Pass, good())).is_err(), "no line");
}

#[test]
fn busy_cpus_are_reached_by_each_flush() {
    let run = |interrupted: u64, flagged: u64, spared: u64| {
        let mut events = good();
        if let Event::Start(start) = &mut events[0] {
            (start.cpus_found, start.cpus_used) = (4, 4);
        }
        events.retain(|event| !matches!(event, Event::Counters(_)));
        events.push(Event::Counters(Counters {
            flushes: 10,
            cpus_interrupted: interrupted,
            cpus_flagged: flagged,
            cpus_spared: spared,
            ..counters()
        }));
        busy(&record(Outcome::Pass, events), 4)
    };
    assert_eq!(run(20, 9, 1), Ok(()));
    assert_eq!(run(0, 29, 1), Ok(()));
    // Nobody flagged, one not reached, one reached twice.
    for (interrupted, flagged, spared) in [(29, 0, 1), (20, 9, 0), (20, 9, 2)] {
        assert!(run(interrupted, flagged, spared).is_err());
    }
}

#[test]
fn a_thousand_is_a_thousand() {
    let run = |count: u32, regions: u64, flushes: u64| {
        let mut events: Vec<_> = (1..=count)
            .map(|instance| guest(instance, "exit:0", true))
            .collect();
        events.push(Event::Counters(Counters {
            regions_hidden: regions,
            flushes,
            ..Counters::default()
        }));
        thousand(&record(Outcome::Pass, events))
    };
    assert_eq!(run(1000, 2000, 2000), Ok(()));
    assert!(run(999, 2000, 2000).is_err());
    assert!(run(1000, 1999, 2000).is_err());
    assert!(run(1000, 2000, 8000).is_err());
}

#[test]
fn a_guest_reads_its_own_measurement() {
    let run = |said: [u64; 2], read: [u64; 2]| {
        let mut events = Vec::new();
        for (instance, (said, read)) in (1..).zip(said.into_iter().zip(read)) {
            let Event::Guest(mut ended) = guest(instance, "exit:0", true) else {
                panic!("not a guest")
            };
            ended.measurement = format!("{said:016x}").repeat(6);
            events.push(Event::Guest(ended));
            events.extend((0..6).map(|part| {
                Event::ReportValue(ReportValue {
                    guest: "hello".into(),
                    instance,
                    name: format!("digest{part}"),
                    value: read,
                })
            }));
        }
        let report = Report {
            events,
            unknown: Vec::new(),
        };
        measured(&report, "hello", 2)
    };
    assert_eq!(run([1, u64::MAX], [1, u64::MAX]), Ok(()));
    let error = run([1, 2], [1, 3]).unwrap_err();
    assert!(error.starts_with("hello#2 read"), "{error}");
    let error = run([5, 5], [5, 5]).unwrap_err();
    assert!(error.starts_with("1 different"), "{error}");
}

#[test]
fn values_refusals_and_verdicts() {
    let mut events = good();
    let line = ReportValue {
        guest: "hello".into(),
        instance: 1,
        name: "yields".into(),
        value: 99,
    };
    events.push(Event::ReportValue(line));
    let report = Report {
        events,
        unknown: Vec::new(),
    };
    assert!(value(&report, "hello", "yields", |yields| yields >= 99).is_ok());
    assert!(value(&report, "hello", "yields", |yields| yields >= 100).is_err());
    assert!(value(&report, "other", "yields", |_| true).is_err());
    assert!(total(&report, "hello", "yields", 99).is_ok());
    assert!(total(&report, "hello", "yields", 100).is_err());
    assert!(total(&report, "other", "yields", 1).is_err());

    let report = Report {
        events: vec![guest(1, "refused", true)],
        unknown: Vec::new(),
    };
    assert!(refused(&report, "hello", "more than").is_ok());
    assert!(refused(&report, "hello", "less than").is_err());
    assert!(refused(&report, "other", "more than").is_err());

    let panicked =
        |word, reason| report_agrees(&record(Outcome::Panic("x".into()), vec![verdict(word, reason)]));
    assert!(panicked(Word::Panic, "x").is_ok());
    assert!(panicked(Word::Panic, "").is_err());
    assert!(panicked(Word::Pass, "").is_err());
    assert!(no_guest_ran(&record(Outcome::Pass, vec![guest(1, "exit:0", true)])).is_err());
    assert!(no_guest_ran(&record(Outcome::Pass, vec![start()])).is_ok());
}

#[test]
fn a_second_stage_of_another_machine_is_found() {
    let report = record(Outcome::Pass, good()).report;
    assert_eq!(second_stage(&report, Kind::Tcg), Ok(()));
    assert_eq!(second_stage(&report, Kind::Kvm), Ok(()));
    assert!(second_stage(&report, Kind::Bochs).unwrap_err().contains("`npt`"));
}

#[test]
fn alternations_are_those_of_all_instances_together() {
    // The guests of the good report alternate 7 times each.
    let mut events = good();
    events.insert(4, guest(2, "exit:0", true));
    let report = record(Outcome::Pass, events).report;
    assert_eq!(alternations(&report, "hello", 2, 14), Ok(()));
    assert!(
        alternations(&report, "hello", 2, 15)
            .unwrap_err()
            .contains("[7, 7]")
    );
    assert!(
        alternations(&report, "hello", 1, 1)
            .unwrap_err()
            .contains("2 instances")
    );
    assert!(alternations(&report, "spin", 2, 0).is_err());
}

#[test]
fn what_was_shared_came_back_with_one_flush_a_call() {
    let right = Counters {
        pages_shared: 700,
        pages_unshared: 700,
        pages_accepted: 700,
        guest_flushes: 20,
        second_stage_splits: 9,
        second_stage_collapses: 9,
        ..counters()
    };
    let run = |counters: Counters, text: &str| {
        let mut events = good();
        events.retain(|event| !matches!(event, Event::Counters(_)));
        events.push(Event::Counters(counters));
        let mut record = record(Outcome::Pass, events);
        record.text.push_str(text);
        shared_and_back(&record)
    };
    assert_eq!(run(right, ""), Ok(()));
    assert!(run(right, "share#1 | this was private").is_err());
    let spoils: [fn(&mut Counters); 6] = [
        |counters| counters.pages_shared = 0,
        |counters| counters.pages_unshared = 699,
        |counters| counters.pages_accepted = 701,
        |counters| counters.guest_flushes = 21,
        |counters| counters.second_stage_splits = 0,
        |counters| counters.second_stage_collapses = 8,
    ];
    for spoil in spoils {
        let mut counters = right;
        spoil(&mut counters);
        assert!(run(counters, "").is_err());
    }
    let mut stays = right;
    (stays.second_stage_collapses, stays.promotions_blocked_executable) = (0, 9);
    assert_eq!(run(stays, ""), Ok(()));
}

#[test]
fn what_was_shared_in_place_came_back_without_ordinary_frames() {
    let right = Counters {
        pages_shared_in_place: 4000,
        pages_unshared_in_place: 4000,
        pages_shared: 1,
        guest_flushes: 17,
        second_stage_splits: 9,
        second_stage_collapses: 9,
        ..counters()
    };
    let run = |counters: Counters, text: &str| {
        let mut events = good();
        events.retain(|event| !matches!(event, Event::Counters(_)));
        events.push(Event::Counters(counters));
        let mut record = record(Outcome::Pass, events);
        record.text.push_str(text);
        shared_in_place(&record)
    };
    assert_eq!(run(right, ""), Ok(()));
    assert!(run(right, "share#1 | this is private again").is_err());
    let spoils: [fn(&mut Counters); 7] = [
        |counters| (counters.pages_shared_in_place, counters.pages_unshared_in_place) = (0, 0),
        |counters| counters.pages_unshared_in_place = 3999,
        |counters| counters.pages_shared = 4001,
        |counters| counters.guest_flushes = 16,
        |counters| counters.guest_flushes = 18,
        |counters| counters.second_stage_splits = 0,
        |counters| counters.second_stage_collapses = 8,
    ];
    for spoil in spoils {
        let mut counters = right;
        spoil(&mut counters);
        assert!(run(counters, "").is_err());
    }
    let mut stays = right;
    (stays.second_stage_collapses, stays.promotions_blocked_executable) = (0, 9);
    assert_eq!(run(stays, ""), Ok(()));
}

#[test]
fn a_storm_leaves_nothing_small_behind() {
    let run = |large: &[u64], executable: u64| {
        let mut events = Vec::new();
        // Instances are counted through all guests of a boot, so any of them can be the first.
        for (instance, (moment, large)) in (5..).zip((0..).zip(large)) {
            let Event::Guest(guest) = guest(instance, "exit:0", true) else {
                unreachable!()
            };
            let name = "conversion-storm".to_owned();
            events.push(Event::ReportValue(ReportValue {
                guest: name.clone(),
                instance,
                name: "moment".into(),
                value: moment,
            }));
            events.push(Event::Guest(Guest {
                name,
                memory_mib: 32,
                large_leaves_mib: *large,
                ..guest
            }));
        }
        events.push(Event::Counters(Counters {
            promotions_blocked_executable: executable,
            ..Counters::default()
        }));
        conversion_storm(&record(Outcome::Pass, events))
    };
    assert_eq!(run(&[32, 8, 32], 0), Ok(()));
    // Where code must not run from large leaves.
    assert_eq!(run(&[32, 8, 8], 12), Ok(()));
    for wrong in [&[32, 8, 8][..], &[32, 32, 32], &[30, 8, 32], &[32, 8], &[]] {
        assert!(run(wrong, 0).is_err(), "{wrong:?}");
    }
}

#[test]
fn few_flushes_do_for_many_conversions() {
    let run = |counters| {
        let events = vec![guest(1, "exit:0", true), Event::Counters(counters)];
        few_flushes(&record(Outcome::Pass, events))
    };
    let right = Counters {
        pages_shared: 1024,
        pages_unshared: 1024,
        guest_flushes: 2,
        flushes: 2,
        ..Counters::default()
    };
    assert_eq!(run(right), Ok(()));
    let spoils: [fn(&mut Counters); 4] = [
        |counters| (counters.pages_shared, counters.pages_unshared) = (500, 500),
        |counters| counters.guest_flushes = 0,
        |counters| counters.guest_flushes = 5,
        |counters| counters.flushes = 3,
    ];
    for spoil in spoils {
        let mut counters = right;
        spoil(&mut counters);
        assert!(run(counters).is_err(), "{counters:?}");
    }
}
