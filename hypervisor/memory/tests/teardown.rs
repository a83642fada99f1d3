//! How much one step of a teardown does, however large the guest was: about what zeroing 2 MiB takes, and no more.
//!
//! Whether the steps are right is judged elsewhere, with smaller guests: here the machine is not told of the guest's tables, which it would walk at
//! each flush.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::HostMemory;
use memory::address::Level;
use memory::frame::GuestId;
use memory::guest::{Change, GuestFlushed, GuestMemory, SecondStageKind};
use model_machine::{Bench, Board, ModelMachine};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What has been done up to a moment.
#[derive(Clone, Copy, Debug)]
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
    let id = GuestId::new(1).unwrap();
    bench.memory.allow_large_guest_leaves(large_leaves);
    bench.memory.set_cache(cache);
    let hiding = bench.memory.launch(&cpu, kind, id, bytes).unwrap();
    let launching = hiding.wait(&cpu);
    let mut guest = launching.finish(&mut bench.memory, &cpu, &mut bench.windows[0]);
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
    let id = GuestId::new(1).unwrap();
    let hiding = bench
        .memory
        .launch(&cpu, SecondStageKind::Nested, id, 3 * GIB / 2);
    let launching = hiding.unwrap().wait(&cpu);
    let guest = launching.finish(&mut bench.memory, &cpu, &mut bench.windows[0]);
    assert_eq!(guest.regions(&cpu, &bench.memory.frames).count(), 0);
    teardown(&mut bench, guest);
    assert_eq!(before.trace(&bench.snapshot()), None);
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
}
