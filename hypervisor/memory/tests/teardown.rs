//! How much one step of a teardown does, however large the guest was: about what zeroing 2 MiB takes, and no more.
//!
//! Whether the steps are right is judged elsewhere, with smaller guests: here the machine is not told of the guest's tables, which it would walk at
//! each flush.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::HostMemory;
use memory::address::{Gfn, Gpa, Level};
use memory::frame::{FrameState, GuestId};
use memory::guest::{Change, GuestFlushed, GuestMemory, Kept, Progress, SecondStageKind};
use memory::region::Watermarks;
use model_machine::{Bench, Board, ModelMachine};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What has been done up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// Stores to tables: leaves, and windows.
    stores: u64,
    zeroed: u64,
    regions: u64,
    /// Frames that became free but for those of regions and pages that are back in the direct map: tables, and what was shared.
    freed: u64,
}

impl Work {
    fn of(machine: &ModelMachine, memory: &HostMemory<'_>) -> Self {
        let stats = memory.stats();
        Self {
            stores: machine.stores(),
            zeroed: stats.bytes_scrubbed,
            regions: stats.regions_restored,
            freed: memory.frames.free_frames() - 512 * stats.regions_restored - stats.pages_restored,
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            stores: self.stores - before.stores,
            zeroed: self.zeroed - before.zeroed,
            regions: self.regions - before.regions,
            freed: self.freed - before.freed,
        }
    }

    /// At most 512 pages zeroed, each with a window entry of its own at worst, which is written and cleared, or the entries of one table of the
    /// direct map written, and it linked and merged; the frames behind a table of 512 freed, and that table.
    fn is_bounded(self) -> bool {
        self.stores <= 2 * 512 && self.zeroed <= 2 * MIB && self.regions <= 512 && self.freed <= 512 + 1
    }
}

/// A guest that the machine is not told of.
fn live(bench: &mut Bench<'_>, kind: SecondStageKind, bytes: u64) -> GuestMemory {
    let Bench {
        cpu, memory, windows, ..
    } = bench;
    let id = GuestId::new(1).unwrap();
    let launching = memory.launch(cpu, kind, id, bytes).unwrap().wait(cpu);
    launching.finish(memory, cpu, &mut windows[0])
}

/// Takes a guest down step by step; each is within the bound, and how many there were.
fn teardown(bench: &mut Bench<'_>, guest: GuestMemory) -> u64 {
    let Bench {
        machine,
        cpu,
        memory,
        windows,
        ..
    } = bench;
    let id = guest.id();
    let mut last = Work::of(machine, memory);
    let mut steps = 0;
    let mut bounded = |memory: &HostMemory<'_>, what: &str| {
        let now = Work::of(machine, memory);
        let work = now.since(last);
        assert!(work.is_bounded(), "{what}: {work:?}");
        last = now;
        steps += 1;
    };
    let revoked = guest.revoke(cpu);
    bounded(memory, "the revocation");
    let mut teardown = revoked.reclaim(GuestFlushed::new(id));
    while teardown.step(memory, cpu, &mut windows[0]) {
        bounded(memory, "a step");
    }
    let restored = teardown.finish(memory, cpu, &mut windows[0]);
    bounded(memory, "the end");
    restored.wait(cpu).release(memory, cpu);
    bounded(memory, "the release");
    while memory.settle(cpu) {
        bounded(memory, "what waited");
    }
    steps
}

/// A guest of `bytes` on a machine with somewhat more, some of it shared, some of it mapped by 4K leaves, with and without 1G leaves, and with
/// a cache for all or for half of it.
fn each_step_is_bounded(bytes: u64, kind: SecondStageKind, large_leaves: bool, cache: u64) {
    let mut board = Board::new(&[(0, bytes + 8 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    bench.memory.allow_large_guest_leaves(large_leaves);
    bench.memory.set_cache(cache);
    let mut guest = live(&mut bench, kind, bytes);
    for gigabyte in [0, 1, bytes / GIB - 1] {
        // One page of each region, which makes a table of 4K leaves of it; all of two regions.
        let start = gigabyte * GIB;
        for region in 0..512 {
            let page = start + region * 2 * MIB;
            bench
                .change_unseen(&mut guest, Change::Share, page, 4096)
                .unwrap();
        }
        for region in [7, 8] {
            let rest = start + region * 2 * MIB + 4096;
            bench
                .change_unseen(&mut guest, Change::Share, rest, 2 * MIB - 4096)
                .unwrap();
        }
    }
    let steps = teardown(&mut bench, guest);
    // Each region was zeroed by itself.
    assert!(steps > bytes / (2 * MIB), "{steps} steps");
    bench.memory.set_cache(0);
    while bench.memory.shrink(&cpu, 512) > 0 {}
    let drained = bench.memory.drain(&cpu).wait(&cpu);
    drained.release(&mut bench.memory, &cpu);
    while bench.memory.settle(&cpu) {}
    assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
}

#[test]
fn no_step_of_a_large_guest_s_teardown_does_more_than_for_a_small_one() {
    for (kind, large_leaves, cache) in [
        (SecondStageKind::Nested, false, 0),
        (SecondStageKind::Extended, true, 6 << 9),
        (SecondStageKind::ExtendedSplit, false, 40 << 9),
    ] {
        each_step_is_bounded(12 * GIB, kind, large_leaves, cache);
    }
}

#[test]
fn nor_does_one_of_hundreds_of_gigabytes() {
    each_step_is_bounded(300 * GIB, SecondStageKind::Nested, false, 0);
}

/// All of it is made of extents below 2 MiB, from blocks of which the host uses one frame each: their tables, one for each block, are more than
/// the last flush may free at once.
#[test]
fn nor_does_one_of_small_extents() {
    let mut board = Board::new(&[(0, 2 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    let frames = &mut bench.memory.frames;
    let all: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok()).collect();
    let (held, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|frame| frame.pfn().is_aligned(512));
    free.into_iter().for_each(|frame| frames.free(frame));
    let before = bench.snapshot();
    let guest = live(&mut bench, SecondStageKind::Nested, 3 * GIB / 2);
    assert_eq!(guest.regions(&cpu, &bench.memory.frames).count(), 0);
    teardown(&mut bench, guest);
    assert_eq!(before.trace(&bench.snapshot()), None);
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
}

/// A guest dies while it is about to share 2 MiB, across two regions, with 2 MiB shared already: neither what it was about to share nor the tables
/// for that are freed in the same step with what was shared.
#[test]
fn nor_does_one_that_finds_a_change_under_way() {
    let mut board = Board::new(&[(0, 64 * MIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut guest = live(&mut bench, SecondStageKind::Nested, 8 * MIB);
    bench
        .change_unseen(&mut guest, Change::Share, 0, 2 * MIB)
        .unwrap();
    let free = bench.memory.frames.free_frames();
    guest.begin(Change::Share, Gpa::new(3 * MIB), 2 * MIB).unwrap();
    // Two to check, two to reserve.
    for _ in 0..4 {
        assert_eq!(bench.go_on(&mut guest), Progress::More);
    }
    let taken = free - bench.memory.frames.free_frames();
    assert!(taken > 512 + 1, "{taken} frames: too few for two steps");
    teardown(&mut bench, guest);
    assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
}

/// The memory behind the guest's first 2 MiB was taken, page by page, so there is nothing to take back from 512 entries. The step that sees them sees no
/// more, and does nothing else; the next ones find the rest, a region each, and they are restored together.
#[test]
fn a_step_looks_at_512_entries_and_takes_one_region_back() {
    let mut board = Board::new(&[(0, 64 * MIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    // The host has every second region, so that each of the guest's is an extent of its own.
    let frames = &mut bench.memory.frames;
    let all: Vec<_> = std::iter::from_fn(|| frames.allocate(9).ok()).collect();
    let (held, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|region| region.pfn().is_aligned(1024));
    free.into_iter().for_each(|region| frames.free(region));
    let mut guest = live(&mut bench, SecondStageKind::Nested, 8 * MIB);
    for (start, bytes) in [(0, 4096), (4096, 2 * MIB - 4096)] {
        bench
            .change_unseen(&mut guest, Change::Share, start, bytes)
            .unwrap();
    }
    let mut next = Gfn::default();
    let taken = guest.take_kept(&mut bench.memory, &cpu, &mut next, Kept::Regions);
    assert_eq!(taken, Some(512));
    let regions: Vec<_> = guest.regions(&cpu, &bench.memory.frames).collect();
    assert_eq!(regions.len(), 3);
    let id = guest.id();
    let mut teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
    let mut step = |bench: &mut Bench<'_>| {
        let Bench {
            machine,
            memory,
            windows,
            ..
        } = bench;
        let before = Work::of(machine, memory);
        assert!(teardown.step(memory, &cpu, &mut windows[0]));
        let work = Work::of(machine, memory).since(before);
        let is_private = |state| matches!(state, FrameState::Private { .. });
        let private = regions.iter().map(|pfn| is_private(memory.frames.state(*pfn)));
        (work, private.filter(|is| *is).count())
    };
    let nothing = Work {
        stores: 0,
        zeroed: 0,
        regions: 0,
        freed: 0,
    };
    // What was shared: 512 frames and a table.
    let freed = 512 + 1;
    assert_eq!(step(&mut bench), (Work { freed, ..nothing }, 3));
    assert_eq!(step(&mut bench), (nothing, 3));
    for left in [2, 1, 0] {
        let (work, private) = step(&mut bench);
        assert_eq!((work.zeroed, work.freed, private), (2 * MIB, 0, left));
    }
    // To the pool, and from there to the direct map, all of one gigablock at once.
    assert_eq!(step(&mut bench), (nothing, 0));
    let (work, _) = step(&mut bench);
    assert_eq!((work.regions, work.zeroed), (3, 0));
    let Bench { memory, windows, .. } = &mut bench;
    let restored = teardown.finish(memory, &cpu, &mut windows[0]);
    restored.wait(&cpu).release(memory, &cpu);
    held.into_iter().for_each(|region| memory.frames.free(region));
    assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
}

/// Pieces of 512 KiB, of blocks that others have hidden pieces of, so that none becomes empty: four of them are 2 MiB.
#[test]
fn a_step_puts_2_mib_of_pieces_into_the_pool() {
    let mut board = Board::new(&[(0, 64 * MIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    let frames = &mut bench.memory.frames;
    let mut held: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok()).collect();
    // Of eight blocks the second and the last quarter; and single frames, for tables.
    let mut free = |bench: &mut Bench<'_>, is_meant: &dyn Fn(u64, u64) -> bool| {
        for frame in held.extract_if(.., |frame| {
            is_meant(frame.pfn().get() / 512, frame.pfn().get() % 512)
        }) {
            bench.memory.frames.free(frame);
        }
    };
    bench.memory.set_watermarks(Watermarks::default());
    free(&mut bench, &|block, frame| block == 20 && frame % 2 == 0);
    free(&mut bench, &|block, frame| {
        (8..16).contains(&block) && frame / 128 == 1
    });
    let others: Vec<_> = (0..8).map(|_| bench.allocate(7).unwrap()).collect();
    free(&mut bench, &|block, frame| {
        (8..16).contains(&block) && frame / 128 == 3
    });
    let guest = live(&mut bench, SecondStageKind::Nested, 4 * MIB);
    let orders = guest.pieces(&cpu, &bench.memory.frames).map(|(_, order)| order);
    assert_eq!(orders.collect::<Vec<_>>(), [7; 8]);
    let id = guest.id();
    let mut teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
    let Bench { memory, windows, .. } = &mut bench;
    let mut put = Vec::new();
    loop {
        let before = memory.frames.pool_free_frames();
        if !teardown.step(memory, &cpu, &mut windows[0]) {
            break;
        }
        put.push(memory.frames.pool_free_frames() - before);
    }
    put.retain(|frames| *frames > 0);
    assert_eq!(put, [512, 512]);
    let restored = teardown.finish(memory, &cpu, &mut windows[0]);
    restored.wait(&cpu).release(memory, &cpu);
    others.into_iter().for_each(|extent| bench.free(extent));
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}
