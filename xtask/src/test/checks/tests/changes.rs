use super::*;

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
