//! Table frames: freed only when every CPU has really flushed, whoever looks.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::thread;
use shootdown_models::{World, try_all};

/// Two threads: a CPU in a guest acknowledges at once, but walks the table as long as it likes.
#[test]
fn a_flag_does_not_free_a_table() {
    try_all(2, || {
        let world = World::new();
        let (requester, other) = (world.started(0), world.started(1));
        other.speculate();
        other.cpu().enter_guest();
        let running = thread::spawn(move || {
            other.walk();
            other.cpu().back(&other);
            other.walk();
            other.cpu().enter_guest();
            other.walk();
            other
        });
        let request = requester.unlink();
        requester.cpu().wait(&requester, request);
        let early = requester.release();
        let other = running.join().unwrap();
        other.cpu().back(&other);
        // It has come back since, so nothing keeps the table any longer.
        assert!(early || requester.release());
    });
}

/// Three threads: another CPU than the requester frees the table, while a third one comes back from a guest.
#[test]
fn anyone_may_free_it() {
    try_all(3, || {
        let world = World::new();
        let (requester, other, third) = (world.started(0), world.started(1), world.started(2));
        third.speculate();
        third.cpu().enter_guest();
        let freeing = thread::spawn(move || {
            other.release();
            other.cpu().enter_guest();
        });
        let returning = thread::spawn(move || {
            third.walk();
            third.cpu().back(&third);
            third.walk();
            third.cpu().enter_guest();
        });
        let request = requester.unlink();
        requester.cpu().wait(&requester, request);
        freeing.join().unwrap();
        returning.join().unwrap();
    });
}

/// Three threads: another CPU frees the table before the requester has looked at anyone, while a third one starts.
#[test]
fn a_cpu_that_starts_has_not_flushed() {
    try_all(3, || {
        let world = World::new();
        let (requester, other, third) = (world.started(0), world.started(1), world.absent(2));
        let freeing = thread::spawn(move || {
            // As if by a flush of its own.
            other.cpu().catch_up(&other);
            other.release();
            other.cpu().enter_guest();
        });
        let starting = thread::spawn(move || {
            assert!(third.cpu().announce());
            third.speculate();
            third.walk();
            assert_eq!(third.cpu().join(&third), Ok(()));
            third.walk();
            third.cpu().sleep();
        });
        let request = requester.unlink();
        requester.cpu().catch_up(&requester);
        requester.cpu().wait(&requester, request);
        freeing.join().unwrap();
        starting.join().unwrap();
    });
}
