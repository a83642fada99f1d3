//! The frame records and the allocator of host memory, through their public face.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Hpa, Pfn};
use memory::frame::records::RecordsLayout;
use memory::frame::{FrameState, FrameTable, HostFrames};
use memory::memory_map::{FrameRange, MAX_RANGES, MemoryMap, RawEntry};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn map(ranges: &[(u64, u64)]) -> MemoryMap {
    MemoryMap::new(ranges.iter().map(|&(start, bytes)| RawEntry {
        start: Hpa::new(start),
        bytes,
        ram: true,
    }))
    .unwrap()
}

fn storage(map: &MemoryMap) -> Vec<u64> {
    // Not zero on purpose: the records must not depend on it.
    vec![0xdead_beef_dead_beef; RecordsLayout::new(map).storage_words()]
}

#[test]
fn ram_decides_the_size_of_the_records_not_the_highest_address() {
    let near = RecordsLayout::new(&map(&[(0, 4 * GIB)])).storage_words();
    let far = RecordsLayout::new(&map(&[(0, 2 * GIB), (64 << 40, 2 * GIB)])).storage_words();
    assert!(far - near <= 8, "{far} against {near} words");
    assert!(
        (far * 8) as f64 <= 0.004 * (4 * GIB) as f64,
        "records take {} bytes of 4 GiB",
        far * 8
    );
}

/// A range that loses its beginning stays one range.
#[test]
fn as_many_ranges_as_there_may_be_can_lose_their_beginnings() {
    let entry = |number: usize, ram| RawEntry {
        start: Hpa::new(number as u64 * MIB),
        bytes: if ram { 8 << 10 } else { 4 << 10 },
        ram,
    };
    let ram = (0..MAX_RANGES).map(|number| entry(number, true));
    let reserved = (0..MAX_RANGES).map(|number| entry(number, false));
    let map = MemoryMap::new(ram.chain(reserved)).unwrap();
    let starts = map.ranges().iter().map(|range| range.start.get());
    assert!(starts.eq((0..MAX_RANGES as u64).map(|number| number * 256 + 1)));
    assert_eq!(map.frames(), MAX_RANGES as u64);
}

#[test]
fn where_there_is_no_ram_no_frame_is_anything() {
    let map = map(&[(0, GIB), (4 * GIB, GIB), (64 << 40, GIB)]);
    let mut storage = storage(&map);
    let frames = FrameTable::new(&map, &[], &mut storage).unwrap();
    let state = |at: u64| frames.state(Hpa::new(at).pfn());
    for ram in [0, GIB - 1, 4 * GIB, 5 * GIB - 1, 64 << 40, (64 << 40) + GIB - 1] {
        assert!(matches!(state(ram), FrameState::Free { .. }), "{ram:#x}");
    }
    for none in [
        GIB,
        4 * GIB - 1,
        5 * GIB,
        (64 << 40) - 1,
        (64 << 40) + GIB,
        (96 << 40) - 1,
    ] {
        assert_eq!(state(none), FrameState::Absent, "{none:#x}");
    }
}

#[test]
fn the_records_of_many_gigablocks_have_room_for_their_lists() {
    let map = map(&[(0, 300 * GIB)]);
    let mut storage = storage(&map);
    let mut frames = FrameTable::new(&map, &[], &mut storage).unwrap();
    assert_eq!(frames.free_regions(), 300 * 512);
    let highest = frames.allocate(18).unwrap();
    assert_eq!(highest.pfn(), Hpa::new(299 * GIB).pfn());
    frames.free(highest);
}

/// The highest gigablock that has so much in one piece, not the highest that has anything.
#[test]
fn large_extents_come_from_the_highest_gigablock_that_has_them() {
    let map = map(&[(0, 3 * GIB)]);
    let mut storage = storage(&map);
    let mut frames = FrameTable::new(&map, &[], &mut storage).unwrap();
    let gigablock = |extent: &HostFrames| extent.pfn().gigablock_number();
    let region = frames.allocate(9).unwrap();
    assert_eq!(gigablock(&region), 2);
    let all = frames.allocate(18).unwrap();
    assert_eq!(gigablock(&all), 1);
    // The largest that the highest one has left, and once more.
    let halves = [17, 17].map(|order| frames.allocate(order).unwrap());
    assert_eq!(halves.each_ref().map(gigablock), [2, 0]);
    halves.into_iter().for_each(|half| frames.free(half));
    frames.free(all);
    frames.free(region);
}

#[test]
fn small_machines_pay_little_too() {
    let words = RecordsLayout::new(&map(&[(0, 640 << 10), (MIB, 127 * MIB)])).storage_words();
    assert!(
        (words * 8) as f64 <= 0.004 * (128 * MIB) as f64,
        "records take {} bytes of 128 MiB",
        words * 8
    );
}

/// A frame word's kind is in its low bits: whatever the RAM held before, each kind comes up.
#[test]
fn what_the_storage_held_before_does_not_matter() {
    let map = map(&[(0, 640 << 10), (MIB, 3 * GIB)]);
    let used = [FrameRange {
        start: Pfn::new(0x200),
        end: Pfn::new(0x2ff),
    }];
    for kind in 0..64 {
        for rest in [0, 0x1234_5678_9abc_def0 << 6, u64::MAX << 6] {
            let mut storage = storage(&map);
            storage.fill(rest | kind);
            let table = FrameTable::new(&map, &used, &mut storage).unwrap();
            let free = map.frames() - 0xff;
            assert_eq!(table.free_frames(), free, "{rest:#x} {kind}");
            assert_eq!(table.state(Pfn::new(0x200)), FrameState::Reserved);
        }
    }
}

#[test]
fn storage_that_is_too_small_is_refused() {
    let map = map(&[(0, 64 * MIB)]);
    let mut storage = storage(&map);
    let short = storage.len() - 1;
    let refused = FrameTable::new(&map, &[], &mut storage[..short]).err().unwrap();
    assert!(refused.to_string().contains("smaller than their layout says"));
}

#[test]
fn frames_in_use_and_frames_that_are_not_ram_are_never_handed_out() {
    let map = map(&[(0, 640 << 10), (MIB, 31 * MIB)]);
    let mut storage = storage(&map);
    let used = [
        FrameRange {
            start: Pfn::new(0x180),
            end: Pfn::new(0x203),
        },
        FrameRange {
            start: Pfn::new(0),
            end: Pfn::new(1),
        },
    ];
    let mut table = FrameTable::new(&map, &used, &mut storage).unwrap();
    assert_eq!(table.free_frames(), 160 + 31 * 256 - 0x83 - 1);
    assert_eq!(table.state(Pfn::new(0x181)), FrameState::Reserved);
    assert_eq!(table.state(Pfn::new(0xa0)), FrameState::Absent);
    assert_eq!(table.state(Pfn::new(1 << 30)), FrameState::Absent);
    let mut seen = std::collections::BTreeSet::new();
    while let Ok(frame) = table.allocate(0) {
        let pfn = frame.pfn();
        assert!(
            map.ranges().iter().any(|range| range.contains(pfn))
                && !used.iter().any(|range| range.contains(pfn))
        );
        assert!(seen.insert(pfn), "{pfn} twice");
    }
    assert_eq!(seen.len() as u64, 160 + 31 * 256 - 0x83 - 1);
    assert_eq!(table.allocate(0).unwrap_err().free, 0);
}

#[test]
fn a_frame_that_was_in_use_at_boot_can_be_given_up_later() {
    let map = map(&[(0, 640 << 10), (MIB, 31 * MIB)]);
    let mut storage = storage(&map);
    let used = [FrameRange {
        start: Pfn::new(0x9f),
        end: Pfn::new(0xa0),
    }];
    let mut table = FrameTable::new(&map, &used, &mut storage).unwrap();
    let free = table.free_frames();
    // Neither what is free nor what is no RAM can be taken over.
    assert!(table.adopt(Pfn::new(0x9e)).is_none());
    assert!(table.adopt(Pfn::new(0xa0)).is_none());
    assert!(table.adopt(Pfn::new(1 << 30)).is_none());
    let frames = table.adopt(Pfn::new(0x9f)).unwrap();
    assert!(table.adopt(Pfn::new(0x9f)).is_none(), "adopted twice");
    assert_eq!(table.free_frames(), free);
    table.free(frames);
    assert_eq!(table.free_frames(), free + 1);
    // It joined its neighbours: all 160 frames below 640 KiB are one run of 128 and one of 32.
    let seven = table.allocate(7).unwrap();
    assert_eq!(seven.pfn(), Pfn::new(0));
    let five = table.allocate(5).unwrap();
    assert_eq!(five.pfn(), Pfn::new(0x80));
}

#[test]
fn small_extents_share_a_block_and_leave_the_others_whole() {
    let map = map(&[(0, GIB)]);
    let mut storage = storage(&map);
    let mut table = FrameTable::new(&map, &[], &mut storage).unwrap();
    assert_eq!(table.free_regions(), 512);
    let held: Vec<_> = (0..256).map(|_| table.allocate(1).unwrap()).collect();
    assert_eq!(table.free_regions(), 511);
    assert_eq!(table.state(held[3].pfn().add(1)), FrameState::Host { order: 1 });
    held.into_iter().for_each(|frames| table.free(frames));
    assert_eq!(table.free_regions(), 512);
    let gigabyte = table.allocate(18).unwrap();
    assert_eq!(gigabyte.pfn(), Pfn::new(0));
    assert_eq!(table.state(Pfn::new(0x3_ffff)), FrameState::Host { order: 18 });
    table.free(gigabyte);
}

#[test]
fn host_memory_and_regions_grow_from_opposite_ends() {
    let map = map(&[(0, 4 * GIB)]);
    let mut storage = storage(&map);
    let mut table = FrameTable::new(&map, &[], &mut storage).unwrap();
    let host = table.allocate(0).unwrap();
    let regions = table.carve(3).unwrap();
    assert_eq!(host.pfn().gigablock_number(), 3);
    assert!(
        regions
            .extents(&table)
            .all(|(pfn, _)| pfn.gigablock_number() == 0)
    );
    table.uncarve(regions);
    table.free(host);
    assert_eq!(table.free_frames(), table.frames());
}

#[test]
fn carving_more_than_there_is_changes_nothing_and_says_what_is_left() {
    let map = map(&[(0, 64 * MIB)]);
    let mut storage = storage(&map);
    let mut table = FrameTable::new(&map, &[], &mut storage).unwrap();
    let error = table.carve(33).unwrap_err();
    assert_eq!(
        (error.wanted, error.free, error.free_regions),
        (66 * MIB, 64 * MIB, 32)
    );
    assert_eq!(table.free_regions(), 32);
    assert!(table.carve(u64::MAX).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is allocated is disjoint, aligned and RAM; whatever is freed merges back.
    #[test]
    fn extents_are_disjoint_and_merge_back(steps in prop::collection::vec((0u8..=19, any::<u64>()), 1..120)) {
        let map = map(&[(0, 640 << 10), (MIB, 2 * GIB - MIB), (5 * GIB + 3 * MIB, 40 * MIB + 4096)]);
        let mut storage = storage(&map);
        let mut table = FrameTable::new(&map, &[], &mut storage).unwrap();
        let (free, regions) = (table.free_frames(), table.free_regions());
        prop_assert_eq!(free, map.frames());
        let mut held: Vec<HostFrames> = Vec::new();
        for (order, pick) in steps {
            if pick % 3 == 0 && !held.is_empty() {
                let frames = held.swap_remove(pick as usize % held.len());
                table.free(frames);
                continue;
            }
            let Ok(frames) = table.allocate(order) else { continue };
            prop_assert!(order <= 18);
            let (start, end) = (frames.pfn().get(), frames.pfn().get() + (1 << order));
            prop_assert_eq!(start % (1 << order), 0);
            prop_assert!(map.ranges().iter().any(|range| range.start.get() <= start && end <= range.end.get()));
            for other in &held {
                let (from, to) = (other.pfn().get(), other.pfn().get() + (1 << other.order()));
                prop_assert!(end <= from || to <= start);
            }
            held.push(frames);
            let taken: u64 = held.iter().map(|frames| 1 << frames.order()).sum();
            prop_assert_eq!(table.free_frames(), free - taken);
        }
        for frames in held {
            table.free(frames);
        }
        prop_assert_eq!((table.free_frames(), table.free_regions()), (free, regions));
    }
}
