//! What the memory subsystem needs for itself: frame records, and every table that the direct map can ever come to need.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Hpa, Level, PAGE_SIZE};
use memory::frame::records::RecordsLayout;
use memory::memory_map::{MemoryMap, RawEntry};
use memory::region::Watermarks;
use model_machine::{Board, Booted};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Metadata must not be more than this part of RAM: 0.4 %.
const LIMIT: u64 = 250;

fn map(ram: &[(u64, u64)]) -> MemoryMap {
    let entries = ram.iter().map(|&(start, bytes)| RawEntry {
        start: Hpa::new(start),
        bytes,
        ram: true,
    });
    MemoryMap::new(entries).unwrap()
}

/// Blocks of `1 << order` frames with RAM in them.
fn blocks(map: &MemoryMap, order: u8) -> u64 {
    let mut blocks: Vec<u64> = map
        .ranges()
        .iter()
        .flat_map(|range| range.start.get() >> order..range.end.get().div_ceil(1 << order))
        .collect();
    blocks.dedup();
    blocks.len() as u64
}

/// Bytes of the frame records and of a direct map that is all in leaves of 4K: every table that restoring may need is one of these.
fn most(map: &MemoryMap) -> u64 {
    let tables: u64 = [9, 18, 27].map(|order| blocks(map, order)).iter().sum::<u64>() + 1;
    RecordsLayout::new(map).storage_words() as u64 * 8 + tables * PAGE_SIZE
}

#[test]
fn metadata_takes_at_most_0_4_percent_of_ram_in_the_worst_case() {
    let maps: [&[(u64, u64)]; 7] = [
        &[(0, GIB)],
        // As QEMU and PCs have it: a hole below 1 MiB and one below 4 GiB.
        &[
            (0, 0x9_f000),
            (0x10_0000, 3 * GIB - 0x10_0000),
            (4 * GIB, 5 * GIB),
        ],
        &[(0, 64 * GIB)],
        // RAM far apart must cost as little as RAM in one piece.
        &[(0, 8 * GIB), (64 * TIB, 8 * GIB)],
        &[(0, GIB), (64 * TIB, GIB)],
        &[
            (0, 3 * GIB),
            (5 * TIB, 3 * GIB),
            (64 * TIB, 3 * GIB),
            (90 * TIB, 3 * GIB),
        ],
        &[(0, TIB)],
    ];
    for ram in maps {
        let map = map(ram);
        let (metadata, bytes) = (most(&map), map.frames() * PAGE_SIZE);
        assert!(
            metadata * LIMIT <= bytes,
            "{metadata} of {bytes} bytes for RAM at {ram:x?}: {:.4} %",
            metadata as f64 / bytes as f64 * 100.0
        );
    }
}

/// The same seen rather than reckoned: in every 2 MiB something is hidden, so that every leaf is split.
#[test]
fn with_a_hole_in_every_2_mib_all_tables_are_within_it() {
    let ram = [(0, GIB), (64 * TIB, GIB)];
    let mut board = Board::new(&ram, 1, Level::L3);
    let (machine, booted) = board.boot();
    let Booted {
        mut memory,
        mut windows,
    } = booted;
    let (cpu, windows) = (machine.cpu(0), &mut windows[0]);
    memory.set_watermarks(Watermarks::default());
    let free = memory.frames.free_frames();
    // The host takes everything and gives back one frame of each block but of the last ones, which tables come from.
    let mut held = Vec::new();
    while let Ok(frame) = memory.frames.allocate(0) {
        held.push(frame);
    }
    let (given, kept): (Vec<_>, Vec<_>) = held
        .into_iter()
        .partition(|frame| frame.pfn().get() % 512 == 511 || frame.pfn().get() % 512 < 2);
    let blocks = given
        .iter()
        .filter(|frame| frame.pfn().get() % 512 == 511)
        .count() as u64;
    given.into_iter().for_each(|frame| memory.frames.free(frame));
    let before = memory.frames.free_frames();
    let mut hidden = Vec::new();
    while memory.stats().level2_splits < blocks
        && let Ok(extent) = memory.allocate_private(&cpu, windows, 0)
    {
        hidden.push(extent);
    }
    let out = memory.stats().pages_hidden;
    let tables = before - memory.frames.free_frames() - out;
    assert!(
        memory.stats().level2_splits > 900,
        "{} of {blocks} blocks were split",
        memory.stats().level2_splits
    );
    assert_eq!(
        tables,
        memory.stats().level2_splits + memory.stats().level3_splits,
        "a table for each split, and no other"
    );
    assert!(machine.check(&memory.frames).is_empty());
    let map = map(&ram);
    let metadata = RecordsLayout::new(&map).storage_words() as u64 * 8 + tables * PAGE_SIZE;
    assert!(metadata <= most(&map) && metadata * LIMIT <= map.frames() * PAGE_SIZE);

    hidden
        .into_iter()
        .for_each(|extent| memory.give_back(&cpu, extent));
    kept.into_iter().for_each(|frame| memory.frames.free(frame));
    memory.drain(&cpu).wait(&cpu).release(&mut memory, &cpu);
    // A table for each region, so more than are freed at once.
    while memory.settle(&cpu) {}
    assert_eq!(memory.frames.free_frames(), free);
}
