//! Sequences of operations on the model machine, which judges the whole state after each and every store as it happens.
//!
//! Each operation is five bytes: which, on which CPU, which guest, and how much, twice. The machine is a small one, so that one sequence
//! takes milliseconds, and memory runs out soon.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memory::address::Level;
use memory::guest::{Change, Kept, SecondStageKind};
use model_machine::{Board, Op, Violation, World};

/// Operations that one input may hold.
const MOST: usize = 64;

fn op(bytes: &[u8]) -> Op {
    let (cpu, guest) = (bytes[1].into(), bytes[2].into());
    let (much, more) = (bytes[3], bytes[4]);
    let at = u64::from(much) << 17 | u64::from(more) << 3;
    let regions = u64::from(much % 24) + 1;
    let kind = match more % 3 {
        0 => SecondStageKind::Nested,
        1 => SecondStageKind::Extended,
        _ => SecondStageKind::ExtendedSplit,
    };
    match bytes[0] % 35 {
        0 => Op::Launch { cpu, regions, kind },
        1 => Op::Prepare { regions, kind },
        2 | 3 => Op::Advance {
            cpu,
            guest,
            steps: usize::from(much % 8) + 1,
        },
        4 => Op::Advance {
            cpu,
            guest,
            steps: 100,
        },
        5 if more % 4 == 3 => Op::Cancel { cpu, guest },
        5 => Op::Die { cpu, guest },
        6 => Op::GuestWrite { guest, at },
        7 => Op::HostWrite {
            cpu,
            guest,
            at,
            bytes: usize::from(more % 64) + 1,
        },
        8 if more % 2 == 0 => Op::Fetch { cpu, guest, at },
        8 => Op::TakeKept {
            cpu,
            guest,
            which: if much % 2 == 0 { Kept::Pages } else { Kept::Regions },
        },
        9 => Op::Allocate {
            cpu,
            order: much % 12,
        },
        10 => Op::Free { which: much.into() },
        11 => Op::Carve {
            regions: u64::from(much % 24),
        },
        12 if much % 2 == 0 => Op::Hoard,
        12 => Op::Relent,
        13 => Op::Enter { cpu },
        14 => Op::Leave { cpu },
        15 => Op::Nmi { cpu },
        // 2 MiB of one guest in pages, mostly; the rest of it by the region.
        16 | 17 => Op::Change {
            cpu,
            guest,
            change: Change::ALL[usize::from(much) % Change::ALL.len()],
            at: if much < 128 {
                more.into()
            } else {
                u64::from(more) << 9
            },
            pages: u64::from(more >> 3).pow(2) + 1,
            steps: usize::from(much >> 2),
        },
        18 => Op::Sleep { cpu },
        19 => Op::Announce { cpu },
        20 => Op::Grow {
            cpu,
            order: much % 19,
        },
        21 => Op::AdvanceGrowth {
            cpu,
            which: guest,
            steps: usize::from(much) + 1,
        },
        22 | 23 => Op::TakePrivate {
            cpu,
            order: much % 12,
        },
        24 => Op::UsePrivate { which: much.into() },
        25 | 26 => Op::FreePrivate {
            cpu,
            which: much.into(),
        },
        27 => Op::TakeFrame { cpu },
        28 => Op::PutFrame {
            cpu,
            which: much.into(),
        },
        29 => Op::TrimMagazine {
            cpu,
            keep: usize::from(much % 64),
        },
        30 => Op::SetCache {
            regions: u64::from(much % 24),
        },
        31 => Op::Shrink {
            cpu,
            regions: u64::from(much % 8),
        },
        32 => Op::Drain { cpu },
        33 => Op::TakeBack {
            cpu,
            guest,
            which: usize::from(more) << 2,
            steps: usize::from(much >> 2),
        },
        _ => Op::LargeLeaves {
            allowed: much % 2 == 1,
        },
    }
}

fn list(broken: &[Violation]) -> String {
    broken.iter().map(|violation| format!("\n{violation}")).collect()
}

fuzz_target!(|input: &[u8]| {
    let mut board = Board::new(&[(0, 640 << 10), (1 << 20, 39 << 20)], 2, Level::L2);
    let mut world = World::new(board.boot());
    for op in input.chunks_exact(5).take(MOST).map(op) {
        if let Err(broken) = world.apply(op) {
            panic!("{op:?}:{}", list(&broken));
        }
    }
    if let Err(broken) = world.end() {
        panic!("the end:{}", list(&broken));
    }
});
