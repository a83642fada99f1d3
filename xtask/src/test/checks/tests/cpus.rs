use crate::machine::Kind;

use super::*;

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
    assert_eq!(pauses_kick(&run("spin", 24, 2, 3)), Ok(()));
    assert!(pauses_kick(&run("spin", 24, 1, 2)).is_err());
    assert!(pauses_kick(&run("spin", 24, 0, 3)).is_err());
    assert_eq!(kicks_left_out(&run("spin", 24, 0, 3)), Ok(()));
    assert!(kicks_left_out(&run("spin", 24, 0, 0)).is_err());
    assert!(kicks_left_out(&run("spin", 24, 1, 3)).is_err());
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
