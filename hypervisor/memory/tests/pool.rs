//! The pool of hidden memory, on the model machine: what it hands out, what that costs, and that all of it comes back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gpa, Hpa, Level, Pfn};
use memory::frame::extent::{Clean, Extent};
use memory::frame::{FrameState, GuestId};
use memory::guest::{GuestFlushed, NotGuestMemory, SecondStageKind};
use memory::layout::direct;
use memory::region::{PrivateError, Watermarks};
use model_machine::bench::{GIGABLOCK, REGION, small_machine};
use model_machine::{Bench, Board, Snapshot};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn extents_of_every_size_live_side_by_side_and_leave_no_trace() {
    let mut board = Board::new(&[(0, 5 * GIB)], 2, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut held = Vec::new();
    for round in 0..3 {
        for order in 0..=GIGABLOCK {
            // Three of the largest would not fit.
            if round > 0 && order > 16 {
                continue;
            }
            let extent = bench.allocate(order).unwrap();
            assert_eq!(extent.order(), order);
            assert!(extent.pfn().is_aligned(extent.frames()));
            bench.assert_hidden(extent.pfn(), order);
            held.push(extent);
        }
    }
    held.sort_by_key(Extent::pfn);
    for pair in held.windows(2) {
        assert!(pair[0].pfn().add(pair[0].frames()) <= pair[1].pfn());
    }
    // Every second one first.
    for step in [2, 1] {
        for index in (0..held.len()).rev().step_by(step) {
            let extent = held.swap_remove(index);
            bench.free(extent);
        }
    }
    held.into_iter().for_each(|extent| bench.free(extent));
    bench.assert_as_at_boot();
}

#[test]
fn what_is_handed_out_is_zero_whoever_used_it_before() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let secret = 0x5ec2_e700_5ec2_e722_u64;
    // The host's own words in what will be the first region.
    for pfn in (0..(3 * GIB) >> 12).step_by(512).map(Pfn::new) {
        if matches!(bench.memory.frames.state(pfn), FrameState::Free { .. }) {
            bench.cpu.store(direct(pfn.hpa()).unwrap(), secret).unwrap();
        }
    }
    let extent = bench.allocate(3).unwrap();
    let region = Pfn::new(extent.pfn().get() & !511);
    for frame in 0..512 {
        assert_eq!(bench.machine.ram().load(region.add(frame).hpa()), 0);
    }
    // A user's words, in an extent that the next user gets.
    let keep = bench.allocate(0).unwrap();
    bench.machine.ram().store(extent.pfn().hpa(), secret);
    let pfn = extent.pfn();
    bench.free(extent);
    let again = bench.allocate(3).unwrap();
    assert_eq!(again.pfn(), pfn);
    assert_eq!(bench.machine.ram().load(pfn.hpa()), 0);
    bench.free(again);
    bench.free(keep);
    bench.assert_as_at_boot();
}

/// What an owner writes it reads back, wherever in an extent of whatever size; nothing beside it changes, and nothing is written past the end.
#[test]
fn an_owner_reads_what_it_wrote_and_nothing_past_the_end() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    for order in [0, 3, REGION, REGION + 1] {
        let clean = bench.allocate(order).unwrap();
        let bytes = clean.frames() * 4096;
        let (cpu, windows) = (bench.cpu, &mut bench.windows[0]);
        let mut back = vec![1; 64];
        clean.read(&cpu, windows, bytes - 64, &mut back).unwrap();
        assert_eq!(back, [0; 64]);
        let refused = clean.read(&cpu, windows, bytes - 63, &mut back).unwrap_err();
        assert_eq!((refused.offset, refused.bytes), (bytes - 63, 64));
        let mut used = clean.used();
        // The second lies across the end of a window where there are two.
        for offset in [
            5,
            (bytes / 2).saturating_sub(3000).max(8),
            bytes - 10_000_u64.min(bytes / 2),
        ] {
            let data: Vec<u8> = (0..10_000_u64.min(bytes / 2))
                .map(|byte| (byte % 251) as u8 + 1)
                .collect();
            used.write(&cpu, windows, offset, &data).unwrap();
            let mut back = vec![0; data.len()];
            used.read(&cpu, windows, offset, &mut back).unwrap();
            assert_eq!(back, data, "order {order}, {offset}");
            // As an observer of the RAM sees it.
            let (first, last) = (offset.next_multiple_of(8), (offset + data.len() as u64 - 8) & !7);
            for at in [first, last] {
                let within = (at - offset) as usize;
                let word: [u8; 8] = data[within..][..8].try_into().unwrap();
                let hpa = Hpa::new(used.pfn().hpa().get() + at);
                assert_eq!(bench.machine.ram().load(hpa), u64::from_le_bytes(word));
            }
        }
        let mut first = [7; 5];
        used.read(&cpu, windows, 0, &mut first).unwrap();
        assert_eq!(first, [0; 5]);
        for (offset, length) in [(bytes - 1, 2), (bytes, 1), (u64::MAX, 2)] {
            let mut data = vec![9; length];
            let refused = used.write(&cpu, windows, offset, &data).unwrap_err();
            assert!(
                refused.to_string().contains(&format!("byte {offset} ")),
                "{refused}"
            );
            assert_eq!(used.read(&cpu, windows, offset, &mut data), Err(refused));
            assert_eq!(data, vec![9; length]);
        }
        used.write(&cpu, windows, bytes, &[]).unwrap();
        bench.memory.free_private(&cpu, windows, used);
        bench.check();
    }
    bench.assert_as_at_boot();
}

#[test]
fn the_host_reads_and_writes_a_guest_through_leaves_of_every_size() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.allow_large_guest_leaves(true);
    // Whole regions for 1 GiB and 10 MiB; the last 4 MiB are made of pieces.
    let whole = (GIB + 10 * MIB) / (2 * MIB);
    let regions = bench.memory.frames.carve(whole).unwrap();
    let held = bench.fragment(64);
    bench.memory.frames.uncarve(regions);
    let mut guest = bench.launch(2, GIB + 14 * MIB);
    assert!(bench.stats().pages_hidden >= 1024);
    let places = [
        0,
        GIB - 3,
        GIB + 2 * MIB - 1,
        GIB + 10 * MIB - 5,
        GIB + 12 * MIB + 4091,
    ];
    for (salt, at) in places.into_iter().enumerate() {
        let data: Vec<u8> = (0..10_000_u32).map(|byte| byte as u8 ^ salt as u8).collect();
        let mut back = vec![0; data.len()];
        let (memory, windows) = (&bench.memory, &mut bench.windows[0]);
        guest
            .write(&bench.cpu, &memory.frames, windows, Gpa::new(at), &data)
            .unwrap();
        guest
            .read(&bench.cpu, &memory.frames, windows, Gpa::new(at), &mut back)
            .unwrap();
        assert_eq!(back, data, "at {at:#x}");
    }
    // One window for all of a region, one for each page of a piece, beside which there is other memory.
    for (at, windows) in [(2 * MIB, 1), (GIB + 10 * MIB, 16)] {
        let before = bench.windows[0].invalidations();
        let mut data = vec![0; 16 * 4096];
        let frames = &bench.memory.frames;
        guest
            .read(&bench.cpu, frames, &mut bench.windows[0], Gpa::new(at), &mut data)
            .unwrap();
        assert_eq!(bench.windows[0].invalidations() - before, windows, "at {at:#x}");
    }
    // Past the end nothing is read and nothing written, not even what still lies inside.
    let (memory, windows) = (&bench.memory, &mut bench.windows[0]);
    for (start, bytes) in [(GIB + 14 * MIB - 4, 5), (GIB + 14 * MIB, 1), (u64::MAX, 2)] {
        let mut data = vec![7; bytes];
        let start = Gpa::new(start);
        let bytes = bytes as u64;
        let refused = NotGuestMemory { start, bytes };
        assert_eq!(
            guest.write(&bench.cpu, &memory.frames, windows, start, &data),
            Err(refused)
        );
        data.fill(9);
        assert_eq!(
            guest.read(&bench.cpu, &memory.frames, windows, start, &mut data),
            Err(refused)
        );
        assert!(data.iter().all(|byte| *byte == 9));
    }
    let mut last = [1; 4];
    let end = Gpa::new(GIB + 14 * MIB - 4);
    guest
        .read(&bench.cpu, &memory.frames, windows, end, &mut last)
        .unwrap();
    assert_eq!(last, [0; 4]);
    bench.check();
    bench.teardown(guest);
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn without_a_whole_region_memory_is_hidden_in_pieces_and_merged_back() {
    for largest in [Level::L2, Level::L3] {
        let mut board = Board::new(&[(0, GIB)], 2, largest);
        let mut bench = Bench::new(&mut board);
        let held = bench.fragment(200);
        let before = bench.stats();
        let guest = bench.launch(1, 8 * MIB);
        let split = bench.stats().level2_splits - before.level2_splits;
        // 312 frames are free in a block, in runs up to 256: eight blocks' largest runs.
        assert_eq!((split, bench.stats().flushes - before.flushes), (8, 1));
        assert_eq!(bench.stats().pages_hidden, 2048);
        let pieces: Vec<_> = guest.pieces(&bench.cpu, &bench.memory.frames).collect();
        assert_eq!(pieces.iter().map(|(_, order)| 1 << order).sum::<u64>(), 2048);
        for (pfn, order) in pieces {
            bench.assert_hidden(pfn, order);
        }
        assert_eq!(guest.regions(&bench.cpu, &bench.memory.frames).count(), 0);
        bench.teardown(guest);
        assert_eq!(bench.stats().level2_collapses, split);
        assert_eq!(bench.stats().pages_restored, 2048);
        held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
        bench.assert_as_at_boot();
        // Of whole regions there are no pieces.
        let guest = bench.launch(1, 2 * MIB);
        assert_eq!(guest.regions(&bench.cpu, &bench.memory.frames).count(), 1);
        assert_eq!(guest.pieces(&bench.cpu, &bench.memory.frames).count(), 0);
        bench.teardown(guest);
        bench.assert_as_at_boot();
    }
}

#[test]
fn small_requests_share_what_one_flush_has_hidden_in_pieces() {
    let mut board = Board::new(&[(0, GIB)], 2, Level::L3);
    let mut bench = Bench::new(&mut board);
    // Single frames only: every second one of each block is taken.
    let host = bench.fragment(512);
    let (odd, even): (Vec<_>, Vec<_>) = host.into_iter().partition(|frame| frame.pfn().get() % 2 == 1);
    even.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    assert!(matches!(bench.allocate(1), Err(PrivateError::OutOfMemory(error)) if error.wanted == 8192));
    let held: Vec<_> = (0..64).map(|_| bench.allocate(0).unwrap()).collect();
    assert_eq!(bench.stats().flushes, 2);
    // 64 frames, one 2M leaf and one 1G leaf that were split: nothing else was written.
    assert_eq!(bench.stats().direct_map_writes, 64 + 2);
    for extent in held {
        bench.free(extent);
    }
    odd.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// Half of a block is hidden, then the other half: all of it piece by piece, so it comes back piece by piece.
#[test]
fn a_block_that_was_hidden_in_two_halves_comes_back() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let (mut host, mut extents) = (bench.fragment(256), Vec::new());
    extents.push(bench.allocate(0).unwrap());
    let block = extents[0].pfn().region_number();
    host.extend(std::iter::from_fn(|| bench.memory.frames.allocate(8).ok()));
    for frame in host.extract_if(.., |frame| frame.pfn().region_number() == block) {
        bench.memory.frames.free(frame);
    }
    extents.push(bench.allocate(8).unwrap());
    assert_eq!(extents[1].pfn().region_number(), block);
    assert_eq!(
        (bench.stats().pages_hidden, bench.stats().level2_splits),
        (512, 1)
    );
    extents.into_iter().for_each(|extent| bench.free(extent));
    assert_eq!(
        (bench.stats().pages_restored, bench.stats().level2_collapses),
        (512, 1)
    );
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn a_single_frame_is_hidden_although_a_batch_would_leave_no_frame_for_its_tables() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut host = bench.fragment(512);
    // One to hide, one for each table: of 4K leaves, and of 2M leaves.
    for left in 0..6 {
        let refused = bench.allocate(0);
        match refused {
            Ok(extent) if left >= 3 => bench.free(extent),
            Err(PrivateError::OutOfMemory(_) | PrivateError::Hide(_)) if left < 3 => {}
            other => panic!("{left} frames: {other:?}"),
        }
        bench.drain();
        let frame = host.pop().unwrap();
        bench.memory.frames.free(frame);
    }
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let before = Snapshot::of(bench.machine, &bench.memory);
    assert_eq!(
        bench.allocate(19).unwrap_err(),
        PrivateError::TooLarge { order: 19 }
    );
    // Part of the one gigablock is in use since boot.
    let Err(PrivateError::OutOfMemory(error)) = bench.allocate(18) else {
        panic!("a gigablock was found")
    };
    assert_eq!(error.wanted, GIB);
    assert!(error.to_string().contains("1024 MiB wanted"), "{error}");
    assert_eq!(
        before.difference(&Snapshot::of(bench.machine, &bench.memory)),
        None
    );
}

/// Two users grow the pool by pieces of one block at the same time, and get their frames elsewhere: then all of the block is hidden and
/// free, in pieces, and no region.
#[test]
fn a_block_that_is_hidden_in_pieces_is_no_region() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let Bench {
        memory, cpu, windows, ..
    } = &mut bench;
    let windows = &mut windows[0];
    let mut singles: Vec<_> = (0..512)
        .map(|_| memory.allocate_private(cpu, windows, 0).unwrap())
        .collect();
    // No other region is free than the next to be broken up, and elsewhere what tables need.
    let spare = memory.frames.allocate(3).unwrap();
    let mut odd = Vec::new();
    while memory.frames.free_frames() > 512 * memory.frames.free_regions() {
        odd.push(memory.frames.allocate(0).unwrap());
    }
    let half = memory.frames.allocate(8).unwrap();
    let regions = memory.frames.carve(memory.frames.free_regions()).unwrap();
    memory.frames.free(spare);
    memory.set_watermarks(Watermarks { low: 0, high: 0 });
    let first = memory.grow(cpu, 0).unwrap().wait(cpu);
    memory.frames.free(half);
    let second = memory.grow(cpu, 0).unwrap().wait(cpu);
    for _ in 0..2 {
        memory.free_private(cpu, windows, singles.pop().unwrap().used());
    }
    for grown in [first, second] {
        singles.push(grown.finish(memory, cpu, windows));
    }
    assert_eq!(memory.frames.pool_free_frames(), 512);
    assert!(memory.take_private(9).is_none());
    memory.frames.uncarve(regions);
    for single in singles {
        memory.free_private(cpu, windows, single.used());
    }
    let restored = memory.drain(cpu).wait(cpu);
    restored.release(memory, cpu);
    odd.into_iter().for_each(|frames| memory.frames.free(frames));
    bench.check();
    bench.assert_as_at_boot();
}

/// Takes all of the host's memory and gives back the frames that are meant, by block and place in it, each time it is called.
fn hold<'b>(bench: &mut Bench<'b>) -> impl FnMut(&mut Bench<'b>, &dyn Fn(u64, u64) -> bool) + use<'b> {
    bench.memory.set_watermarks(Watermarks::default());
    let mut held: Vec<_> = std::iter::from_fn(|| bench.memory.frames.allocate(0).ok()).collect();
    move |bench, is_meant| {
        for frame in held.extract_if(.., |frame| {
            is_meant(frame.pfn().get() / 512, frame.pfn().get() % 512)
        }) {
            bench.memory.frames.free(frame);
        }
    }
}

/// Of two blocks' pieces, which were hidden together, one is used; then more of the other block is hidden, and used.
#[test]
fn more_of_a_block_is_hidden_of_which_nothing_is_used() {
    let mut board = Board::new(&[(0, 64 * MIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut free = hold(&mut bench);
    // Sixteen frames of each, and single frames for tables.
    free(&mut bench, &|block, frame| {
        block == 20 && frame % 2 == 0 || (8..10).contains(&block) && frame < 16
    });
    let one = bench.allocate(0).unwrap();
    assert_eq!((bench.stats().pages_hidden, bench.stats().flushes), (32, 1));
    let other = 17 - one.pfn().region_number();
    free(&mut bench, &|block, frame| {
        block == other && (32..64).contains(&frame)
    });
    let more = bench.allocate(5).unwrap();
    assert_eq!(more.pfn().region_number(), other);
    assert_eq!(bench.memory.frames.pool_free_frames(), 15 + 16);
    // Nothing is unused now, and so nothing can be given back.
    assert_eq!(bench.memory.shrink(&bench.cpu, 1), 0);
    bench.free(one);
    bench.free(more);
    free(&mut bench, &|_, _| true);
    bench.assert_as_at_boot();
}

/// A guest's pieces of a block are on their way back to the host when others of the block are hidden, used, and put into the pool.
#[test]
fn a_block_is_unused_when_the_last_that_leave_it_are_restored() {
    let mut board = Board::new(&[(0, 64 * MIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut free = hold(&mut bench);
    free(&mut bench, &|block, frame| {
        block == 20 && frame % 2 == 0 || (8..10).contains(&block) && frame < 256
    });
    let guest = bench.launch(2, 2 * MIB);
    let (cpu, id) = (bench.cpu, guest.id());
    let mut teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
    bench.machine.guest_flushed(id);
    // The guest's two pieces are scrubbed, and each leaves the pool.
    for _ in 0..3 {
        assert!(teardown.step(&mut bench.memory, &cpu, &mut bench.windows[0]));
    }
    assert_eq!(bench.stats().pages_restored, 0);
    free(&mut bench, &|block, frame| {
        block == 8 && (256..288).contains(&frame)
    });
    let other = bench.allocate(5).unwrap();
    assert_eq!(other.pfn().region_number(), 8);
    bench.free(other);
    assert_eq!(bench.memory.frames.pool_free_frames(), 32);
    assert_eq!(
        bench.memory.shrink(&cpu, 1),
        0,
        "256 frames of the block are not in the pool"
    );
    let (memory, windows) = (&mut bench.memory, &mut bench.windows[0]);
    while teardown.step(memory, &cpu, windows) {}
    bench.machine.guest_ends(id);
    let restored = teardown.finish(memory, &cpu, windows);
    restored.wait(&cpu).release(memory, &cpu);
    assert_eq!((memory.stats().pages_restored, memory.shrink(&cpu, 1)), (512, 1));
    free(&mut bench, &|_, _| true);
    bench.assert_as_at_boot();
}

#[test]
fn quarantined_memory_stays_out_of_use() {
    let mut board = Board::new(&[(0, GIB)], 2, Level::L3);
    let mut bench = Bench::new(&mut board);
    let guest = bench.launch(1, 6 * MIB);
    let regions: Vec<_> = guest.regions(&bench.cpu, &bench.memory.frames).collect();
    let id = guest.id();
    assert_eq!(guest.quarantine(&mut bench.memory, &bench.cpu), 6 * MIB);
    // No vCPU of it runs any more. What its old translations lead to stays as it is, which is what quarantine is for.
    bench.machine.guest_ends(id);
    assert_eq!(bench.stats().frames_quarantined, 3 * 512);
    bench.drain();
    for pfn in regions {
        assert!(matches!(
            bench.memory.frames.state(pfn),
            FrameState::Quarantined { .. }
        ));
        bench.assert_hidden(pfn, REGION);
    }
}

#[test]
fn quarantined_pieces_are_counted_like_regions() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let regions = bench.memory.frames.carve(2).unwrap();
    let _held = bench.fragment(200);
    bench.memory.frames.uncarve(regions);
    let guest = bench.launch(1, 8 * MIB);
    assert_eq!(bench.stats().pages_hidden, 1024);
    assert_eq!(guest.quarantine(&mut bench.memory, &bench.cpu), 8 * MIB);
    assert_eq!(bench.stats().frames_quarantined, 2048);
    let quarantined: u64 = (0..)
        .zip(bench.memory.view().quarantined)
        .map(|(order, count)| count << order)
        .sum();
    assert_eq!(quarantined, 2048);
}

/// Two and a half gigablocks: a step scrubs a region or fills one table, so that nobody holds a lock for longer.
#[test]
fn a_launch_maps_one_table_at_a_step() {
    let mut board = Board::new(&[(0, 4 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    let id = GuestId::new(1).unwrap();
    let hiding = memory
        .launch(cpu, SecondStageKind::Nested, id, 2 * GIB + 512 * MIB)
        .unwrap();
    let mut launching = hiding.wait(cpu);
    let mut steps = 0;
    while launching.step(memory, cpu, &mut bench.windows[0]) {
        steps += 1;
    }
    // The batch, the regions, the tables.
    assert_eq!(steps, 1 + 1280 + 3);
    let guest = launching.finish(memory, cpu, &mut bench.windows[0]);
    bench.teardown(guest);
    bench.assert_as_at_boot();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Requests of all sizes in any order, with a cache that changes, and shrinking in between.
    #[test]
    fn any_order_of_requests_leaves_no_trace(
        steps in prop::collection::vec((0_u8..=12, any::<u16>()), 1..80),
        largest in prop::sample::select(vec![Level::L2, Level::L3]),
        fragmented in any::<bool>(),
    ) {
        let mut board = Board::new(&[(0, GIB + 64 * MIB)], 2, largest);
        let mut bench = Bench::new(&mut board);
        let host = if fragmented { bench.fragment(300) } else { Vec::new() };
        let mut held: Vec<Extent<Clean>> = Vec::new();
        for (order, pick) in steps {
            match pick % 16 {
                0..8 => match bench.allocate(order) {
                    Ok(extent) => {
                        bench.assert_hidden(extent.pfn(), extent.order());
                        held.push(extent);
                    }
                    Err(error) => prop_assert!(fragmented, "{}", error),
                },
                8..14 if !held.is_empty() => {
                    let extent = held.swap_remove(usize::from(pick) % held.len());
                    bench.free(extent);
                }
                14 => bench.memory.set_cache(u64::from(pick >> 4) % 8),
                15 => { bench.memory.shrink(&bench.cpu, u64::from(pick >> 4) % 3); bench.check(); }
                _ => {}
            }
        }
        for extent in held {
            bench.free(extent);
        }
        host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
        bench.assert_as_at_boot();
    }
}

/// A region in the cache, and what is left of one of which a frame is used; in the blocks of a guest there is nothing that nobody has.
#[test]
fn what_nobody_uses_is_visited() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let unused = |bench: &Bench<'_>| {
        let mut frames = Vec::new();
        bench
            .memory
            .each_unused(|pfn, order| frames.extend((0..1 << order).map(|frame| pfn.get() + frame)));
        frames.sort_unstable();
        frames
    };
    assert_eq!(unused(&bench), []);
    let guest = bench.launch(1, 4 * MIB);
    bench.memory.set_cache(1);
    let (used, region) = (bench.allocate(0).unwrap(), bench.allocate(REGION).unwrap());
    let (one, cached) = (used.pfn().get(), region.pfn().get());
    bench.free(region);
    let mut expected: Vec<_> = (cached..cached + 512).collect();
    let first = one & !511;
    expected.extend((first..first + 512).filter(|frame| *frame != one));
    expected.sort_unstable();
    assert!(unused(&bench) == expected, "other frames are unused");
    bench.free(used);
    bench.teardown(guest);
    bench.assert_as_at_boot();
}

#[test]
fn the_view_counts_what_there_is() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let empty = bench.memory.view();
    let sum = |counts: &[u64]| -> u64 {
        counts
            .iter()
            .enumerate()
            .map(|(order, count)| count << order)
            .sum()
    };
    assert_eq!(sum(&empty.host_free), bench.memory.frames.free_frames());
    assert_eq!(empty.host_free[18], 2);
    bench.memory.set_cache(8);
    let (small, large) = (bench.allocate(7).unwrap(), bench.allocate(11).unwrap());
    let guest = bench.launch(1, GIB + 8 * MIB);
    bench.free(large);
    let view = bench.memory.view();
    assert_eq!((view.private[18], view.private[11]), (1, 1));
    assert_eq!((view.hidden[7], view.hidden[11], view.cached_regions), (1, 1, 4));
    // 512 frames less 128: one run of 256 and one of 128.
    assert_eq!((view.pool_free[8], view.pool_free[7]), (1, 1));
    assert_eq!((view.shared_regions, view.torn_blocks), ([1, 0, 0, 0, 0], 0));
    assert_eq!((view.holes, view.broken_gigablocks), (512 + 4 + 4 + 1, 2));
    let all: u64 = view.kinds().into_iter().map(|(_, counts)| sum(counts)).sum();
    // What is in use since boot is in no row.
    assert_eq!(all, bench.boot.1);
    bench.teardown(guest);
    let more = bench.allocate(8).unwrap();
    assert_eq!(bench.memory.view().shared_regions, [0, 0, 1, 0, 0]);
    bench.free(more);
    bench.free(small);
    bench.assert_as_at_boot();
    assert_eq!(bench.memory.view(), empty);
}

#[test]
fn the_view_counts_blocks_of_which_pieces_are_hidden() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let host = bench.fragment(200);
    let extent = bench.allocate(3).unwrap();
    let view = bench.memory.view();
    assert_eq!((view.shared_regions, view.torn_blocks), ([0; 5], 1));
    assert_eq!(view.hidden[3], 1);
    bench.free(extent);
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
    assert_eq!(bench.memory.view().torn_blocks, 0);
}
