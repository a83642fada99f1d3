//! A guest's memory destroyed in every state that it can be in, on the model machine: each step of a life is the last one once, from the first look
//! for memory to the release of what was torn down; then everything is as at boot.
//!
//! There is one way to the end, and each value can go it only once: what is destroyed is moved. So a guest cannot be destroyed twice here; who asks for it
//! twice is answered in the hypervisor (`control` in docs/testing.md).

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use memory::address::{Gpa, PAGE_SIZE};
use memory::frame::{GuestId, HostFrames};
use memory::guest::{
    Change, GuestFlushed, GuestMemory, Hiding, LaunchError, Launching, Prepared, Preparing, Progress,
    Revoked, SecondStageKind, Teardown,
};
use memory::region::{Flushed, Restored};
use model_machine::Bench;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const REGION: u64 = 2 * MIB;

const KINDS: [SecondStageKind; 3] = [
    SecondStageKind::Nested,
    SecondStageKind::Extended,
    SecondStageKind::ExtendedSplit,
];

fn id() -> GuestId {
    GuestId::new(1).unwrap()
}

/// Where a guest's memory is.
enum Stage {
    Preparing(Preparing),
    Hiding(Hiding),
    Launching(Launching),
    /// With what the last step of a change has asked for, and nobody has done yet.
    Alive(GuestMemory, Option<Progress>),
    Revoked(Revoked),
    Teardown(Teardown),
    Restored(Restored),
    Flushed(Flushed),
    Gone,
}

/// One life.
struct Life {
    bench: Bench<'static>,
    kind: SecondStageKind,
    stage: Stage,
    /// Changes that are still to come, the next one last.
    plan: Vec<(Change, u64, u64)>,
    change: Option<Change>,
}

impl Life {
    fn new(bench: Bench<'static>, kind: SecondStageKind, bytes: u64, plan: &[(Change, u64, u64)]) -> Self {
        let preparing = bench.memory.prepare(kind, id(), bytes).unwrap();
        Self {
            bench,
            kind,
            stage: Stage::Preparing(preparing),
            plan: plan.iter().rev().copied().collect(),
            change: None,
        }
    }

    /// The state in words.
    fn name(&self) -> String {
        match (&self.stage, self.change) {
            (Stage::Preparing(_), _) => "preparing".into(),
            (Stage::Hiding(_), _) => "hidden".into(),
            (Stage::Launching(_), _) => "launching".into(),
            (Stage::Alive(_, None), None) => "alive".into(),
            (Stage::Alive(_, None), Some(change)) => format!("{change:?}: on its way"),
            (Stage::Alive(_, Some(progress)), change) => {
                format!("{:?}: {progress:?} asked for", change.unwrap())
            }
            (Stage::Revoked(_), _) => "revoked".into(),
            (Stage::Teardown(_), _) => "torn down".into(),
            (Stage::Restored(_), _) => "restored".into(),
            (Stage::Flushed(_), _) => "flushed".into(),
            (Stage::Gone, _) => "gone".into(),
        }
    }

    /// One step of a life that takes its course: each change of the plan, then the end.
    fn step(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Gone);
        self.stage = match stage {
            Stage::Alive(mut guest, Some(progress)) => {
                self.bench.answer(&mut guest, &progress);
                Stage::Alive(guest, None)
            }
            Stage::Alive(mut guest, None) if guest.is_changing() => match self.bench.go_on(&mut guest) {
                Progress::More => Stage::Alive(guest, None),
                Progress::Done(result) => {
                    assert_eq!(result, Ok(()), "{:?}", self.change);
                    self.change = None;
                    Stage::Alive(guest, None)
                }
                asks => Stage::Alive(guest, Some(asks)),
            },
            Stage::Alive(mut guest, None) if !self.plan.is_empty() => {
                let (change, start, bytes) = self.plan.pop().unwrap();
                guest.begin(change, Gpa::new(start), bytes).unwrap();
                self.change = Some(change);
                Stage::Alive(guest, None)
            }
            other => self.launch(other),
        };
    }

    /// One step of a launch that takes its course.
    fn launch(&mut self, stage: Stage) -> Stage {
        let Bench {
            machine,
            cpu,
            memory,
            windows,
            ..
        } = &mut self.bench;
        let (cpu, windows) = (&*cpu, &mut windows[0]);
        match stage {
            Stage::Launching(mut launching) => {
                if launching.step(memory, cpu, windows) {
                    return Stage::Launching(launching);
                }
                let guest = launching.finish(memory, cpu, windows);
                machine.guest_begins(id(), self.kind.into(), guest.second_stage());
                Stage::Alive(guest, None)
            }
            other => self.towards_the_end(other),
        }
    }

    /// One step towards the end: a launch on its way is cancelled, unless that was done, and a guest is revoked, whatever it is doing.
    fn towards_the_end(&mut self, stage: Stage) -> Stage {
        let Bench {
            machine,
            cpu,
            memory,
            windows,
            ..
        } = &mut self.bench;
        let (cpu, windows) = (&*cpu, &mut windows[0]);
        match stage {
            Stage::Preparing(preparing) => match preparing.step(memory, cpu) {
                Prepared::More(preparing) => Stage::Preparing(preparing),
                Prepared::Hidden(hiding) => Stage::Hiding(hiding),
                Prepared::Refused(LaunchError::OutOfMemory(_) | LaunchError::Cancelled) => Stage::Gone,
                Prepared::Refused(error) => panic!("{error}"),
            },
            Stage::Hiding(hiding) => Stage::Launching(hiding.wait(cpu)),
            Stage::Launching(launching) => Stage::Teardown(launching.cancel(memory, cpu)),
            Stage::Alive(guest, _) => Stage::Revoked(guest.revoke(cpu)),
            Stage::Revoked(revoked) => {
                machine.guest_flushed(id());
                Stage::Teardown(revoked.reclaim(GuestFlushed::new(id())))
            }
            Stage::Teardown(mut teardown) => {
                if teardown.step(memory, cpu, windows) {
                    return Stage::Teardown(teardown);
                }
                machine.guest_ends(id());
                Stage::Restored(teardown.finish(memory, cpu, windows))
            }
            Stage::Restored(restored) => Stage::Flushed(restored.wait(cpu)),
            Stage::Flushed(flushed) => {
                flushed.release(memory, cpu);
                Stage::Gone
            }
            Stage::Gone => Stage::Gone,
        }
    }

    /// The shortest way to the end from here, and nothing is left.
    fn destroy(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Gone) {
            // Asked for twice, it is still cancelled once.
            Stage::Preparing(preparing) => Stage::Preparing(preparing.cancel().cancel()),
            other => other,
        };
        while !matches!(self.stage, Stage::Gone) {
            let stage = std::mem::replace(&mut self.stage, Stage::Gone);
            self.stage = self.towards_the_end(stage);
        }
    }
}

/// What the rest of the machine is like while a guest is destroyed.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    /// Not a frame is free.
    NoMemory,
    /// Another guest has all of its life just before.
    AnotherLife,
}

/// Lives of the same plan, one more step before the end in each; the states in which they were destroyed.
fn each_state(
    board: impl Fn() -> Bench<'static>,
    kind: SecondStageKind,
    bytes: u64,
    plan: &[(Change, u64, u64)],
) -> BTreeSet<String> {
    let mut states = BTreeSet::new();
    for steps in 0.. {
        // Each of them comes with each kind of step, as steps of a kind are many.
        let meanwhile = [Meanwhile::Nothing, Meanwhile::NoMemory, Meanwhile::AnotherLife][steps % 3];
        let mut life = Life::new(board(), kind, bytes, plan);
        (0..steps).for_each(|_| life.step());
        let state = life.name();
        let what = format!("{kind:?}, {state}, after {steps} steps, {meanwhile:?}");
        life.bench.check();
        let mut held: Vec<HostFrames> = Vec::new();
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::NoMemory => held = life.bench.take_all_of_the_host(),
            Meanwhile::AnotherLife => {
                let other = life.bench.launch_as(2, kind, REGION);
                life.bench.teardown(other);
            }
        }
        life.destroy();
        for frames in held {
            life.bench.memory.frames.free(frames);
        }
        let mut bench = life.bench;
        bench.check();
        while bench.memory.settle(&bench.cpu) {}
        bench.memory.set_cache(0);
        while bench.memory.shrink(&bench.cpu, 512) > 0 {}
        bench.drain();
        assert_eq!(bench.boot.0.trace(&bench.snapshot()), None, "{what}");
        let over = state == "gone";
        states.insert(state);
        if over {
            return states;
        }
    }
    unreachable!("a life ends")
}

/// Changes that begin in all states of a page, over a page, parts of regions, and whole ones, with pages in every other state around; nothing is
/// in its first state at the end.
const PLAN: [(Change, u64, u64); 11] = [
    (Change::Share, REGION - PAGE_SIZE, 2 * PAGE_SIZE),
    (Change::ShareInPlace, REGION + 8 * PAGE_SIZE, 3 * PAGE_SIZE),
    (Change::Share, 2 * REGION, REGION),
    (Change::Unshare, 2 * REGION, REGION),
    (Change::Accept, 2 * REGION + PAGE_SIZE, 2 * PAGE_SIZE),
    (Change::UnshareInPlace, REGION + 9 * PAGE_SIZE, PAGE_SIZE),
    (Change::GiveBack, 2 * REGION, REGION),
    (Change::GiveBack, 3 * REGION, 10 * PAGE_SIZE),
    (Change::TakeAgain, 2 * REGION + 5 * PAGE_SIZE, REGION),
    (Change::GiveBack, 0, PAGE_SIZE),
    (Change::ShareInPlace, 4 * REGION, REGION),
];

#[test]
fn a_life_can_end_in_every_state_and_every_step_of_every_change() {
    for kind in KINDS {
        let states = each_state(|| Bench::of_ram(64 * MIB), kind, 5 * REGION, &PLAN);
        for state in [
            "preparing",
            "hidden",
            "launching",
            "alive",
            "revoked",
            "torn down",
            "restored",
            "flushed",
            "gone",
            "TakeAgain: Hide asked for",
        ] {
            assert!(
                states.contains(state),
                "{kind:?}: {state} is not among {states:?}"
            );
        }
        for change in Change::ALL {
            let on_its_way = states.contains(&format!("{change:?}: on its way"));
            assert!(on_its_way, "{kind:?}: {change:?} is not among {states:?}");
            let flushes = !matches!(change, Change::Accept | Change::TakeAgain);
            let asked = states.contains(&format!("{change:?}: Flush asked for"));
            assert_eq!(asked, flushes, "{kind:?}: {change:?}");
        }
    }
}

/// A machine on which a guest has been, all of whose memory is cached.
fn with_cache() -> Bench<'static> {
    let mut bench = Bench::of_ram(64 * MIB);
    bench.memory.set_cache(3);
    let guest = bench.launch_as(3, SecondStageKind::Nested, 5 * REGION);
    bench.teardown(guest);
    bench
}

/// A machine on which the host has a frame of each region, so that all memory comes in pieces.
fn in_pieces() -> Bench<'static> {
    let mut bench = Bench::of_ram(32 * MIB);
    // For good: what must be in the end is what is now.
    std::mem::forget(bench.fragment(1));
    bench.boot.0 = bench.snapshot();
    bench
}

/// Whole gigablocks, which one entry hides and one leaf maps.
fn with_gigablocks() -> Bench<'static> {
    let mut bench = Bench::of_ram(3 * GIB);
    bench.memory.allow_large_guest_leaves(true);
    bench
}

/// What is cancelled before its last check is refused, and no mapping was changed; later it is hidden first, and never a guest.
#[test]
fn a_launch_that_is_cancelled_changes_no_mapping_while_it_can_be_refused() {
    let mut outcomes = BTreeSet::new();
    for steps in 0.. {
        let mut life = Life::new(Bench::of_ram(64 * MIB), SecondStageKind::Nested, 5 * REGION, &[]);
        (0..steps).for_each(|_| life.step());
        let state = life.name();
        let before = life.bench.memory.stats();
        life.destroy();
        let after = life.bench.memory.stats();
        let hidden = after.regions_hidden - before.regions_hidden;
        let restored = after.regions_restored - before.regions_restored;
        if state == "alive" {
            break;
        }
        outcomes.insert((state, hidden, restored));
    }
    let outcome = |state: &str, hidden, restored| (state.to_owned(), hidden, restored);
    assert_eq!(
        outcomes,
        BTreeSet::from([
            // Refused.
            outcome("preparing", 0, 0),
            // Too late for that: before and after the step that hides.
            outcome("preparing", 5, 5),
            outcome("preparing", 0, 5),
            outcome("hidden", 0, 5),
            outcome("launching", 0, 5),
        ])
    );
}

#[test]
fn so_can_one_whose_memory_comes_from_elsewhere() {
    for kind in KINDS {
        each_state(with_cache, kind, 5 * REGION, &[]);
    }
    // A thousand steps, so once: pieces do not depend on the kind of tables.
    let share = [(Change::Share, 0, 8 * PAGE_SIZE)];
    each_state(in_pieces, SecondStageKind::Extended, 2 * REGION, &share);
    each_state(
        with_gigablocks,
        SecondStageKind::Nested,
        GIB + REGION,
        &[
            (Change::GiveBack, REGION, PAGE_SIZE),
            (Change::Share, GIB - PAGE_SIZE, REGION),
        ],
    );
}
