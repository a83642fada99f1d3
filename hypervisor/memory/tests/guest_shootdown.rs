//! The shootdown of a guest's second-stage translations step by step, on one thread: who is kicked, flagged or spared, when an entry flushes,
//! what comes out of a receipt. Which orders of events are safe is model-checked in `hypervisor/shootdown-models`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};

use memory::frame::GuestId;
use memory::stats::Stats;
use memory::tlb::shootdown::{
    Cpu, CpuIndex, GuestTlb, Inside, LastFlush, Mode, Reached, Shootdown, StillInside,
};
use model_machine::Scripted;
use model_machine::scripted::{lines, started};

type Fake<'a> = Scripted<'a, StillInside>;

fn guest(number: u16) -> GuestTlb {
    GuestTlb::new(GuestId::new(number).unwrap())
}

/// A vCPU runs once, undisturbed. Whether that flushed.
fn run(guest: &GuestTlb, cpu: Cpu<'_>, last: &mut LastFlush) -> bool {
    let inside = guest.enter(cpu, *last);
    let flushed = inside.must_flush();
    inside.leave(last, true);
    flushed
}

/// A change that has to wait for nobody.
fn change(guest: &GuestTlb, cpu: Cpu<'_>) -> Reached {
    let receipt = guest.post(()).wait(cpu, &Fake::prompt());
    let reached = receipt.reached();
    receipt.open(&mut Stats::default());
    reached
}

fn reached(kicked: u32, flagged: u32, spared: u32) -> Reached {
    Reached {
        kicked,
        flagged,
        spared,
    }
}

#[test]
fn a_guests_record_is_a_cache_line() {
    assert_eq!((size_of::<GuestTlb>(), align_of::<GuestTlb>()), (64, 64));
}

#[test]
fn an_entry_flushes_when_the_tables_changed_or_the_vcpu_moved() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [one, two] = [0, 1].map(|index| started(&all, index));
    let guest = guest(1);
    let mut last = LastFlush::NEVER;
    assert!(run(&guest, one, &mut last), "the first entry of all");
    assert!(!run(&guest, one, &mut last));
    change(&guest, one);
    assert!(run(&guest, one, &mut last), "the tables changed");
    assert!(!run(&guest, one, &mut last));
    assert!(run(&guest, two, &mut last), "it moved");
    assert!(!run(&guest, two, &mut last));
    assert!(run(&guest, one, &mut last), "it came back");
    // Several changes are one flush.
    change(&guest, two);
    change(&guest, two);
    assert!(run(&guest, one, &mut last));
    assert!(!run(&guest, one, &mut last));
}

/// Each vCPU has its own tag, so the flush of one is none of the other's.
#[test]
fn each_vcpu_flushes_for_itself() {
    let lines = lines(1);
    let all = Shootdown::new(&lines);
    let cpu = started(&all, 0);
    let guest = guest(1);
    let (mut first, mut second) = (LastFlush::NEVER, LastFlush::NEVER);
    run(&guest, cpu, &mut first);
    run(&guest, cpu, &mut second);
    change(&guest, cpu);
    assert!(run(&guest, cpu, &mut first));
    assert!(run(&guest, cpu, &mut second));
}

#[test]
fn an_entry_that_was_given_up_still_owes_its_flush() {
    let lines = lines(1);
    let all = Shootdown::new(&lines);
    let cpu = started(&all, 0);
    let guest = guest(1);
    let mut last = LastFlush::NEVER;
    run(&guest, cpu, &mut last);
    change(&guest, cpu);
    let inside = guest.enter(cpu, last);
    assert!(inside.must_flush());
    inside.leave(&mut last, false);
    let inside = guest.enter(cpu, last);
    assert!(inside.must_flush());
    drop(inside);
    assert!(run(&guest, cpu, &mut last));
}

/// Of six CPUs one is inside, one has left, one runs another guest after this one, one has only ever run another, one has run none; and
/// one makes the change, from a hypercall of its own vCPU.
#[test]
fn whoever_is_inside_is_kicked_and_others_are_flagged_or_spared() {
    let lines = lines(6);
    let all = Shootdown::new(&lines);
    let [me, inside, left, elsewhere, other, _none] = [0, 1, 2, 3, 4, 5].map(|index| started(&all, index));
    let (changing, different) = (guest(1), guest(2));
    for cpu in [me, left, elsewhere] {
        run(&changing, cpu, &mut LastFlush::default());
    }
    let stays = [elsewhere, other].map(|cpu| different.enter(cpu, LastFlush::NEVER));
    let mut last = LastFlush::NEVER;
    let running = RefCell::new(Some(changing.enter(inside, last)));
    inside.enter_guest();
    let last_of_running = Cell::new(LastFlush::NEVER);
    let leave = |still: &StillInside| {
        if still.polls == 3 {
            let mut last = last_of_running.get();
            running.take().unwrap().leave(&mut last, true);
            last_of_running.set(last);
        }
    };
    let fake = Fake::new(&leave);
    let receipt = changing.post("a frame").wait(me, &fake);
    assert_eq!(receipt.guest(), GuestId::new(1).unwrap());
    assert_eq!(receipt.reached(), reached(1, 3, 2));
    assert_eq!(*fake.signals.borrow(), [1]);
    let polls = fake.polls.borrow();
    assert_eq!(polls.iter().map(|poll| poll.polls).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((polls[0].cpu, polls[0].mode), (CpuIndex::new(1), Mode::Guest));
    let text = polls[0].to_string();
    for part in [
        "CPU 1 ",
        "guest 1 ",
        "change 1 ",
        "1 polls",
        "in a guest",
        "last flush 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let mut stats = Stats::default();
    assert_eq!(receipt.open(&mut stats), "a frame");
    let counted = (
        stats.guest_cpus_kicked,
        stats.guest_cpus_flagged,
        stats.guest_cpus_spared,
    );
    assert_eq!(counted, (1, 3, 2));
    // The one that was kicked flushes when it comes in again.
    last = last_of_running.get();
    assert!(run(&changing, inside, &mut last));
    // Who runs the other guest owes nothing there.
    for inside in stays {
        inside.leave(&mut LastFlush::default(), true);
    }
    assert_eq!(change(&different, me), reached(0, 2, 4));
}

/// A CPU that has come in after the change and has flushed is inside, and is left alone.
#[test]
fn a_cpu_that_has_flushed_already_is_spared() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let guest = guest(1);
    let posted = guest.post(());
    let inside = guest.enter(other, LastFlush::NEVER);
    let receipt = posted.wait(me, &Fake::prompt());
    assert_eq!(receipt.reached(), reached(0, 0, 2));
    receipt.open(&mut Stats::default());
    inside.leave(&mut LastFlush::default(), true);
}

/// It is kicked, and is inside again before anyone looks: it has flushed, which is enough.
#[test]
fn a_cpu_that_comes_in_again_is_not_waited_for() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let guest = guest(1);
    let running = RefCell::new(Some(guest.enter(other, LastFlush::NEVER)));
    let again = |_: &StillInside| {
        let mut last = LastFlush::NEVER;
        running.take().unwrap().leave(&mut last, true);
        let inside = guest.enter(other, last);
        assert!(inside.must_flush());
        running.replace(Some(inside));
    };
    let fake = Fake::new(&again);
    let receipt = guest.post(()).wait(me, &fake);
    assert_eq!(fake.polls.borrow().len(), 1);
    assert_eq!(receipt.reached(), reached(1, 0, 1));
    receipt.open(&mut Stats::default());
}

/// What a CPU has flushed of another guest, at a later generation, says nothing about this one.
#[test]
fn generations_of_two_guests_are_not_mixed_up() {
    let lines = lines(2);
    let all = Shootdown::new(&lines);
    let [me, other] = [0, 1].map(|index| started(&all, index));
    let (first, second) = (guest(1), guest(2));
    for _ in 0..5 {
        change(&second, me);
    }
    run(&second, other, &mut LastFlush::default());
    let running = RefCell::new(Some(first.enter(other, LastFlush::NEVER)));
    let leave = |_: &StillInside| drop(running.take());
    let fake = Fake::new(&leave);
    let receipt = first.post(()).wait(me, &fake);
    assert_eq!(*fake.signals.borrow(), [1]);
    receipt.open(&mut Stats::default());
}

/// While it waits for a CPU inside, it answers shootdowns of host translations.
#[test]
fn a_changer_that_waits_answers_shootdowns() {
    let lines = lines(3);
    let all = Shootdown::new(&lines);
    let [me, inside, requester] = [0, 1, 2].map(|index| started(&all, index));
    let guest = guest(1);
    let running: RefCell<Option<Inside<'_>>> = RefCell::new(Some(guest.enter(inside, LastFlush::NEVER)));
    let asked = RefCell::new(Vec::new());
    let meanwhile = |still: &StillInside| {
        if still.polls == 1 {
            asked.borrow_mut().push(requester.request());
            assert!(me.owes_flush());
        } else {
            assert!(!me.owes_flush());
            drop(running.take());
        }
    };
    let fake = Fake::new(&meanwhile);
    let receipt = guest.post(()).wait(me, &fake);
    assert_eq!((fake.flushes.get(), fake.polls.borrow().len()), (1, 2));
    receipt.open(&mut Stats::default());
}

/// Past 256 CPUs two share a place: who shares one with a CPU that ran the guest counts as flagged, no worse.
#[test]
fn cpus_past_256_share_a_place() {
    let lines = lines(258);
    let all = Shootdown::new(&lines);
    let [me, far] = [0, 257].map(|index| started(&all, index));
    let guest = guest(1);
    run(&guest, far, &mut LastFlush::default());
    assert_eq!(change(&guest, me), reached(0, 2, 256));
    // And it is found.
    let running = RefCell::new(Some(guest.enter(far, LastFlush::NEVER)));
    let leave = |_: &StillInside| drop(running.take());
    let fake = Fake::new(&leave);
    guest.post(()).wait(me, &fake).open(&mut Stats::default());
    assert_eq!(*fake.signals.borrow(), [257]);
}

#[test]
#[should_panic(expected = "dropped before its flush")]
fn a_change_cannot_be_ignored() {
    drop(guest(1).post(()));
}

#[test]
#[should_panic(expected = "dropped before its flush")]
fn a_receipt_cannot_be_ignored() {
    let lines = lines(1);
    let all = Shootdown::new(&lines);
    let cpu = started(&all, 0);
    drop(guest(1).post(()).wait(cpu, &Fake::prompt()));
}

#[test]
#[should_panic(expected = "enters a guest inside a guest")]
fn a_cpu_is_inside_one_guest_at_a_time() {
    let lines = lines(1);
    let all = Shootdown::new(&lines);
    let cpu = started(&all, 0);
    let _inside = guest(1).enter(cpu, LastFlush::NEVER);
    let _again = guest(2).enter(cpu, LastFlush::NEVER);
}
