//! A CPU that starts late. It has the tables loaded, and may have cached anything, before it joins.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::thread;
use shootdown_models::{World, try_all};

/// Three threads: a requester, whoever starts the CPU, and the CPU.
#[test]
fn a_late_starter_joins() {
    try_all(3, || {
        let world = World::new();
        let (requester, starter, late) = (world.started(0), world.started(1), world.absent(2));
        let starting = thread::spawn(move || {
            assert!(late.cpu().announce());
            let running = thread::spawn(move || {
                late.speculate();
                late.walk();
                assert_eq!(late.cpu().join(&late), Ok(()));
                late.read(0);
                late.walk();
                late.cpu().sleep();
            });
            starter.cpu().enter_guest();
            running.join().unwrap();
        });
        let request = requester.unlink();
        requester.hide(0);
        requester.cpu().wait(&requester, request);
        requester.release();
        starting.join().unwrap();
    });
}

/// Three threads: the starter loses patience. Either the CPU has joined, or it never will.
#[test]
fn a_cpu_that_is_given_up_touches_nothing() {
    try_all(3, || {
        let world = World::new();
        let (requester, starter, late) = (world.started(0), world.started(1), world.absent(2));
        let starting = thread::spawn(move || {
            let index = late.cpu();
            assert!(index.announce());
            let running = thread::spawn(move || {
                late.speculate();
                let joined = late.cpu().join(&late).is_ok();
                if joined {
                    late.read(0);
                    late.cpu().sleep();
                }
                late.walk();
                joined
            });
            let given_up = index.give_up();
            let joined = running.join().unwrap();
            assert_ne!(joined, given_up);
            // The thread's end stands for the INIT.
            assert_eq!(index.stopped(), given_up);
            starter.cpu().enter_guest();
        });
        requester.hide(0);
        let request = requester.unlink();
        requester.cpu().wait(&requester, request);
        requester.release();
        starting.join().unwrap();
    });
}

/// Three threads: as above, but for a table. Until an INIT has stopped it, a CPU that was given up may walk what it has found.
#[test]
fn a_cpu_that_is_given_up_may_still_walk() {
    try_all(3, || {
        let world = World::new();
        let (requester, late) = (world.started(0), world.absent(1));
        let index = late.cpu();
        assert!(index.announce());
        late.speculate();
        let running = thread::spawn(move || {
            let joined = late.cpu().join(&late).is_ok();
            late.walk();
            if joined {
                late.cpu().sleep();
            }
        });
        let starting = thread::spawn(move || index.give_up());
        let request = requester.unlink();
        requester.cpu().wait(&requester, request);
        let early = requester.release();
        let given_up = starting.join().unwrap();
        running.join().unwrap();
        assert_eq!(index.stopped(), given_up);
        // Stopped, it keeps nothing any longer.
        assert!(early || !given_up || requester.release());
    });
}
