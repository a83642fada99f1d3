//! A change of a guest's second stage against CPUs that run its vCPUs, or another guest's.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::sync::{Arc, Mutex};
use loom::thread;
use shootdown_models::guests::{Guests, Runner, Vcpu};
use shootdown_models::{try_between, try_with};

/// One CPU takes a page away, while another does `other`.
fn against(short: usize, long: usize, other: impl Fn(Runner) + Clone + Send + Sync + 'static) {
    try_between(short, long, move || {
        let world = Guests::new();
        let (changer, runner) = (world.started(0), world.started(1));
        let other = other.clone();
        let running = thread::spawn(move || other(runner));
        changer.take(0, 0);
        world.done();
        running.join().unwrap();
    });
}

/// It has cached the page, and comes in again. Kicked on its way, it tries once more.
#[test]
fn entry_into_a_changing_guest() {
    try_between(4, 5, || {
        let world = Guests::new();
        let (changer, runner) = (world.started(0), world.started(1));
        let mut vcpu = Vcpu::new(0, 0);
        runner.run_once(&mut vcpu, |guest| guest.touch(0));
        let running = thread::spawn(move || {
            runner.run_once(&mut vcpu, |guest| guest.touch(0));
        });
        changer.take(0, 0);
        running.join().unwrap();
    });
}

/// It has never run the guest before.
#[test]
fn the_first_entry_of_all() {
    against(2, 3, |cpu| {
        let mut vcpu = Vcpu::new(0, 0);
        for _ in 0..2 {
            cpu.run_once(&mut vcpu, |guest| guest.touch(0));
        }
    });
}

/// It stays in the guest and never leaves by itself, so only the kick makes it stop.
#[test]
fn a_cpu_inside_is_kicked() {
    against(2, 4, |cpu| {
        let mut vcpu = Vcpu::new(0, 0);
        cpu.run(&mut vcpu, |guest| guest.touch_until_kicked(0, 1));
        cpu.run_once(&mut vcpu, |guest| guest.touch(0));
    });
}

/// In between it runs another guest, whose generation is far ahead.
#[test]
fn a_cpu_between_two_guests() {
    try_between(4, 5, || {
        let world = Guests::new();
        let (changer, runner) = (world.started(0), world.started(1));
        changer.change_nothing(1);
        changer.change_nothing(1);
        let mut vcpu = Vcpu::new(0, 0);
        runner.run_once(&mut vcpu, |guest| guest.touch(0));
        let running = thread::spawn(move || {
            runner.run_once(&mut Vcpu::new(1, 1), |guest| guest.touch(0));
            runner.run_once(&mut vcpu, |guest| guest.touch(0));
        });
        changer.take(0, 0);
        running.join().unwrap();
    });
}

/// A CPU that runs another guest is left alone: it is inside before the change, stays until that is done, and nothing ends its guest mode. It
/// has run the changing guest before, or never.
#[test]
fn a_cpu_in_another_guest_is_spared() {
    for ran_before in [false, true] {
        try_between(2, 5, move || {
            let world = Guests::new();
            let (changer, runner) = (world.started(0), world.started(1));
            if ran_before {
                runner.run_once(&mut Vcpu::new(0, 0), |guest| guest.touch(0));
            }
            let running = thread::spawn(move || {
                let entered = runner.run(&mut Vcpu::new(1, 1), |guest| {
                    world.done();
                    guest.touch_until_kicked(0, 2);
                    assert!(!guest.kicked());
                });
                assert!(entered);
            });
            world.until_done(1);
            let reached = changer.take(0, 0);
            assert_eq!((reached.kicked, reached.flagged), (0, u32::from(ran_before)));
            world.done();
            running.join().unwrap();
        });
    }
}

/// Two vCPUs of one guest change it at once, each from a hypercall: neither waits for the other for ever.
#[test]
fn two_changers_that_run_the_guest() {
    try_with(2, || {
        let world = Guests::new();
        let (one, two) = (world.started(0), world.started(1));
        // Each uses what the other one takes away.
        let change = |cpu: Runner, number: usize| {
            let mut vcpu = Vcpu::new(0, number);
            cpu.run_once(&mut vcpu, |guest| guest.touch(1 - number));
            cpu.take(0, number);
            cpu.run_once(&mut vcpu, |guest| guest.touch(1 - number));
        };
        let running = thread::spawn(move || change(two, 1));
        change(one, 0);
        running.join().unwrap();
    });
}

/// Three threads: two changes at once, and a CPU that runs the guest.
#[test]
fn two_changers_and_a_cpu_inside() {
    try_with(2, || {
        let world = Guests::new();
        let (one, two, runner) = (world.started(0), world.started(1), world.started(2));
        let changing = thread::spawn(move || {
            two.take(0, 1);
            world.done();
        });
        let running = thread::spawn(move || {
            let mut vcpu = Vcpu::new(0, 0);
            runner.run(&mut vcpu, |guest| {
                guest.touch(1);
                guest.touch_until_kicked(0, 2);
            });
            runner.run_once(&mut vcpu, |guest| {
                guest.touch(0);
                guest.touch(1);
            });
        });
        one.take(0, 0);
        world.done();
        changing.join().unwrap();
        running.join().unwrap();
    });
}

/// Three threads: a vCPU runs on two CPUs in turn, and comes back to where it has cached something.
#[test]
fn a_vcpu_that_moves() {
    try_between(2, 3, || {
        let world = Guests::new();
        let (changer, here, there) = (world.started(0), world.started(1), world.started(2));
        let mut vcpu = Vcpu::new(0, 0);
        here.run_once(&mut vcpu, |guest| guest.touch(0));
        let vcpu = Arc::new(Mutex::new(vcpu));
        let moved = vcpu.clone();
        let away = thread::spawn(move || {
            there.run_once(&mut moved.lock().unwrap(), |guest| guest.touch(0));
        });
        let staying = thread::spawn(move || {
            here.run_once(&mut vcpu.lock().unwrap(), |guest| guest.touch(0));
        });
        changer.take(0, 0);
        away.join().unwrap();
        staying.join().unwrap();
    });
}
