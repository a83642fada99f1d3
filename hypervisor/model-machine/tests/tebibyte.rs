//! A machine with a TiB of RAM, which takes a few hundred MiB of the test's at most.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::Level;
use memory::guest::SecondStageKind;
use model_machine::{Board, Op, World};

#[test]
fn a_tebibyte_of_ram_works() {
    let mut board = Board::new(&[(0, 1 << 40)], 2, Level::L3);
    let mut world = World::new(board.boot());
    for (guest, kind) in [SecondStageKind::Nested, SecondStageKind::Extended]
        .into_iter()
        .enumerate()
    {
        world
            .apply(Op::Launch {
                cpu: guest,
                regions: 16,
                kind,
            })
            .unwrap();
        world
            .apply(Op::Advance {
                cpu: guest,
                guest: 0,
                steps: 40,
            })
            .unwrap();
        world.apply(Op::GuestWrite { guest, at: 123_456 }).unwrap();
    }
    assert_eq!(world.memory().stats().regions_hidden, 32);
    world.end().unwrap();
}
