//! Several requesters at once. They take no interrupts while they wait, as if interrupts were masked.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use shootdown_models::{World, pause, try_all};

/// Two threads. Each holds translations of what the other one hides, and neither goes away before it is done: they must answer each
/// other.
#[test]
fn two_requesters_answer_each_other() {
    try_all(2, || {
        let world = World::new();
        let (one, two) = (world.started(0), world.started(1));
        one.speculate();
        two.speculate();
        let running = thread::spawn(move || {
            two.hide(1);
            two.read(0);
            two.cpu().enter_guest();
        });
        one.hide(0);
        one.read(1);
        one.cpu().enter_guest();
        running.join().unwrap();
    });
}

/// Three threads: two requesters and a CPU that comes back from a guest.
#[test]
fn two_requesters_and_a_guest_exit() {
    try_all(3, || {
        let world = World::new();
        let (one, two, third) = (world.started(0), world.started(1), world.started(2));
        third.speculate();
        third.cpu().enter_guest();
        let requesting = thread::spawn(move || {
            two.hide(1);
            two.cpu().enter_guest();
        });
        let returning = thread::spawn(move || {
            third.cpu().back(&third);
            third.read(0);
            third.read(1);
            third.cpu().enter_guest();
        });
        one.hide(0);
        one.cpu().enter_guest();
        requesting.join().unwrap();
        returning.join().unwrap();
    });
}

/// Three threads: a CPU in the host answers two requesters, of whom one may have found the other's interrupt on its way and sent none.
#[test]
fn one_interrupt_may_serve_two_requesters() {
    try_all(3, || {
        let world = World::new();
        let (one, two, third) = (world.started(0), world.started(1), world.started(2));
        third.speculate();
        let done = Arc::new(AtomicU32::new(0));
        let requesting = thread::spawn({
            let done = done.clone();
            move || {
                two.hide(1);
                two.cpu().enter_guest();
                done.fetch_add(1, Ordering::Release);
            }
        });
        let answering = thread::spawn({
            let done = done.clone();
            move || {
                let mut turn = 0;
                while done.load(Ordering::Acquire) < 2 {
                    if !third.take_interrupt() {
                        turn += 1;
                        pause(turn);
                    }
                }
                third.read(0);
                third.read(1);
            }
        });
        one.hide(0);
        one.cpu().enter_guest();
        done.fetch_add(1, Ordering::Release);
        requesting.join().unwrap();
        answering.join().unwrap();
    });
}
