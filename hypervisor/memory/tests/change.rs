//! Guests share pages, make them private again and accept them, on the model machine: what is refused, what it costs, and that all of it
//! comes back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gpa, Hpa, PAGE_SIZE, Pfn};
use memory::frame::{FrameState, GuestId};
use memory::guest::{
    Alias, Change, ChangeError, GuestFlushed, GuestMemory, NotShared, PageState, Progress, SecondStageKind,
};
use memory::layout::direct;
use memory::region::Watermarks;
use model_machine::{Bench, Snapshot};

#[path = "change/deaths.rs"]
mod deaths;
#[path = "change/in_place.rs"]
mod in_place;
#[path = "change/leaves.rs"]
mod leaves;
#[path = "change/limits.rs"]
mod limits;
#[path = "change/ownership.rs"]
mod ownership;
#[path = "change/pieces.rs"]
mod pieces;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The shared bit of guests on the model machine.
const SHARED: u64 = 1 << 47;

const KINDS: [SecondStageKind; 3] = [
    SecondStageKind::Nested,
    SecondStageKind::Extended,
    SecondStageKind::ExtendedSplit,
];

fn id(number: u16) -> GuestId {
    GuestId::new(number).unwrap()
}

/// First byte and length of the ranges that the field tests, and odd ones.
const RANGES: [(u64, u64); 9] = [
    (0, 4 << 10),
    (0, 2 << 20),
    (4 << 10, 4 << 10),
    (4 << 10, 2 << 20),
    (2 << 20, 4 << 10),
    (2 << 20, 4 << 20),
    (12 << 10, 20 << 10),
    ((2 << 20) - (4 << 10), 8 << 10),
    ((4 << 20) + (28 << 10), (2 << 20) + (12 << 10)),
];

/// There and back over each range: neighbours keep what they hold, the host sees what is shared and nothing else, contents do not survive, one
/// flush each, the direct map as before, the large leaves come back.
#[test]
fn a_range_is_shared_and_comes_back_and_its_neighbours_stay() {
    for kind in KINDS {
        for (start, bytes) in RANGES {
            let mut bench = Bench::of_ram(256 * MIB);
            let mut guest = bench.launch_as(1, kind, 10 * MIB);
            let before = bench.memory.stats();
            let probes: Vec<u64> = (0..10 * MIB)
                .step_by(PAGE_SIZE as usize)
                .map(|page| page + page / PAGE_SIZE % 512 * 8)
                .collect();
            let inside = |at: u64| (start..start + bytes).contains(&at);
            for at in &probes {
                assert!(bench.store(*at, !at));
            }
            bench.change(&mut guest, Change::Share, start, bytes).unwrap();
            for at in &probes {
                let shared = bench.load_shared(&guest, *at).ok();
                let expected = if inside(*at) {
                    (None, Some(0))
                } else {
                    (Some(!at), None)
                };
                assert_eq!(
                    (bench.load(&guest, *at), shared),
                    expected,
                    "{kind:?} {start:#x} {at:#x}"
                );
                assert_eq!(bench.store(at | SHARED, 7 * at), inside(*at));
            }
            for at in probes.iter().filter(|at| inside(**at)) {
                assert!(!bench.store(*at, 1), "{at:#x} is reached at its private alias");
                assert_eq!(bench.load_shared(&guest, *at), Ok(7 * at));
            }
            bench.change(&mut guest, Change::Unshare, start, bytes).unwrap();
            for at in probes.iter().filter(|at| inside(**at)) {
                assert!(
                    !bench.store(*at, 1) && !bench.store(at | SHARED, 1),
                    "{at:#x} is pending"
                );
                assert_eq!(bench.state(&guest, *at), PageState::Pending);
            }
            bench.change(&mut guest, Change::Accept, start, bytes).unwrap();
            for at in &probes {
                let expected = if inside(*at) { 0 } else { !at };
                assert_eq!(bench.load(&guest, *at), Some(expected));
                assert!(bench.store(*at, 1));
            }
            let stats = bench.memory.stats();
            assert_eq!(
                stats.guest_flushes - before.guest_flushes,
                2,
                "{kind:?} {start:#x} {bytes:#x}"
            );
            assert_eq!(
                (stats.flushes, stats.direct_map_writes),
                (before.flushes, before.direct_map_writes)
            );
            // A 2M leaf was split for each region that changed in part, and came back.
            let parts = [start, start + bytes]
                .map(|at| at / (2 * MIB) * 2 * MIB)
                .into_iter()
                .filter(|region| *region < start || start + bytes < region + 2 * MIB)
                .filter(|region| region + 2 * MIB > start && *region < start + bytes)
                .collect::<std::collections::BTreeSet<u64>>()
                .len() as u64;
            let came_back = stats.second_stage_collapses + stats.promotions_blocked.executable;
            assert_eq!(
                (stats.second_stage_splits, came_back),
                (parts, parts),
                "{kind:?} {start:#x} {bytes:#x}"
            );
            assert_eq!(
                stats.promotions_blocked.executable > 0,
                kind == SecondStageKind::ExtendedSplit && parts > 0
            );
            bench.teardown(guest);
            assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
        }
    }
}

/// One page of several regions is in another state, the first, the last or one in between: nothing is changed.
#[test]
fn a_range_that_is_partly_wrong_is_refused_whole() {
    for kind in KINDS {
        for wrong in [0, 3 * MIB, 6 * MIB - PAGE_SIZE] {
            let mut bench = Bench::of_ram(128 * MIB);
            let mut guest = bench.launch_as(1, kind, 6 * MIB);
            // One page shared while the others are private; then all shared but for that one; then all pending but for that one.
            for (one, all, back) in [
                (Change::Share, Change::Share, Change::Unshare),
                (Change::Unshare, Change::Unshare, Change::Share),
                (Change::Accept, Change::Accept, Change::Share),
            ] {
                let rest = [(0, wrong), (wrong + PAGE_SIZE, 6 * MIB - wrong - PAGE_SIZE)];
                bench.change(&mut guest, one, wrong, PAGE_SIZE).unwrap();
                let before = bench.snapshot();
                let marks: Vec<_> = guest.unreachable(&bench.cpu).collect();
                let refused = bench.change(&mut guest, all, 0, 6 * MIB);
                assert_eq!(refused, Err(ChangeError::State), "{kind:?} {wrong:#x} {all:?}");
                let now = bench.snapshot();
                assert_eq!(before.difference(&now), None, "{kind:?} {wrong:#x} {all:?}");
                assert_eq!(marks, guest.unreachable(&bench.cpu).collect::<Vec<_>>());
                if one != Change::Accept {
                    bench.change(&mut guest, back, wrong, PAGE_SIZE).unwrap();
                    if one == Change::Share {
                        bench
                            .change(&mut guest, Change::Accept, wrong, PAGE_SIZE)
                            .unwrap();
                    }
                    // Now all of it.
                    for (start, bytes) in rest.into_iter().filter(|(_, bytes)| *bytes > 0) {
                        bench.change(&mut guest, one, start, bytes).unwrap();
                    }
                    if one == Change::Share {
                        bench.change(&mut guest, Change::Share, wrong, PAGE_SIZE).unwrap();
                    } else {
                        bench
                            .change(&mut guest, Change::Unshare, wrong, PAGE_SIZE)
                            .unwrap();
                    }
                }
            }
            bench.teardown(guest);
        }
    }
}

#[test]
fn what_is_not_the_guests_memory_is_no_range() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    let before = bench.snapshot();
    let ranges = [
        (4 * MIB, PAGE_SIZE),
        (4 * MIB - PAGE_SIZE, 2 * PAGE_SIZE),
        (0, 4 * MIB + PAGE_SIZE),
        (0xfee0_0000, PAGE_SIZE),
        (SHARED, PAGE_SIZE),
        (SHARED << 1, PAGE_SIZE),
        (u64::MAX - PAGE_SIZE + 1, PAGE_SIZE),
        (u64::MAX - PAGE_SIZE + 1, 2 * PAGE_SIZE),
        (PAGE_SIZE, u64::MAX - PAGE_SIZE + 1),
    ];
    for change in Change::ALL {
        for (start, bytes) in ranges {
            let refused = guest.begin(change, Gpa::new(start), bytes);
            assert!(
                matches!(refused, Err(ChangeError::Range(_))),
                "{start:#x} {bytes:#x}: {refused:?}"
            );
        }
        for (start, bytes) in [(0, 0), (0, 1), (1, PAGE_SIZE), (PAGE_SIZE, PAGE_SIZE + 8)] {
            assert_eq!(
                guest.begin(change, Gpa::new(start), bytes),
                Err(ChangeError::Unaligned)
            );
        }
    }
    assert_eq!(before.difference(&bench.snapshot()), None);
    bench.teardown(guest);
}

/// By either alias, as a memory fault names it.
#[test]
fn an_address_names_a_page_by_one_of_two_aliases() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Extended, 4 * MIB);
    bench
        .change(&mut guest, Change::Share, 2 * MIB, PAGE_SIZE)
        .unwrap();
    let cpu = bench.cpu;
    let named = |at: u64| {
        let page = guest.page(&cpu, Gpa::new(at));
        (page.start.get(), page.alias, page.state)
    };
    let at = 2 * MIB;
    assert_eq!(named(at + 5), (at, Alias::Private, PageState::Shared));
    assert_eq!(named(SHARED | (at + 5)), (at, Alias::Shared, PageState::Shared));
    assert_eq!(named(SHARED | 5), (0, Alias::Shared, PageState::Accepted));
    assert_eq!(named(4 * MIB + 5), (4 * MIB, Alias::Private, PageState::Outside));
    assert_eq!(
        named(SHARED | (4 * MIB)),
        (4 * MIB, Alias::Shared, PageState::Outside)
    );
    bench.teardown(guest);
}

/// The host reads what is shared, all of it or nothing, and the frames are ordinary memory in the direct map.
#[test]
fn the_host_reads_shared_pages_only() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    let (first, bytes) = (MIB, 3 * PAGE_SIZE);
    bench.change(&mut guest, Change::Share, first, bytes).unwrap();
    let edge = first + PAGE_SIZE;
    assert!(bench.store(SHARED | (edge - 8), 0x1111_2222_3333_4444));
    assert!(bench.store(SHARED | edge, 0x5555_6666_7777_8888));
    assert_eq!(bench.load_shared(&guest, edge - 4), Ok(0x7777_8888_1111_2222));
    let cpu = bench.cpu;
    let mut read = |at: u64, length: usize| {
        let mut data = vec![0xee; length];
        let Bench { memory, windows, .. } = &mut bench;
        let result = guest.read_shared(&cpu, &memory.frames, &mut windows[0], Gpa::new(at), &mut data);
        assert!(result.is_ok() || data.iter().all(|byte| *byte == 0xee));
        result
    };
    assert_eq!(read(first, bytes as usize), Ok(()));
    assert_eq!(
        read(first - 1, 2),
        Err(NotShared::Page(Gpa::new(first - PAGE_SIZE)))
    );
    assert_eq!(
        read(first, bytes as usize + 1),
        Err(NotShared::Page(Gpa::new(first + bytes)))
    );
    assert!(matches!(read(4 * MIB - 1, 2), Err(NotShared::Range(_))));
    assert!(matches!(read(u64::MAX, 2), Err(NotShared::Range(_))));
    // The frame, as the records have it.
    let mut frames = (0..128 * MIB / PAGE_SIZE).map(Pfn::new);
    let state = FrameState::Shared {
        owner: id(1),
        gfn: Gpa::new(edge).gfn(),
    };
    let pfn = frames
        .find(|pfn| bench.memory.frames.state(*pfn) == state)
        .unwrap();
    assert_eq!(cpu.load(direct(pfn.hpa()).unwrap()), Ok(0x5555_6666_7777_8888));
    bench.teardown(guest);
}

/// 512 pages, one call: one flush of the guest, none of the host. And 512 calls that take turns give nothing away.
#[test]
fn a_change_of_many_pages_flushes_once_and_goes_in_steps_of_two_mebibytes() {
    let mut bench = Bench::of_ram(256 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 64 * MIB);
    for (start, bytes) in [(PAGE_SIZE, 2 * MIB), (8 * MIB, 40 * MIB)] {
        for change in Change::ALL.into_iter().chain([Change::Accept]) {
            let before = bench.memory.stats();
            guest.begin(change, Gpa::new(start), bytes).unwrap();
            loop {
                let (free, scrubbed) = (
                    bench.memory.frames.free_frames(),
                    bench.memory.stats().bytes_scrubbed,
                );
                if let Progress::Done(result) = bench.step(&mut guest) {
                    assert_eq!(result, Ok(()));
                    break;
                }
                let moved = free.abs_diff(bench.memory.frames.free_frames());
                // Whole regions are taken out of the direct map together.
                let most = if change == Change::TakeAgain {
                    512 * 512
                } else {
                    512 + 4
                };
                assert!(
                    moved <= most,
                    "{change:?}: {moved} frames changed hands in one step"
                );
                assert!(bench.memory.stats().bytes_scrubbed - scrubbed <= 2 * MIB);
            }
            let stats = bench.memory.stats();
            assert_eq!(
                stats.guest_flushes - before.guest_flushes,
                u64::from(!matches!(change, Change::Accept | Change::TakeAgain))
            );
            let regions = change == Change::TakeAgain && bytes > 2 * MIB;
            assert_eq!(stats.flushes - before.flushes, u64::from(regions));
        }
    }
    bench.teardown(guest);
}

/// The frames of 2 MiB that are shared are one block, whatever single frames are free, so that it is whole again when they come back.
#[test]
fn what_is_shared_by_2_mib_is_one_block() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    // Breaks a block up, if none is yet.
    let frame = bench.memory.frames.allocate(0).unwrap();
    let free = (
        bench.memory.frames.free_regions(),
        bench.memory.frames.free_frames(),
    );
    assert!(free.1 > 512 * free.0);
    bench.change(&mut guest, Change::Share, 0, 2 * MIB).unwrap();
    let is_shared = |pfn: &Pfn| matches!(bench.memory.frames.state(*pfn), FrameState::Shared { .. });
    let shared = (0..128 * MIB / PAGE_SIZE).map(Pfn::new).filter(is_shared);
    let blocks: std::collections::BTreeSet<_> = shared.map(Pfn::region_number).collect();
    assert_eq!(
        (blocks.len(), bench.memory.frames.free_regions()),
        (1, free.0 - 1)
    );
    bench.teardown(guest);
    assert_eq!(bench.memory.frames.free_regions(), free.0 + 2);
    bench.memory.frames.free(frame);
}

/// A range that lacks no hidden memory is not asked to wait for any: one step each to check, to reserve, to revoke, to flush and to finish.
#[test]
fn a_change_that_lacks_no_memory_takes_no_step_for_it() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    for (change, expected) in [
        (Change::Share, 5),
        (Change::Unshare, 5),
        (Change::Accept, 3),
        (Change::GiveBack, 5),
        (Change::TakeAgain, 3),
        (Change::Accept, 3),
    ] {
        guest.begin(change, Gpa::new(PAGE_SIZE), PAGE_SIZE).unwrap();
        let mut steps = 1;
        while !matches!(bench.step(&mut guest), Progress::Done(Ok(()))) {
            steps += 1;
        }
        assert_eq!(steps, expected, "{change:?}");
    }
    bench.teardown(guest);
}
