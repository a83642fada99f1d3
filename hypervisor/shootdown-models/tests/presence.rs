//! A request against a CPU that comes, goes, or is met by an NMI. Two threads each: the requester and that CPU.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::thread;
use shootdown_models::{Processor, World, pause, try_all, try_with};

/// One CPU hides a frame, unlinks a table and frees it when it may, while another does `other`.
fn against(other: impl Fn(Processor) + Clone + Send + Sync + 'static) {
    try_all(2, move || {
        let world = World::new();
        let (requester, other_cpu) = (world.started(0), world.started(1));
        let other = other.clone();
        let running = thread::spawn(move || other(other_cpu));
        let request = requester.unlink();
        requester.hide(0);
        requester.cpu().wait(&requester, request);
        requester.release();
        running.join().unwrap();
    });
}

#[test]
fn guest_entry() {
    against(|cpu| {
        cpu.speculate();
        cpu.read(0);
        cpu.walk();
        cpu.cpu().enter_guest();
        cpu.walk();
    });
}

#[test]
fn guest_exit() {
    against(|cpu| {
        cpu.speculate();
        cpu.cpu().enter_guest();
        cpu.walk();
        cpu.cpu().back(&cpu);
        cpu.read(0);
        cpu.walk();
        cpu.cpu().enter_guest();
        cpu.walk();
    });
}

/// It was asleep, and an interrupt wakes it: the handler runs first, then what comes after the halt.
#[test]
fn sleeping_and_waking() {
    against(|cpu| {
        cpu.speculate();
        cpu.cpu().sleep();
        let visit = cpu.cpu().visit(&cpu);
        cpu.read(0);
        drop(visit);
        cpu.walk();
        cpu.cpu().back(&cpu);
        cpu.read(0);
        cpu.cpu().sleep();
    });
}

/// It stays in the host, so only the interrupt makes it flush.
#[test]
fn a_cpu_in_the_host_is_interrupted() {
    against(|cpu| {
        cpu.speculate();
        cpu.read(0);
        let mut turn = 0;
        while !cpu.take_interrupt() {
            cpu.walk();
            turn += 1;
            pause(turn);
        }
        cpu.read(0);
        cpu.walk();
    });
}

/// An NMI comes inside the flush for one request, and flushes for the next one already. What it has noted is not taken back: the requester
/// has seen it, sends no interrupt, and would wait for ever. Four preemptions, which it takes.
#[test]
fn an_nmi_inside_a_flush_is_not_forgotten() {
    // Before and after the flush, not around the fence before it.
    for point in 2..4 {
        try_with(4, move || {
            let world = World::new();
            let (requester, cpu) = (world.started(0), world.started(1));
            cpu.cpu().enter_guest();
            let done = loom::sync::Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let seen = done.clone();
            let running = thread::spawn(move || {
                let cpu = Rc::new(cpu);
                cpu.nmi_at(point);
                cpu.cpu().back(&*cpu);
                let mut turn = 0;
                while !seen.load(Ordering::Acquire) {
                    cpu.take_interrupt();
                    turn += 1;
                    pause(turn);
                }
            });
            let request = requester.unlink();
            requester.hide(0);
            requester.cpu().wait(&requester, request);
            done.store(true, Ordering::Release);
            running.join().unwrap();
        });
    }
}

/// An NMI anywhere on the way into a guest and back out; its handler reads the frame.
#[test]
fn an_nmi_anywhere_around_guest_mode() {
    for point in 0.. {
        let came = Arc::new(AtomicBool::new(false));
        let seen = came.clone();
        against(move |cpu| {
            let cpu = Rc::new(cpu);
            cpu.speculate();
            cpu.nmi_at(point);
            cpu.point();
            cpu.cpu().enter_guest();
            cpu.point();
            cpu.walk();
            cpu.cpu().back(&*cpu);
            cpu.point();
            cpu.read(0);
            cpu.cpu().enter_guest();
            if cpu.nmi_came() {
                seen.store(true, Ordering::Relaxed);
            }
        });
        if !came.load(Ordering::Relaxed) {
            // Before and after going away, around the fence, around the flush, and back.
            assert_eq!(point, 7, "points for an NMI");
            return;
        }
    }
}
