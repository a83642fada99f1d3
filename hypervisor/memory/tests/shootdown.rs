//! The shootdown protocol step by step, on one thread: who is interrupted, flagged or spared, and what each method says. Which orders of
//! events are safe is model-checked in `hypervisor/shootdown-models`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};

use memory::tlb::shootdown::{Acknowledged, Cpu, CpuIndex, CpuLine, JoinError, Mode, Outstanding, Shootdown};
use model_machine::Scripted;
use model_machine::scripted::{lines, started};

type Fake<'a> = Scripted<'a, Outstanding>;

fn counts(acknowledged: Acknowledged) -> (u32, u32, u32) {
    let Acknowledged {
        interrupted,
        flagged,
        spared,
        ..
    } = acknowledged;
    (interrupted, flagged, spared)
}

#[test]
fn a_line_is_a_cache_line() {
    assert_eq!((size_of::<CpuLine>(), align_of::<CpuLine>()), (64, 64));
    assert_eq!(align_of::<Shootdown<'_>>(), 64);
}

#[test]
fn there_are_as_many_cpus_as_lines() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    assert_eq!(all.cpu(CpuIndex::new(1)).unwrap().index(), CpuIndex::new(1));
    assert!(all.cpu(CpuIndex::new(2)).is_none());
    assert_eq!(all.mode(CpuIndex::new(1)), Some(Mode::Absent));
    assert_eq!(all.mode(CpuIndex::new(2)), None);
}

/// One CPU alone: one flush, nobody disturbed.
#[test]
fn a_lone_cpu_flushes_and_waits_for_nobody() {
    let lines = lines(1);
    let all = Shootdown::new(&lines);
    let cpu = started(&all, 0);
    let fake = Fake::prompt();
    assert!(!cpu.owes_flush());
    let request = cpu.request();
    let generation = request.generation();
    assert!(!all.all_flushed(generation) && cpu.owes_flush());
    let acknowledged = cpu.wait(&fake, request);
    assert!(!cpu.owes_flush());
    assert_eq!(acknowledged.generation, generation);
    assert_eq!(counts(acknowledged), (0, 0, 0));
    assert_eq!(fake.flushes.get(), 1);
    assert!(all.all_flushed(generation));
    // Nothing new was asked.
    cpu.catch_up(&fake);
    cpu.answer(&fake);
    cpu.back(&fake);
    assert_eq!(fake.flushes.get(), 1);
    assert!(cpu.request().generation() > generation);
}

/// One CPU in each mode. Only the one in the host is interrupted, and only for it is waited.
#[test]
fn a_cpu_in_the_host_is_interrupted_and_others_are_flagged_or_spared() {
    let lines = lines(7);
    let all = Shootdown::new(&lines);
    let [me, host, guest, asleep] = [0, 1, 2, 3].map(|index| started(&all, index));
    let starting = all.cpu(CpuIndex::new(4)).unwrap();
    let given_up = all.cpu(CpuIndex::new(5)).unwrap();
    guest.enter_guest();
    asleep.sleep();
    assert!(starting.announce());
    assert!(given_up.announce() && given_up.give_up());
    let modes = [
        Mode::Host,
        Mode::Host,
        Mode::Guest,
        Mode::Asleep,
        Mode::Starting,
        Mode::GivenUp,
        Mode::Absent,
    ];
    for (index, mode) in (0..).zip(modes) {
        assert_eq!(all.mode(CpuIndex::new(index)), Some(mode));
    }

    let other = Fake::prompt();
    let answer = |outstanding: &Outstanding| {
        if outstanding.polls == 3 {
            host.answer(&other);
        }
    };
    let fake = Fake::new(&answer);
    let request = me.request();
    let generation = request.generation();
    let acknowledged = me.wait(&fake, request);
    assert_eq!(counts(acknowledged), (1, 4, 1));
    assert_eq!(*fake.signals.borrow(), [1]);
    assert_eq!((fake.flushes.get(), other.flushes.get()), (1, 1));
    let polls = fake.polls.borrow();
    assert_eq!(polls.iter().map(|poll| poll.polls).collect::<Vec<_>>(), [1, 2, 3]);
    let first = polls[0];
    assert_eq!((first.cpu, first.mode), (CpuIndex::new(1), Mode::Host));
    assert_eq!((first.wanted, first.interrupted), (generation, true));
    assert!(first.flushed < generation);
    let text = first.to_string();
    for part in [
        "CPU 1 ",
        "flush 1 ",
        "1 polls",
        "in the host",
        "has not taken the interrupt",
        "last flush 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // The others owe a flush, each until it comes back, joins, or is stopped for good.
    assert!(!all.all_flushed(generation));
    guest.back(&other);
    asleep.back(&other);
    starting.join(&other).unwrap();
    assert_eq!(other.flushes.get(), 4);
    assert!(!all.all_flushed(generation));
    assert!(given_up.stopped());
    assert!(all.all_flushed(generation));
}

/// A CPU that has an interrupt on its way is not sent another one; when its handler has begun, it is.
#[test]
fn one_interrupt_is_on_its_way_at_a_time() {
    let lines = lines(3);
    let all = Shootdown::new(&lines);
    let [one, two, host] = [0, 1, 2].map(|index| started(&all, index));
    let (of_two, of_host) = (Fake::prompt(), Fake::prompt());
    let polls = Cell::new(0);
    let answer = |_: &Outstanding| {
        polls.set(polls.get() + 1);
        if polls.get() == 2 {
            // The other requester has come meanwhile, and its look finds the interrupt.
            let request = two.request();
            one.enter_guest();
            let acknowledge = |_: &Outstanding| host.answer(&of_host);
            let waiting = Fake::new(&acknowledge);
            assert_eq!(counts(two.wait(&waiting, request)), (0, 1, 1));
            assert_eq!(*waiting.signals.borrow(), [] as [u32; 0]);
            one.back(&of_two);
        }
    };
    let fake = Fake::new(&answer);
    two.enter_guest();
    let request = one.request();
    assert_eq!(counts(one.wait(&fake, request)), (1, 1, 0));
    // One flush for both.
    assert_eq!(of_host.flushes.get(), 1);
    // Its handler has begun, so the next request interrupts it again.
    let answer = |_: &Outstanding| host.answer(&of_host);
    let fake = Fake::new(&answer);
    let request = one.request();
    assert_eq!(counts(one.wait(&fake, request)), (1, 1, 0));
    assert_eq!(*fake.signals.borrow(), [2]);
}

/// What a CPU has flushed for is found: no interrupt.
#[test]
fn a_cpu_that_has_flushed_already_is_spared() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let request = me.request();
    other.catch_up(&Fake::prompt());
    assert_eq!(counts(me.wait(&Fake::prompt(), request)), (0, 0, 1));
    // Away, but it has flushed.
    let request = me.request();
    other.catch_up(&Fake::prompt());
    other.enter_guest();
    assert_eq!(counts(me.wait(&Fake::prompt(), request)), (0, 0, 1));
}

/// While it waits, a CPU flushes for what others ask.
#[test]
fn a_requester_that_waits_answers_others() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let of_other = Fake::prompt();
    let asked = RefCell::new(Vec::new());
    let meanwhile = |outstanding: &Outstanding| match outstanding.polls {
        1 => asked.borrow_mut().push(other.request().generation()),
        _ => other.answer(&of_other),
    };
    let fake = Fake::new(&meanwhile);
    let request = me.request();
    me.wait(&fake, request);
    // Its own, and one for the request that came meanwhile.
    assert_eq!(fake.flushes.get(), 2);
    assert!(all.all_flushed(asked.borrow()[0]));
}

#[test]
fn a_visit_counts_as_in_the_host_and_flushes_first() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let away: [(fn(Cpu<'_>), Mode); 3] = [
        (|cpu| cpu.enter_guest(), Mode::Guest),
        (|cpu| cpu.sleep(), Mode::Asleep),
        (|cpu| cpu.back(&Fake::prompt()), Mode::Host),
    ];
    for (go, mode) in away {
        go(other);
        let request = me.request();
        let fake = Fake::prompt();
        let visit = other.visit(&fake);
        assert_eq!(fake.flushes.get(), 1, "{mode}");
        assert_eq!(all.mode(other.index()), Some(Mode::Host));
        drop(visit);
        assert_eq!(all.mode(other.index()), Some(mode));
        me.wait(&Fake::prompt(), request);
    }
}

#[test]
fn a_cpu_joins_once_and_only_when_it_is_expected() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let me = started(&all, 0);
    let late = all.cpu(CpuIndex::new(1)).unwrap();
    let fake = Fake::prompt();
    assert_eq!(late.join(&fake), Err(JoinError::NotExpected));
    assert!(!late.give_up() && !late.stopped());
    assert!(late.announce() && !late.announce());
    // It joins up to date, whatever was asked before.
    let generation = me.request().generation();
    assert_eq!(late.join(&fake), Ok(()));
    assert_eq!(fake.flushes.get(), 1);
    late.catch_up(&fake);
    assert_eq!(fake.flushes.get(), 1);
    me.catch_up(&fake);
    assert!(all.all_flushed(generation));
    assert!(!late.announce() && !late.give_up() && !late.stopped());
    assert_eq!(late.join(&fake), Err(JoinError::NotExpected));
    assert!(JoinError::NotExpected.to_string().contains("halted"));
}

#[test]
fn modes_are_named() {
    let names = [
        Mode::Absent,
        Mode::Starting,
        Mode::Host,
        Mode::Guest,
        Mode::Asleep,
        Mode::GivenUp,
    ];
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "not started",
            "starting",
            "in the host",
            "in a guest",
            "asleep",
            "given up"
        ]
    );
}
