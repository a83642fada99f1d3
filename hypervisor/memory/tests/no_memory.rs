//! Proof 2: when memory is missing, an operation is refused and nothing has changed, wherever it ran out; what gives memory back needs none.
//!
//! Memory is used up for real: all that is free is taken but for so many regions and so many frames, so the allocation after those fails.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::Level;
use memory::guest::SecondStageKind;
use memory::region::Watermarks;
use memory::stats::Stats;
use model_machine::{Board, Op, Violation, World};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const KINDS: [SecondStageKind; 3] = [
    SecondStageKind::Nested,
    SecondStageKind::Extended,
    SecondStageKind::ExtendedSplit,
];

/// A machine whose regions lie in gigablocks with and without a 1G leaf, and one without 1G leaves.
const MACHINES: [(&[(u64, u64)], Level); 2] = [
    (&[(0, 2 * GIB + 20 * MIB)], Level::L3),
    (&[(0, 256 * MIB)], Level::L2),
];

fn held(result: Result<(), Vec<Violation>>) {
    if let Err(broken) = result {
        let list: Vec<String> = broken.iter().take(8).map(ToString::to_string).collect();
        panic!("{}", list.join("\n"));
    }
}

/// Launches a guest, all there is, with so many frames for tables; whether that was granted. A refusal is compared by the world itself.
fn launch_with(ram: &[(u64, u64)], largest: Level, kind: SecondStageKind, regions: u64, frames: u64) -> bool {
    let mut board = Board::new(ram, 2, largest);
    let mut world = World::new(board.boot());
    assert!(world.leave(regions, frames));
    let (cpu, guest) = (0, 0);
    held(world.apply(Op::Launch { cpu, regions, kind }));
    let granted = world.launched == 1;
    // Up, and down again with no memory at all.
    held(world.apply(Op::Advance {
        cpu,
        guest,
        steps: 2000,
    }));
    held(world.apply(Op::Hoard));
    held(world.apply(Op::Die { cpu, guest }));
    held(world.apply(Op::Advance {
        cpu,
        guest,
        steps: 2000,
    }));
    assert_eq!(world.guests(), 0);
    held(world.end());
    granted
}

#[test]
fn a_launch_is_refused_whichever_table_is_missing() {
    for (ram, largest) in MACHINES {
        for kind in KINDS {
            for regions in [1, 5, 20] {
                // Top, level 3, one level 2; a table for each region that may be split; one for each 1G leaf that is split: all regions
                // come from one gigablock, which has none, unless that is too small.
                let splits = if kind == SecondStageKind::ExtendedSplit {
                    regions
                } else {
                    0
                };
                let broken = u64::from(largest == Level::L3 && regions > 10);
                let needed = 3 + splits + broken;
                for frames in 0..needed + 2 {
                    let granted = launch_with(ram, largest, kind, regions, frames);
                    assert_eq!(
                        granted,
                        frames >= needed,
                        "{kind:?}, {regions} regions, {largest:?}, {frames} frames"
                    );
                }
            }
        }
    }
}

#[test]
fn a_launch_is_refused_when_regions_are_missing() {
    for (ram, largest) in MACHINES {
        for free in 0..6 {
            for kind in KINDS {
                let mut board = Board::new(ram, 2, largest);
                let mut world = World::new(board.boot());
                assert!(world.leave(free, 40));
                for regions in [free + 1, free + 2, 1000, 1 << 18] {
                    held(world.apply(Op::Launch {
                        cpu: 1,
                        regions,
                        kind,
                    }));
                }
                assert_eq!((world.launched, world.refused), (0, 4));
                held(world.end());
            }
        }
    }
}

/// Hidden memory of every size, a magazine's frame, and the host's own memory, with so many regions and frames left. What is granted comes back
/// while every allocation fails.
#[test]
fn the_pool_refuses_or_grants_with_any_number_of_frames_left() {
    let (mut granted, mut refused) = (0, 0);
    for (ram, largest) in MACHINES {
        let orders = [0, 1, 4, 8, 9, 10, 12];
        let takes = orders.map(|order| Op::TakePrivate { cpu: 0, order });
        let hosts = orders.map(|order| Op::Allocate { cpu: 0, order });
        for op in takes.into_iter().chain(hosts).chain([Op::TakeFrame { cpu: 0 }]) {
            for regions in 0..4 {
                for frames in [0, 1, 2, 3, 4, 5, 8, 33, 34, 35, 36, 300] {
                    let mut board = Board::new(ram, 2, largest);
                    let mut world = World::new(board.boot());
                    assert!(world.leave(regions, frames));
                    world.memory().set_watermarks(Watermarks { low: 0, high: 0 });
                    held(world.apply(op));
                    held(world.apply(Op::UsePrivate { which: 0 }));
                    held(world.apply(Op::Hoard));
                    held(world.apply(Op::FreePrivate { cpu: 1, which: 0 }));
                    refused += world.refused;
                    granted += world.memory().stats().pool_allocations;
                    held(world.end());
                }
            }
        }
    }
    assert!(
        granted > 100 && refused > 100,
        "{granted} granted, {refused} refused"
    );
}

/// Several guests, one of which has hidden a whole gigablock by one entry, one split by fetches.
#[test]
fn guests_die_and_all_is_restored_while_every_allocation_fails() {
    let stats = all_die_without_memory([5, 529, 7]);
    assert_eq!((stats.gigablocks_hidden, stats.tables_parked), (1, 0));
}

/// The same where guests together have filled a gigablock with holes, one by one.
#[test]
fn a_parked_table_comes_back_while_every_allocation_fails() {
    let stats = all_die_without_memory([5, 300, 236]);
    assert_eq!((stats.gigablocks_hidden, stats.tables_parked), (0, 1));
}

/// All guests are alive when memory runs out for good. The counters of that moment.
fn all_die_without_memory(sizes: [u64; 3]) -> Stats {
    let mut board = Board::new(&[(0, 64 * MIB), (GIB, GIB)], 3, Level::L3);
    let mut world = World::new(board.boot());
    for (number, regions) in sizes.into_iter().enumerate() {
        let kind = KINDS[2 - number];
        held(world.apply(Op::Launch {
            cpu: number,
            regions,
            kind,
        }));
        held(world.apply(Op::Advance {
            cpu: number,
            guest: 0,
            steps: 2000,
        }));
    }
    assert_eq!(world.launched, 3);
    let stats = world.memory().stats();
    held(world.apply(Op::Hoard));
    for guest in 0..3 {
        held(world.apply(Op::GuestWrite { guest, at: 5 * MIB }));
        held(world.apply(Op::Fetch {
            cpu: 0,
            guest,
            at: 5 * MIB,
        }));
    }
    assert!(world.memory().stats().second_stage_splits > 0);
    held(world.apply(Op::Enter { cpu: 2 }));
    let refused = world.refused;
    held(world.apply(Op::Launch {
        cpu: 0,
        regions: 1,
        kind: KINDS[0],
    }));
    assert_eq!(world.refused, refused + 1);
    for guest in [2, 0, 0] {
        held(world.apply(Op::Die { cpu: 1, guest }));
        held(world.apply(Op::Advance {
            cpu: 0,
            guest: 0,
            steps: 2000,
        }));
    }
    assert_eq!(world.guests(), 0);
    held(world.end());
    stats
}
