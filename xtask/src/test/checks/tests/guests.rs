use super::*;

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
fn who_was_destroyed_and_when_is_looked_at() {
    let destroyed_guest = |instance, ending: &str, number| {
        let Event::Guest(line) = guest(instance, ending, true) else {
            unreachable!()
        };
        Event::Guest(Guest {
            turns: number,
            ..line
        })
    };
    let of = |events| record(Outcome::Pass, events);
    let two = || {
        of(vec![
            destroyed_guest(1, "destroyed", 1),
            destroyed_guest(2, "destroyed", 5),
        ])
    };
    assert_eq!(destroyed(&two(), "hello", 2, true), Ok(()));
    assert!(destroyed(&two(), "hello", 1, true).is_err());
    assert!(destroyed(&two(), "hello", 2, false).is_err());
    assert!(destroyed(&two(), "spin", 2, true).is_err());
    let ended = of(vec![destroyed_guest(1, "exit:0", 1)]);
    assert!(destroyed(&ended, "hello", 1, true).is_err());
    let launched = of(vec![destroyed_guest(1, "destroyed", 0)]);
    assert_eq!(destroyed(&launched, "hello", 1, false), Ok(()));
    assert!(destroyed(&launched, "hello", 1, true).is_err());
}

#[test]
fn a_paused_guest_uses_no_time() {
    let listed = |times: &[u64]| {
        let line = |ms| {
            format!(
                "console: spin#1, 16 MiB: paused, {ms} ms of CPU time\nconsole: spin#2, 16 MiB: paused, 1 ms of CPU time\n"
            )
        };
        Record {
            text: times.iter().map(line).collect(),
            ..record(Outcome::Pass, Vec::new())
        }
    };
    assert_eq!(stands_still(&listed(&[7, 7]), "spin#1"), Ok(()));
    assert!(stands_still(&listed(&[7, 8]), "spin#1").is_err());
    assert!(stands_still(&listed(&[7]), "spin#1").is_err());
    assert!(stands_still(&listed(&[]), "spin#1").is_err());
}
