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

#[path = "change/in_place.rs"]
mod in_place;
#[path = "change/ownership.rs"]
mod ownership;

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

/// Every state, every change.
#[test]
fn each_change_is_for_its_states_and_refused_in_all_others() {
    use ChangeError::State;
    let table = [
        // Share, unshare, accept, in place, and back; give back, take again.
        (
            PageState::Accepted,
            [
                Ok(()),
                Err(State),
                Err(State),
                Ok(()),
                Err(State),
                Ok(()),
                Err(State),
            ],
        ),
        (
            PageState::Pending,
            [
                Ok(()),
                Err(State),
                Ok(()),
                Err(State),
                Err(State),
                Ok(()),
                Err(State),
            ],
        ),
        (
            PageState::Shared,
            [
                Err(State),
                Ok(()),
                Err(State),
                Err(State),
                Err(State),
                Err(State),
                Err(State),
            ],
        ),
        (
            PageState::SharedInPlace,
            [
                Err(State),
                Err(State),
                Err(State),
                Err(State),
                Ok(()),
                Err(State),
                Err(State),
            ],
        ),
    ];
    for kind in KINDS {
        for (state, expected) in table {
            for (change, expected) in Change::ALL.into_iter().zip(expected) {
                for bytes in [PAGE_SIZE, 2 * MIB] {
                    let mut bench = Bench::of_ram(128 * MIB);
                    let mut guest = bench.launch_as(1, kind, 4 * MIB);
                    let way: &[Change] = match state {
                        PageState::Shared => &[Change::Share],
                        PageState::Pending => &[Change::Share, Change::Unshare],
                        PageState::SharedInPlace => &[Change::ShareInPlace],
                        PageState::Accepted | PageState::Absent | PageState::Outside => &[],
                    };
                    for change in way {
                        bench.change(&mut guest, *change, 0, bytes).unwrap();
                    }
                    assert_eq!(bench.state(&guest, 0), state);
                    let before = bench.snapshot();
                    let marks: Vec<_> = guest.unreachable(&bench.cpu).collect();
                    assert_eq!(
                        bench.change(&mut guest, change, 0, bytes),
                        expected,
                        "{kind:?} {state:?} {change:?}"
                    );
                    if expected.is_err() {
                        assert_eq!(before.difference(&bench.snapshot()), None);
                        assert_eq!(marks, guest.unreachable(&bench.cpu).collect::<Vec<_>>());
                    }
                    bench.teardown(guest);
                }
            }
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

/// A gigablock that is mapped by one leaf.
#[test]
fn a_page_of_a_1g_leaf_is_shared_alone() {
    for kind in [SecondStageKind::Nested, SecondStageKind::Extended] {
        let mut bench = Bench::of_ram(3 * GIB);
        bench.memory.allow_large_guest_leaves(true);
        let mut guest = bench.launch_as(1, kind, GIB + 2 * MIB);
        assert_eq!(guest.bytes_in_large_leaves(&bench.cpu), GIB + 2 * MIB);
        let writes = bench.memory.stats().direct_map_writes;
        for (start, bytes) in [
            (GIB - PAGE_SIZE, 2 * PAGE_SIZE),
            (6 * MIB, 2 * MIB),
            (2 * MIB, 4 * MIB),
        ] {
            if start == 2 * MIB {
                bench
                    .change(&mut guest, Change::Unshare, 6 * MIB, 2 * MIB)
                    .unwrap();
            }
            bench.change(&mut guest, Change::Share, start, bytes).unwrap();
            // Around the border of the GiB two regions are in small leaves; the others go as a whole.
            let large = match start {
                start if start == GIB - PAGE_SIZE => GIB - 2 * MIB,
                start if start == 6 * MIB => GIB - 4 * MIB,
                _ => GIB - 8 * MIB,
            };
            assert_eq!(
                guest.bytes_in_large_leaves(&bench.cpu),
                large,
                "{kind:?} {start:#x}"
            );
            let others = [start - PAGE_SIZE, start + bytes];
            let held: Vec<bool> = others
                .iter()
                .map(|at| bench.store(*at, 1) || *at >= GIB)
                .collect();
            assert!(held[0], "{kind:?} {start:#x}");
            assert!(bench.store(SHARED | start, 1) && !bench.store(start, 1));
        }
        assert_eq!(bench.memory.stats().direct_map_writes, writes);
        bench.teardown(guest);
        assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
    }
}

/// On a CPU that must not execute from large leaves, none becomes executable by a change, and all small ones are (Intel SDM vol. 3C, tables 29-4
/// and 29-6, read by hand).
#[test]
fn a_change_makes_no_large_leaf_executable() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::ExtendedSplit, 4 * MIB);
    let machine = bench.machine;
    let entry = |table: u64, index: u64| machine.ram().load(Hpa::new(table + 8 * index));
    let below = |table: u64, index: u64| entry(table, index) & 0x000f_ffff_ffff_f000;
    let low = below(below(guest.second_stage().get(), 0), 0);
    for change in [Change::Share, Change::Unshare, Change::Accept] {
        bench.change(&mut guest, change, 0, 2 * MIB).unwrap();
        bench
            .change(&mut guest, change, 2 * MIB + PAGE_SIZE, PAGE_SIZE)
            .unwrap();
    }
    assert_eq!(entry(low, 0) & 0xfff, 0xf3, "readable, writable, large");
    let small = below(low, 1);
    for index in 0..512 {
        assert_eq!(
            entry(small, index) & 0xfff,
            0x77,
            "readable, writable, executable"
        );
    }
    assert!(guest.allow_fetch(&mut bench.memory, &bench.cpu, Gpa::new(0)));
    assert_eq!(entry(below(low, 0), 5) & 0xfff, 0x77);
    bench.teardown(guest);
}

/// Wherever a guest dies in the middle of a change, everything comes back, with no memory free.
#[test]
fn a_guest_can_die_at_every_step_of_a_change() {
    for kind in KINDS {
        for dies_in in Change::ALL {
            for steps in 0.. {
                let mut bench = Bench::of_ram(128 * MIB);
                let mut guest = bench.launch_as(1, kind, 6 * MIB);
                let (start, bytes) = (2 * MIB - PAGE_SIZE, 2 * MIB + 2 * PAGE_SIZE);
                for change in Change::ALL {
                    if change == dies_in {
                        break;
                    }
                    bench.change(&mut guest, change, start, bytes).unwrap();
                }
                guest.begin(dies_in, Gpa::new(start), bytes).unwrap();
                let done = (0..steps).any(|_| matches!(bench.step(&mut guest), Progress::Done(_)));
                let mut hoard = Vec::new();
                while let Ok(frame) = bench.memory.frames.allocate(0) {
                    hoard.push(frame);
                }
                bench.teardown(guest);
                hoard
                    .into_iter()
                    .for_each(|frame| bench.memory.frames.free(frame));
                bench.check();
                let now = bench.snapshot();
                assert_eq!(
                    bench.boot.0.trace(&now),
                    None,
                    "{kind:?} {dies_in:?} after {steps} steps"
                );
                if done {
                    break;
                }
            }
        }
    }
}

/// Whatever number of frames is left: refused and nothing changed, or done. What comes back needs none.
#[test]
fn a_change_is_refused_whichever_frame_is_missing() {
    for kind in KINDS {
        for (start, bytes) in [(0, PAGE_SIZE), (PAGE_SIZE, 2 * MIB), (0, 2 * MIB)] {
            let pages = bytes / PAGE_SIZE;
            let more = (Change::Share, pages.saturating_sub(2)..pages + 8);
            for (change, further) in [more, (Change::ShareInPlace, 0..0)] {
                let (mut granted, mut refused) = (0, 0);
                for frames in (0..8).chain(further) {
                    let mut bench = Bench::of_ram(64 * MIB);
                    bench.memory.set_watermarks(Watermarks { low: 0, high: 0 });
                    let mut guest = bench.launch_as(1, kind, 4 * MIB);
                    assert!(bench.store(0, 5) && bench.store(PAGE_SIZE, 5));
                    let mut hoard = Vec::new();
                    while let Ok(frame) = bench.memory.frames.allocate(0) {
                        hoard.push(frame);
                    }
                    for _ in 0..frames {
                        bench.memory.frames.free(hoard.pop().unwrap());
                    }
                    let before = bench.snapshot();
                    match bench.change(&mut guest, change, start, bytes) {
                        Ok(()) => granted += 1,
                        Err(ChangeError::OutOfMemory(_)) => {
                            refused += 1;
                            let now = bench.snapshot();
                            assert_eq!(before.difference(&now), None, "{kind:?} {frames}");
                            assert_eq!(bench.load(&guest, PAGE_SIZE), Some(5));
                        }
                        Err(error) => panic!("{error}"),
                    }
                    bench.teardown(guest);
                    hoard
                        .into_iter()
                        .for_each(|frame| bench.memory.frames.free(frame));
                }
                assert!(
                    granted > 0 && refused > 0,
                    "{kind:?} {change:?} {bytes:#x}: {granted} {refused}"
                );
            }
        }
    }
}

/// What a guest makes the host allocate leaves the host its reserve.
#[test]
fn sharing_stops_at_the_low_watermark() {
    let mut bench = Bench::of_ram(64 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 24 * MIB);
    let free = bench.memory.frames.free_frames();
    let low = free - 600;
    bench.memory.set_watermarks(Watermarks { low, high: low });
    let refused = bench.change(&mut guest, Change::Share, 0, 4 * MIB);
    assert!(matches!(refused, Err(ChangeError::OutOfMemory(_))), "{refused:?}");
    assert_eq!(bench.memory.frames.free_frames(), free);
    assert_eq!(bench.change(&mut guest, Change::Share, 0, 2 * MIB), Ok(()));
    bench.teardown(guest);
}

/// Its own limit counts what is shared, not what was ever shared; a refusal changes nothing.
#[test]
fn sharing_stops_at_the_guest_s_limit() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Extended, 8 * MIB);
    guest.limit_sharing(2 * MIB + PAGE_SIZE + 1);
    let share = |bench: &mut Bench, guest: &mut GuestMemory, start, bytes, expected| {
        let before = bench.snapshot();
        let result = bench.change(guest, Change::Share, start, bytes);
        assert_eq!(result, expected, "{start:#x} {bytes:#x}");
        if result.is_err() {
            let now = bench.snapshot();
            assert_eq!(before.difference(&now), None);
        }
    };
    let limit = Err(ChangeError::Limit);
    share(&mut bench, &mut guest, 0, 2 * MIB + 2 * PAGE_SIZE, limit);
    share(&mut bench, &mut guest, 0, 2 * MIB, Ok(()));
    share(&mut bench, &mut guest, 4 * MIB, 2 * PAGE_SIZE, limit);
    share(&mut bench, &mut guest, 4 * MIB, PAGE_SIZE, Ok(()));
    share(&mut bench, &mut guest, 6 * MIB, PAGE_SIZE, limit);
    // What is wrong as well is said to be wrong.
    share(&mut bench, &mut guest, 0, PAGE_SIZE, Err(ChangeError::State));
    bench
        .change(&mut guest, Change::Unshare, PAGE_SIZE, PAGE_SIZE)
        .unwrap();
    share(&mut bench, &mut guest, 6 * MIB, PAGE_SIZE, Ok(()));
    share(&mut bench, &mut guest, PAGE_SIZE, PAGE_SIZE, limit);
    bench.teardown(guest);
}

/// Where a CPU has few address bits, the shared alias lies in the same level-3 table as the private one. The machine is not told of the tables: its
/// guests have one width.
#[test]
fn the_shared_bit_follows_the_address_width() {
    for bits in [32, 36, 39, 40, 48, 52] {
        let mut bench = Bench::of_ram(128 * MIB);
        bench.memory.set_guest_address_bits(bits);
        let free = bench.memory.frames.free_frames();
        let Bench {
            cpu, memory, windows, ..
        } = &mut bench;
        let kind = SecondStageKind::Nested;
        let launching = memory.launch(cpu, kind, id(1), 4 * MIB).unwrap().wait(cpu);
        let mut guest = launching.finish(memory, cpu, &mut windows[0]);
        assert_eq!(guest.shared_bit(), bits.min(48) - 1);
        for change in [Change::Share, Change::Unshare, Change::Share] {
            bench.change_unseen(&mut guest, change, MIB, 2 * MIB).unwrap();
        }
        let shared = guest.page(&bench.cpu, Gpa::new((1 << guest.shared_bit()) | (2 * MIB)));
        assert_eq!((shared.alias, shared.state), (Alias::Shared, PageState::Shared));
        let Bench {
            cpu, memory, windows, ..
        } = &mut bench;
        let teardown = guest.revoke(cpu).reclaim(GuestFlushed::new(id(1)));
        let restored = teardown.finish(memory, cpu, &mut windows[0]);
        restored.wait(cpu).release(memory, cpu);
        assert_eq!(bench.memory.frames.free_frames(), free, "{bits} bits");
    }
}

#[test]
#[should_panic(expected = "the wrong guest was flushed")]
fn another_guest_s_flush_is_no_proof() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    let receipt = bench.machine.translations_flushed(id(2));
    guest.flushed(&mut bench.memory, receipt);
}

/// 2 MiB that became pending as one are accepted page by page: what says so is cut into 512, each with the frame of its page.
#[test]
fn pages_of_a_region_come_back_one_by_one() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(GIB);
        let mut guest = bench.launch_as(1, kind, 8 * MIB);
        for change in [Change::Share, Change::Unshare] {
            bench.change(&mut guest, change, 2 * MIB, 2 * MIB).unwrap();
        }
        for at in [2 * MIB + 5 * PAGE_SIZE, 4 * MIB - PAGE_SIZE, 2 * MIB] {
            assert_eq!(bench.state(&guest, at), PageState::Pending);
            bench.change(&mut guest, Change::Accept, at, PAGE_SIZE).unwrap();
            assert_eq!(bench.state(&guest, at), PageState::Accepted);
            assert!(bench.store(at, at));
            assert_eq!(bench.load(&guest, at), Some(at));
        }
        assert_eq!(bench.state(&guest, 2 * MIB + 6 * PAGE_SIZE), PageState::Pending);
        bench.teardown(guest);
    }
}

/// What a guest shares beyond its first gigabyte comes back with it, wherever it lies there.
#[test]
fn what_is_shared_in_any_gigabyte_comes_back() {
    let (second, third) = ([2 * GIB - PAGE_SIZE, GIB + 6 * MIB], 2 * GIB + 2 * MIB);
    let places = [vec![second[0], second[1], third], vec![third]];
    for (kind, places) in KINDS
        .iter()
        .flat_map(|kind| places.each_ref().map(|places| (*kind, places)))
    {
        let mut bench = Bench::of_ram(4 * GIB);
        let free = bench.memory.frames.free_frames();
        let mut guest = bench.launch_as(1, kind, 2 * GIB + 8 * MIB);
        for at in places {
            bench.change(&mut guest, Change::Share, *at, PAGE_SIZE).unwrap();
        }
        bench.teardown(guest);
        let (cpu, memory) = (bench.cpu, &mut bench.memory);
        memory.drain(&cpu).wait(&cpu).release(memory, &cpu);
        assert_eq!(memory.frames.free_frames(), free);
    }
}

/// A table that was merged away waits for the guest's next flush, and no longer.
#[test]
fn a_guest_that_changes_the_same_page_again_and_again_takes_no_more_memory() {
    let mut bench = Bench::of_ram(GIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 8 * MIB);
    let free = [(); 4].map(|()| {
        for change in [Change::Share, Change::Unshare, Change::Accept] {
            bench
                .change(&mut guest, change, 2 * MIB + PAGE_SIZE, PAGE_SIZE)
                .unwrap();
        }
        bench.memory.frames.free_frames()
    });
    assert_eq!(free, [free[0]; 4]);
    bench.teardown(guest);
}
