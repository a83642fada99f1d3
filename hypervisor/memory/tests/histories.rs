//! Proof 1: whatever happens in whatever order, no rule is broken, after no step and in no state between two stores.
//!
//! `LACUNA_HISTORIES` sets how many histories each test tries.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::Level;
use memory::guest::{Change, Kept, SecondStageKind};
use model_machine::{Board, Op, World};
use proptest::prelude::*;
use proptest::sample::select;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Histories that each test tries: enough to find each of the breaks that docs/testing.md lists, in less than a minute for all. A failure is
/// shrunk in at most 2000 steps, or in as many as proptest's own variable says.
fn cases() -> ProptestConfig {
    let number = |name, usual| std::env::var(name).map_or(Ok(usual), |text| text.parse());
    ProptestConfig {
        cases: number("LACUNA_HISTORIES", 400).unwrap(),
        max_shrink_iters: number("PROPTEST_MAX_SHRINK_ITERS", 2000).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn kept() -> impl Strategy<Value = Kept> {
    select(vec![Kept::Regions, Kept::Pages])
}

fn ops(most_regions: u64, length: usize) -> impl Strategy<Value = Vec<Op>> {
    let kind = select(vec![
        SecondStageKind::Nested,
        SecondStageKind::Extended,
        SecondStageKind::ExtendedSplit,
    ]);
    let (cpu, guest) = (0..3_usize, 0..8_usize);
    // Most guests are small; some take all there is.
    let regions = prop_oneof![6 => 1..=6_u64, 2 => 1..=most_regions, 1 => Just(most_regions)];
    // From a frame to a gigablock, small ones more often.
    let order = prop_oneof![6 => 0..=8_u8, 3 => 9..=12_u8, 1 => 13..=18_u8];
    let change = select(Change::ALL.to_vec());
    // Few places, so that changes meet; a page, some, 2 MiB, more; now and then past the end.
    let range = (
        prop_oneof![3 => select(vec![0, 1, 511, 512, 513, 1024]), 1 => any::<u64>()],
        prop_oneof![4 => select(vec![1, 2, 510, 511, 512, 513, 1024]), 1 => 0..1600_u64],
    );
    let op = prop_oneof![
        2 => (cpu.clone(), regions.clone(), kind.clone()).prop_map(|(cpu, regions, kind)| Op::Launch { cpu, regions, kind }),
        3 => (regions.clone(), kind).prop_map(|(regions, kind)| Op::Prepare { regions, kind }),
        8 => (cpu.clone(), guest.clone(), 1..12_usize).prop_map(|(cpu, guest, steps)| Op::Advance { cpu, guest, steps }),
        4 => (cpu.clone(), guest.clone(), Just(1000)).prop_map(|(cpu, guest, steps)| Op::Advance { cpu, guest, steps }),
        4 => (cpu.clone(), guest.clone()).prop_map(|(cpu, guest)| Op::Die { cpu, guest }),
        2 => (cpu.clone(), guest.clone()).prop_map(|(cpu, guest)| Op::Cancel { cpu, guest }),
        3 => (guest.clone(), any::<u64>()).prop_map(|(guest, at)| Op::GuestWrite { guest, at }),
        2 => (cpu.clone(), guest.clone(), any::<u64>(), 1..64_usize)
            .prop_map(|(cpu, guest, at, bytes)| Op::HostWrite { cpu, guest, at, bytes }),
        8 => (cpu.clone(), guest.clone(), change, range, 1..40_usize)
            .prop_map(|(cpu, guest, change, (at, pages), steps)| Op::Change { cpu, guest, change, at, pages, steps }),
        6 => (cpu.clone(), guest.clone(), any::<usize>(), 1..40_usize)
            .prop_map(|(cpu, guest, which, steps)| Op::TakeBack { cpu, guest, which, steps }),
        2 => (cpu.clone(), guest.clone(), kept()).prop_map(|(cpu, guest, which)| Op::TakeKept { cpu, guest, which }),
        2 => (cpu.clone(), guest, any::<u64>()).prop_map(|(cpu, guest, at)| Op::Fetch { cpu, guest, at }),
        3 => (cpu.clone(), 0..=11_u8).prop_map(|(cpu, order)| Op::Allocate { cpu, order }),
        3 => any::<usize>().prop_map(|which| Op::Free { which }),
        1 => regions.prop_map(|regions| Op::Carve { regions }),
        2 => (cpu.clone(), order.clone()).prop_map(|(cpu, order)| Op::Grow { cpu, order }),
        3 => (cpu.clone(), any::<usize>(), 1..600_usize)
            .prop_map(|(cpu, which, steps)| Op::AdvanceGrowth { cpu, which, steps }),
        4 => (cpu.clone(), order).prop_map(|(cpu, order)| Op::TakePrivate { cpu, order }),
        3 => any::<usize>().prop_map(|which| Op::UsePrivate { which }),
        5 => (cpu.clone(), any::<usize>()).prop_map(|(cpu, which)| Op::FreePrivate { cpu, which }),
        3 => cpu.clone().prop_map(|cpu| Op::TakeFrame { cpu }),
        2 => (cpu.clone(), any::<usize>()).prop_map(|(cpu, which)| Op::PutFrame { cpu, which }),
        1 => (cpu.clone(), 0..40_usize).prop_map(|(cpu, keep)| Op::TrimMagazine { cpu, keep }),
        2 => (0..20_u64).prop_map(|regions| Op::SetCache { regions }),
        1 => (cpu.clone(), 1..8_u64).prop_map(|(cpu, regions)| Op::Shrink { cpu, regions }),
        1 => cpu.clone().prop_map(|cpu| Op::Drain { cpu }),
        1 => any::<bool>().prop_map(|allowed| Op::LargeLeaves { allowed }),
        1 => Just(Op::Hoard),
        2 => Just(Op::Relent),
        3 => cpu.clone().prop_map(|cpu| Op::Enter { cpu }),
        1 => cpu.clone().prop_map(|cpu| Op::Sleep { cpu }),
        1 => cpu.clone().prop_map(|cpu| Op::Announce { cpu }),
        2 => cpu.clone().prop_map(|cpu| Op::Leave { cpu }),
        4 => cpu.prop_map(|cpu| Op::Nmi { cpu }),
    ];
    prop::collection::vec(op, 1..length)
}

/// Two guests that live, change their memory most of the time, and use it.
fn changes(length: usize) -> impl Strategy<Value = Vec<Op>> {
    let kind = select(vec![
        SecondStageKind::Nested,
        SecondStageKind::Extended,
        SecondStageKind::ExtendedSplit,
    ]);
    let (cpu, guest) = (0..2_usize, 0..2_usize);
    let steps = prop_oneof![2 => 1..6_usize, 3 => Just(40)];
    let range = (
        select(vec![0, 1, 2, 511, 512, 513]),
        prop_oneof![4 => select(vec![1, 2, 3, 510, 512, 513]), 1 => 0..40_u64],
    );
    let op = prop_oneof![
        12 => (cpu.clone(), guest.clone(), select(Change::ALL.to_vec()), range, steps.clone())
            .prop_map(|(cpu, guest, change, (at, pages), steps)| Op::Change { cpu, guest, change, at, pages, steps }),
        12 => (cpu.clone(), guest.clone(), any::<usize>(), steps)
            .prop_map(|(cpu, guest, which, steps)| Op::TakeBack { cpu, guest, which, steps }),
        6 => (guest.clone(), 0..6 * MIB).prop_map(|(guest, at)| Op::GuestWrite { guest, at }),
        4 => (cpu.clone(), guest.clone(), 0..6 * MIB, 1..64_usize)
            .prop_map(|(cpu, guest, at, bytes)| Op::HostWrite { cpu, guest, at, bytes }),
        5 => (cpu.clone(), guest.clone(), kept()).prop_map(|(cpu, guest, which)| Op::TakeKept { cpu, guest, which }),
        3 => cpu.clone().prop_map(|cpu| Op::TakeFrame { cpu }),
        2 => (cpu.clone(), any::<usize>()).prop_map(|(cpu, which)| Op::PutFrame { cpu, which }),
        1 => (cpu.clone(), 0..40_usize).prop_map(|(cpu, keep)| Op::TrimMagazine { cpu, keep }),
        2 => (cpu.clone(), guest.clone(), 0..6 * MIB).prop_map(|(cpu, guest, at)| Op::Fetch { cpu, guest, at }),
        1 => (cpu, guest).prop_map(|(cpu, guest)| Op::Die { cpu, guest }),
        1 => Just(Op::Hoard),
        3 => Just(Op::Relent),
    ];
    (kind.clone(), kind, prop::collection::vec(op, 1..length)).prop_map(|(first, second, mut ops)| {
        let launch = |kind| {
            let (cpu, guest, regions) = (0, 0, 3);
            let steps = 1000;
            [
                Op::Launch { cpu, regions, kind },
                Op::Advance { cpu, guest, steps },
            ]
        };
        let mut history: Vec<Op> = [launch(first), launch(second)].concat();
        history.append(&mut ops);
        history
    })
}

fn run(ram: &[(u64, u64)], cpus: usize, largest: Level, history: &[Op]) -> Result<(), TestCaseError> {
    let mut board = Board::new(ram, cpus, largest);
    // The others are started by what happens on them.
    let mut world = World::new(board.boot_with(1));
    let fail = |op: &dyn std::fmt::Debug, broken: Vec<model_machine::Violation>| {
        let list: Vec<String> = broken.iter().take(8).map(ToString::to_string).collect();
        TestCaseError::fail(format!("{op:?}:\n{}", list.join("\n")))
    };
    for op in history {
        if let Err(broken) = world.apply(*op) {
            // Half-done launches and teardowns would panic when they are dropped.
            std::mem::forget(world);
            return Err(fail(op, broken));
        }
    }
    world.end().map_err(|broken| fail(&"the end", broken))
}

/// Pieces of ordinary blocks, hidden by several growths at once, of which nobody uses any in one block.
#[test]
fn what_was_hidden_in_pieces_and_never_used_comes_back() {
    let kind = SecondStageKind::ExtendedSplit;
    let (cpu, guest) = (0, 0);
    let launch = |regions, kind| Op::Launch { cpu, regions, kind };
    let advance = |guest, steps| Op::Advance { cpu, guest, steps };
    let grow = Op::Grow { cpu, order: 0 };
    let history = [
        launch(2, kind),
        launch(1, kind),
        advance(0, 1),
        advance(2, 5),
        launch(5, kind),
        grow,
        Op::TakeFrame { cpu },
        Op::Die { cpu, guest },
        advance(0, 1000),
        launch(8, SecondStageKind::Nested),
        grow,
        grow,
    ];
    run(&[(0, 640 << 10), (MIB, 39 * MIB)], 2, Level::L2, &history).unwrap();
}

/// A page of a guest that has a leaf of 1G: of the two leaves that are split the one of 2M is counted.
#[test]
fn a_page_of_a_guest_with_a_leaf_of_1g_is_shared() {
    let (cpu, guest) = (0, 0);
    let history = [
        Op::LargeLeaves { allowed: true },
        Op::Launch {
            cpu,
            regions: 540,
            kind: SecondStageKind::Nested,
        },
        Op::Advance {
            cpu,
            guest,
            steps: 1000,
        },
        Op::Change {
            cpu,
            guest,
            change: Change::Share,
            at: 0,
            pages: 1,
            steps: 40,
        },
    ];
    run(&[(0, 96 * MIB), (GIB, GIB)], 2, Level::L3, &history).unwrap();
}

/// A change that is refused gives the frames that it had from a magazine to the pool.
#[test]
fn what_came_from_a_magazine_goes_to_the_pool_when_a_change_is_refused() {
    let (cpu, guest, steps) = (0, 0, 40);
    let launch = |kind| {
        let (regions, steps) = (3, 1000);
        [
            Op::Launch { cpu, regions, kind },
            Op::Advance { cpu, guest, steps },
        ]
    };
    let [first, second] = [SecondStageKind::ExtendedSplit, SecondStageKind::Nested].map(launch);
    let (change, at, pages) = (Change::GiveBack, 0, 513);
    let (which, kept) = (0, Kept::Pages);
    let rest = [
        Op::TakeFrame { cpu },
        Op::Hoard,
        Op::Change {
            cpu,
            guest,
            change,
            at,
            pages,
            steps,
        },
        Op::TakeKept {
            cpu,
            guest,
            which: kept,
        },
        Op::TakeBack {
            cpu,
            guest,
            which,
            steps,
        },
    ];
    let history: Vec<Op> = first.into_iter().chain(second).chain(rest).collect();
    run(&[(0, 640 << 10), (MIB, 63 * MIB)], 2, Level::L2, &history).unwrap();
}

/// A magazine that has handed out its last frame, and has counted that by itself: a change that finds it empty and is refused leaves the count where it is.
#[test]
fn a_change_that_is_refused_leaves_a_magazine_its_counts() {
    let (guest, kind, steps) = (0, SecondStageKind::Nested, 40);
    let launch = [
        Op::Launch {
            cpu: 0,
            regions: 3,
            kind,
        },
        Op::Advance {
            cpu: 0,
            guest,
            steps: 1000,
        },
    ];
    let rest = [
        Op::Change {
            cpu: 0,
            guest,
            change: Change::Share,
            at: 0,
            pages: 1,
            steps,
        },
        Op::TakeKept {
            cpu: 0,
            guest,
            which: Kept::Pages,
        },
        Op::Hoard,
        Op::TakeFrame { cpu: 1 },
        Op::TakeBack {
            cpu: 1,
            guest,
            which: 0,
            steps,
        },
    ];
    let history = [&launch[..], &launch[..], &rest[..]].concat();
    run(&[(0, 640 << 10), (MIB, 63 * MIB)], 2, Level::L2, &history).unwrap();
}

/// A table of a guest that is gone is zeroed as a page to share, and is the next guest's top-level table: what was in it before is nobody's.
#[test]
fn a_table_that_was_a_page_meanwhile_is_a_new_one() {
    let (cpu, guest) = (0, 0);
    let split = SecondStageKind::ExtendedSplit;
    let advance = Op::Advance {
        cpu,
        guest,
        steps: 1000,
    };
    let cancel = Op::Cancel { cpu, guest };
    let history = [
        Op::Prepare {
            regions: 5,
            kind: split,
        },
        Op::Launch {
            cpu,
            regions: 2,
            kind: split,
        },
        advance,
        cancel,
        cancel,
        Op::Die { cpu, guest: 1 },
        advance,
        Op::Change {
            cpu,
            guest,
            change: Change::Share,
            at: 0,
            pages: 510,
            steps: 2,
        },
        Op::SetCache { regions: 5 },
        Op::Prepare {
            regions: 1,
            kind: SecondStageKind::Nested,
        },
    ];
    run(&[(0, 640 << 10), (MIB, 39 * MIB)], 2, Level::L2, &history).unwrap();
}

proptest! {
    #![proptest_config(cases())]

    /// One gigablock with a 1G leaf, which guests may hide as a whole, and one without.
    #[test]
    fn on_a_machine_with_one_large_leaf(history in ops(540, 50)) {
        run(&[(0, 96 * MIB), (GIB, GIB)], 2, Level::L3, &history)?;
    }

    /// Several 1G leaves, more CPUs.
    #[test]
    fn on_a_machine_with_several_large_leaves(history in ops(64, 60)) {
        run(&[(0, 3 * GIB + 36 * MIB)], 3, Level::L3, &history)?;
    }

    /// Guests change their memory most of the time.
    #[test]
    fn on_a_machine_whose_guests_change_their_memory(history in changes(24)) {
        run(&[(0, 640 << 10), (MIB, 63 * MIB)], 2, Level::L2, &history)?;
    }

    /// Little memory: allocations fail all the time.
    #[test]
    fn on_a_machine_with_little_memory(history in ops(24, 80)) {
        run(&[(0, 640 << 10), (MIB, 39 * MIB)], 2, Level::L2, &history)?;
    }
}
