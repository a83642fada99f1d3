//! A launch up to its flush, step by step, on the model machine: that no step is long, and that others may use memory between any two.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::HostMemory;
use memory::address::Level;
use memory::frame::{GuestId, HostFrames};
use memory::guest::{GuestFlushed, GuestMemory, Hiding, LaunchError, Prepared, Preparing, SecondStageKind};
use model_machine::{Booted, ModelCpu, ModelMachine, Snapshot};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a step may do: a gigablock's worth of regions. Extents here are single regions, or parts of one, so no last one goes beyond that.
const AT_ONCE: u64 = 512;

fn id(number: u16) -> GuestId {
    GuestId::new(number).unwrap()
}

/// Everything that is free but whole regions, or those too.
fn take_all(memory: &mut HostMemory<'_>, order: u8) -> Vec<HostFrames> {
    let mut held = Vec::new();
    while let Ok(frames) = memory.frames.allocate(order) {
        held.push(frames);
    }
    held
}

/// So many steps, or all that there are.
fn go_on(cpu: ModelCpu<'_>, memory: &mut HostMemory<'_>, mut preparing: Preparing, steps: u32) -> Prepared {
    for _ in 0..steps {
        match preparing.step(memory, &cpu) {
            Prepared::More(rest) => preparing = rest,
            done => return done,
        }
    }
    Prepared::More(preparing)
}

fn finish(cpu: ModelCpu<'_>, booted: &mut Booted<'_>, preparing: Preparing) -> Hiding {
    match go_on(cpu, &mut booted.memory, preparing, u32::MAX) {
        Prepared::Hidden(hiding) => hiding,
        other => panic!("{other:?}"),
    }
}

fn live(cpu: ModelCpu<'_>, booted: &mut Booted<'_>, hiding: Hiding) -> GuestMemory {
    let launching = hiding.wait(&cpu);
    launching.finish(&mut booted.memory, &cpu, &mut booted.windows[0])
}

fn teardown(cpu: ModelCpu<'_>, booted: &mut Booted<'_>, guest: GuestMemory) {
    let id = guest.id();
    let mut teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
    let Booted { memory, windows } = booted;
    while teardown.step(memory, &cpu, &mut windows[0]) {}
    let restored = teardown.finish(memory, &cpu, &mut windows[0]);
    restored.wait(&cpu).release(memory, &cpu);
    while memory.settle(&cpu) {}
}

/// Memory of which every second region is used by the host, so that extents are as small as they get; small ones, too, where nothing else is left.
#[test]
fn no_step_does_more_than_a_gigablocks_work() {
    for (kind, pieces) in [
        (SecondStageKind::Nested, false),
        (SecondStageKind::Extended, true),
        (SecondStageKind::ExtendedSplit, false),
    ] {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 8 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        // Regions, or what is left of each region of which the host has a frame.
        let order = if pieces { 8 } else { 9 };
        let mut kept = Vec::new();
        for (number, frames) in take_all(&mut booted.memory, order).into_iter().enumerate() {
            if number % 2 == 0 {
                kept.push(frames);
            } else {
                booted.memory.frames.free(frames);
            }
        }
        let before = Snapshot::of(machine, &booted.memory);
        let mut preparing = booted.memory.prepare(kind, id(1), 2 * GIB).unwrap();
        let mut steps = 0;
        let hiding = loop {
            let (writes, free) = (
                booted.memory.stats().direct_map_writes,
                booted.memory.frames.free_frames(),
            );
            let prepared = preparing.step(&mut booted.memory, &cpu);
            steps += 1;
            // A piece of 2^8 frames is 2^8 entries; splits and parked tables come on top.
            let written = booted.memory.stats().direct_map_writes - writes;
            assert!(written <= AT_ONCE + 4, "{written} entries in a step");
            let moved = free.abs_diff(booted.memory.frames.free_frames());
            assert!(moved <= AT_ONCE * 512, "{moved} frames in a step");
            match prepared {
                Prepared::More(rest) => preparing = rest,
                Prepared::Hidden(hiding) => break hiding,
                Prepared::Refused(error) => panic!("{error}"),
            }
        };
        assert!(steps > 10, "{steps} steps");
        assert_eq!(booted.memory.stats().flushes, 1);
        let guest = live(cpu, &mut booted, hiding);
        teardown(cpu, &mut booted, guest);
        assert_eq!(
            before.trace(&Snapshot::of(machine, &booted.memory)),
            None,
            "{kind:?}"
        );
        drop(kept);
    }
}

/// The other guest's restore merges the gigablock while a launch has already looked at its own part of it; and nothing is left then from
/// which a table could be taken.
#[test]
fn what_was_looked_at_may_be_merged_before_it_is_hidden() {
    let mut disturbed = 0;
    for steps in 0.. {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 2 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        let kind = SecondStageKind::Nested;
        let first = booted.memory.prepare(kind, id(1), 4 * MIB).unwrap();
        let first = finish(cpu, &mut booted, first);
        let first = live(cpu, &mut booted, first);
        let before = booted.memory.stats();
        let preparing = booted.memory.prepare(kind, id(2), 6 * MIB).unwrap();
        let prepared = go_on(cpu, &mut booted.memory, preparing, steps);
        teardown(cpu, &mut booted, first);
        let merged = booted.memory.stats().level3_collapses > before.level3_collapses;
        // What the first guest had could serve for anything: all is taken.
        let held = take_all(&mut booted.memory, 0);
        let undisturbed = !matches!(prepared, Prepared::More(_));
        let prepared = match prepared {
            Prepared::More(preparing) => go_on(cpu, &mut booted.memory, preparing, u32::MAX),
            done => done,
        };
        for frames in held {
            booted.memory.frames.free(frames);
        }
        match prepared {
            Prepared::Hidden(hiding) => {
                let second = live(cpu, &mut booted, hiding);
                assert_eq!(machine.check(&booted.memory.frames), []);
                teardown(cpu, &mut booted, second);
                // Where the first guest's last region merged the gigablock, it was split once more.
                let splits = booted.memory.stats().level3_splits - before.level3_splits;
                assert_eq!(splits, u64::from(merged), "after {steps} steps");
                disturbed += u32::from(merged);
            }
            Prepared::Refused(LaunchError::OutOfMemory(_)) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(machine.take_violations(), []);
        if undisturbed {
            break;
        }
    }
    assert!(disturbed > 0, "no launch went on after a merge");
}

/// Memory runs out after each of its steps: it comes to its end, or gives all back.
#[test]
fn a_launch_that_finds_memory_gone_gives_back_what_it_took() {
    let (mut granted, mut refused) = (0, 0);
    for steps in 0..40 {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 6 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        // Some of it comes from the cache.
        booted.memory.set_cache(700);
        let kind = SecondStageKind::Nested;
        let filled = booted.memory.prepare(kind, id(1), 1400 * MIB).unwrap();
        let filled = finish(cpu, &mut booted, filled);
        let filled = live(cpu, &mut booted, filled);
        teardown(cpu, &mut booted, filled);
        let before = Snapshot::of(machine, &booted.memory);
        let preparing = booted.memory.prepare(kind, id(2), 4 * GIB).unwrap();
        let prepared = go_on(cpu, &mut booted.memory, preparing, steps);
        let held = take_all(&mut booted.memory, 0);
        let prepared = match prepared {
            Prepared::More(preparing) => go_on(cpu, &mut booted.memory, preparing, u32::MAX),
            done => done,
        };
        for frames in held {
            booted.memory.frames.free(frames);
        }
        match prepared {
            Prepared::Hidden(hiding) => {
                granted += 1;
                let guest = live(cpu, &mut booted, hiding);
                teardown(cpu, &mut booted, guest);
            }
            Prepared::Refused(LaunchError::OutOfMemory(_)) => {
                refused += 1;
                assert_eq!(before.difference(&Snapshot::of(machine, &booted.memory)), None);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(machine.take_violations(), []);
        assert_eq!(machine.check(&booted.memory.frames), []);
    }
    assert!(granted > 5 && refused > 5, "{granted} granted, {refused} refused");
}

/// What each step of a refusal gives back, by `measure`, until there is nothing left.
fn refusal(
    cpu: ModelCpu<'_>,
    memory: &mut HostMemory<'_>,
    mut preparing: Preparing,
    measure: impl Fn(&HostMemory<'_>) -> u64,
) -> Vec<u64> {
    let mut moves = Vec::new();
    loop {
        let before = measure(memory);
        match preparing.step(memory, &cpu) {
            Prepared::More(rest) => preparing = rest,
            Prepared::Refused(LaunchError::Cancelled) => {
                assert_eq!(measure(memory), before);
                return moves;
            }
            other => panic!("{other:?}"),
        }
        moves.push(measure(memory) - before);
        assert!(moves.len() < 50, "it does not end");
    }
}

/// Single regions, so that each of them is one extent in the cache.
#[test]
fn a_refusal_puts_a_gigablocks_worth_back_into_the_cache_at_a_step() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 3 * GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let regions = take_all(&mut booted.memory, 9);
    let (_kept, free): (Vec<_>, Vec<_>) = regions
        .into_iter()
        .partition(|region| region.pfn().is_aligned(1024));
    let frames = &mut booted.memory.frames;
    free.into_iter().for_each(|region| frames.free(region));
    booted.memory.set_cache(600);
    let kind = SecondStageKind::Nested;
    let filled = booted.memory.prepare(kind, id(1), 1200 * MIB).unwrap();
    let filled = finish(cpu, &mut booted, filled);
    let filled = live(cpu, &mut booted, filled);
    teardown(cpu, &mut booted, filled);
    let before = Snapshot::of(machine, &booted.memory);
    let cached = |memory: &HostMemory<'_>| memory.pool().cached_regions();
    assert_eq!(cached(&booted.memory), 600);
    let preparing = booted.memory.prepare(kind, id(2), 1200 * MIB).unwrap();
    let Prepared::More(preparing) = go_on(cpu, &mut booted.memory, preparing, 2) else {
        panic!("the launch is over")
    };
    assert_eq!(cached(&booted.memory), 0);
    let moves = refusal(cpu, &mut booted.memory, preparing.cancel(), cached);
    assert_eq!(moves, [512, 88]);
    assert_eq!(before.difference(&Snapshot::of(machine, &booted.memory)), None);
}

/// Memory in which the host has half of each region, for a guest with a table of 4K leaves for each region: it takes more of everything than one step
/// gives back. Cancelled after the last step at which it can be.
#[test]
fn a_refusal_gives_back_so_many_extents_or_tables_at_a_step() {
    let kind = SecondStageKind::ExtendedSplit;
    let regions = 550;
    let mut steps = u32::MAX;
    for trial in ["whole", "cancelled"] {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 3 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        let halves = take_all(&mut booted.memory, 8);
        let (_kept, free): (Vec<_>, Vec<_>) = halves.into_iter().partition(|half| half.pfn().is_aligned(512));
        let frames = &mut booted.memory.frames;
        free.into_iter().for_each(|half| frames.free(half));
        let before = Snapshot::of(machine, &booted.memory);
        let free = |memory: &HostMemory<'_>| memory.frames.free_frames();
        let mut preparing = booted.memory.prepare(kind, id(1), regions * 2 * MIB).unwrap();
        if trial == "whole" {
            // The last step that takes something is the last check, after which it cannot be cancelled.
            let mut step = 0;
            loop {
                let before = free(&booted.memory);
                match preparing.step(&mut booted.memory, &cpu) {
                    Prepared::More(rest) => preparing = rest,
                    // It is lost with its machine.
                    Prepared::Hidden(hiding) => break std::mem::forget(hiding),
                    Prepared::Refused(error) => panic!("{error}"),
                }
                if free(&booted.memory) < before {
                    steps = step;
                }
                step += 1;
            }
            continue;
        }
        let Prepared::More(preparing) = go_on(cpu, &mut booted.memory, preparing, steps) else {
            panic!("the launch is over")
        };
        let moves = refusal(cpu, &mut booted.memory, preparing.cancel(), free);
        // Halves of regions, of which the last two were not looked at yet; a table to split each of the others' regions, and three gigablocks; a table
        // for each of the guest's regions, and four more.
        let half = 256;
        let expected = [2 * half, 512 * half, 512 * half, 74 * half, 512, 512, 77, 512, 42];
        assert_eq!(moves, expected);
        assert_eq!(moves.iter().sum::<u64>(), 1100 * half + (1098 + 3) + (550 + 4));
        assert_eq!(before.difference(&Snapshot::of(machine, &booted.memory)), None);
    }
}
