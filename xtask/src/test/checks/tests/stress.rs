use super::*;

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
