//! The cache of hidden memory, the watermarks and the shrinker, on the model machine: what is kept, and what the host gets back when.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::Level;
use memory::frame::GuestId;
use memory::frame::extent::{Clean, Extent};
use memory::guest::{LaunchError, SecondStageKind};
use memory::region::{PrivateError, Watermarks};
use model_machine::bench::{GIGABLOCK, REGION, small_machine};
use model_machine::{Bench, Board};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn shrinking_gives_as_many_regions_as_were_asked_for() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(9);
    let extents =
        [REGION, REGION, REGION, REGION + 1, REGION + 2].map(|order| bench.allocate(order).unwrap());
    extents.into_iter().for_each(|extent| bench.free(extent));
    assert_eq!(bench.memory.pool().cached_regions(), 9);
    for (asked, left) in [(0, 9), (1, 8), (3, 5), (4, 1), (4, 0)] {
        let before = bench.memory.pool().cached_regions();
        assert_eq!(bench.memory.shrink(&bench.cpu, asked), before - left);
        bench.check();
        assert_eq!(bench.memory.pool().cached_regions(), left);
    }
    assert_eq!(bench.stats().regions_shrunk, 9);
    bench.assert_as_at_boot();
}

/// One entry hides a gigablock in the cache, so one brings it back; to cut it up takes a table, and where there is none it stays whole.
#[test]
fn a_cached_gigablock_is_cut_up_only_if_it_must_and_can() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(512);
    for without_memory in [false, true] {
        let whole = bench.allocate(GIGABLOCK).unwrap();
        bench.free(whole);
        let writes = bench.stats().direct_map_writes;
        let host = if without_memory {
            bench.take_all_of_the_host()
        } else {
            Vec::new()
        };
        if without_memory {
            assert!(matches!(
                bench.allocate(REGION),
                Err(PrivateError::OutOfMemory(_))
            ));
            assert_eq!(bench.memory.pool().cached_regions(), 512);
        }
        let asked = if without_memory { 1 } else { 512 };
        assert_eq!(bench.memory.shrink(&bench.cpu, asked), 512);
        assert_eq!(bench.stats().direct_map_writes, writes + 1);
        bench.check();
        host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    }
    bench.assert_as_at_boot();
}

/// What is in the cache is cut up no more than it must be, and for a gigablock that is asked for whole no table is needed.
#[test]
fn what_is_cached_is_cut_up_no_more_than_it_must() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(600);
    for (order, regions, orders) in [
        (REGION + 2, 4, vec![REGION + 2]),
        (REGION + 2, 3, vec![REGION + 1, REGION]),
        (REGION + 3, 2, vec![REGION + 1]),
    ] {
        let extent = bench.allocate(order).unwrap();
        bench.free(extent);
        let hits = bench.stats().cache_hits;
        let guest = bench.launch(1, regions * 2 * MIB);
        assert_eq!(bench.stats().cache_hits, hits + regions);
        let private = bench.memory.view().private;
        let of_guest: Vec<u8> = (0..=GIGABLOCK)
            .rev()
            .flat_map(|order| vec![order; private[usize::from(order)] as usize])
            .collect();
        assert_eq!(of_guest, orders);
        bench.teardown(guest);
        bench.drain();
    }
    let whole = bench.allocate(GIGABLOCK).unwrap();
    bench.free(whole);
    // For the guest's two tables, and none to cut up what is cached.
    bench.memory.allow_large_guest_leaves(true);
    let mut host = bench.take_all_of_the_host();
    for frame in host.split_off(host.len() - 2) {
        bench.memory.frames.free(frame);
    }
    assert_eq!(bench.memory.frames.free_frames(), 2);
    let hits = bench.stats().cache_hits;
    let guest = bench.launch(1, GIB);
    assert_eq!(bench.stats().cache_hits, hits + 512);
    bench.teardown(guest);
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// What a refused launch had taken from the cache is there again, and counted as never taken.
#[test]
fn a_refused_launch_puts_back_what_was_cached() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(5);
    let extents = [REGION + 1, REGION + 1, REGION].map(|order| bench.allocate(order).unwrap());
    extents.into_iter().for_each(|extent| bench.free(extent));
    let region = bench.allocate(REGION).unwrap();
    let (cached, hits) = (bench.memory.pool().cached_regions(), bench.stats().cache_hits);
    assert!(cached >= 3 && hits > 0, "{cached}, {hits}");
    let host = bench.take_all_of_the_host();
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    let refused = memory.launch(cpu, SecondStageKind::Nested, GuestId::new(1).unwrap(), 40 * MIB);
    assert!(matches!(refused, Err(LaunchError::OutOfMemory(_))));
    assert_eq!(memory.pool().cached_regions(), cached);
    assert_eq!(
        (memory.stats().cache_hits, memory.stats().regions_shrunk),
        (hits, 0)
    );
    host.into_iter().for_each(|frame| memory.frames.free(frame));
    bench.free(region);
    bench.assert_as_at_boot();
}

#[test]
fn a_high_watermark_below_the_low_one_counts_as_the_low_one() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    // A 256th of 3 GiB, and twice that.
    let usual = Watermarks {
        low: 3 << 10,
        high: 6 << 10,
    };
    assert_eq!(bench.memory.pool().watermarks(), usual);
    for (low, high, then) in [(5, 9, 9), (9, 5, 9), (7, 7, 7)] {
        bench.memory.set_watermarks(Watermarks { low, high });
        assert_eq!(bench.memory.pool().watermarks(), Watermarks { low, high: then });
    }
    assert_eq!(Watermarks::for_frames(0), Watermarks { low: 256, high: 512 });
}

/// Several that need a frame at the same time hide a run each; all frames come from the first run, and nobody uses the others.
fn with_runs_that_nobody_uses<const N: usize>(bench: &mut Bench<'_>) -> Vec<Extent<Clean>> {
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    let growing = [(); N].map(|()| memory.grow(cpu, 0).unwrap());
    let taken = growing.map(|growing| growing.wait(cpu).finish(memory, cpu, &mut bench.windows[0]));
    let block = taken[0].pfn().region_number();
    assert!(taken.iter().all(|frame| frame.pfn().region_number() == block));
    bench.check();
    let stats = bench.stats();
    assert_eq!(
        (stats.level2_splits, stats.pages_hidden),
        (N as u64, 256 * N as u64)
    );
    taken.into()
}

#[test]
fn the_shrinker_gives_back_what_was_hidden_in_pieces_and_is_not_used() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let host = bench.fragment(200);
    let taken = with_runs_that_nobody_uses::<2>(&mut bench);
    let free = bench.memory.frames.free_frames();
    assert_eq!(bench.memory.shrink(&bench.cpu, 0), 0);
    // Its leaf is whole again; in the other block two frames are in use.
    assert_eq!(bench.memory.shrink(&bench.cpu, 8), 1);
    bench.check();
    assert_eq!(bench.memory.frames.free_frames(), free + 256);
    assert_eq!(
        (bench.stats().level2_collapses, bench.stats().regions_shrunk),
        (1, 1)
    );
    assert_eq!(bench.memory.shrink(&bench.cpu, 8), 0);
    taken.into_iter().for_each(|extent| bench.free(extent));
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn the_host_gets_the_pieces_that_nobody_uses_before_it_is_refused() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut host = bench.fragment(200);
    let taken = with_runs_that_nobody_uses::<2>(&mut bench);
    host.extend(std::iter::from_fn(|| bench.memory.frames.allocate(8).ok()));
    let last = bench.memory.allocate(&bench.cpu, 8);
    host.push(last.expect("a run of 256 frames is hidden, and nobody uses it"));
    bench.check();
    assert!(bench.memory.allocate(&bench.cpu, 8).is_err());
    taken.into_iter().for_each(|extent| bench.free(extent));
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// Low memory, and nothing cached: pieces lift it, too.
#[test]
fn low_memory_brings_back_the_pieces_that_nobody_uses() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut host = bench.fragment(200);
    let taken = with_runs_that_nobody_uses::<2>(&mut bench);
    let free = bench.memory.frames.free_frames();
    bench.memory.set_watermarks(Watermarks {
        low: free + 1,
        high: free + 2,
    });
    // There is no whole region, but who wants one looks at the marks.
    assert!(bench.allocate(REGION).is_err());
    assert_eq!(bench.memory.frames.free_frames(), free + 256);
    bench.memory.set_watermarks(Watermarks::default());
    taken.into_iter().for_each(|extent| bench.free(extent));
    host.drain(..).for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// A block of pieces may be less than a region: then it takes several until free memory is at the high mark.
#[test]
fn low_memory_brings_back_blocks_until_the_high_mark() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut host = bench.fragment(200);
    let taken = with_runs_that_nobody_uses::<4>(&mut bench);
    let free = bench.memory.frames.free_frames();
    bench.memory.set_watermarks(Watermarks {
        low: free + 1,
        high: free + 512,
    });
    assert!(bench.allocate(REGION).is_err());
    assert_eq!(bench.memory.frames.free_frames(), free + 512);
    bench.memory.set_watermarks(Watermarks::default());
    taken.into_iter().for_each(|extent| bench.free(extent));
    host.drain(..).for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// Memory is low, but there are frames outside of whole regions, so no region is broken up, and nobody looks.
#[test]
fn frames_that_are_at_hand_cost_no_look_at_the_cache() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(4);
    let extent = bench.allocate(REGION + 2).unwrap();
    bench.free(extent);
    let first = bench.memory.frames.allocate(0).unwrap();
    let free = bench.memory.frames.free_frames();
    bench.memory.set_watermarks(Watermarks {
        low: free + 1,
        high: free + 512,
    });
    let held = [0, 3, 5].map(|order| bench.memory.allocate(&bench.cpu, order).unwrap());
    assert_eq!(bench.memory.pool().cached_regions(), 4);
    // A whole region is one: whoever takes it looks.
    let region = bench.memory.allocate(&bench.cpu, REGION).unwrap();
    assert!(bench.memory.pool().cached_regions() < 4);
    bench.memory.set_watermarks(Watermarks::default());
    for frames in held.into_iter().chain([first, region]) {
        bench.memory.frames.free(frames);
    }
    bench.assert_as_at_boot();
}

/// However large the cache is: a gigablock's worth at a time, until the host has what it wants.
#[test]
fn the_host_is_given_no_more_of_the_cache_than_it_needs() {
    let mut board = Board::new(&[(0, 4 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(3 * 512);
    let held = [GIGABLOCK; 3].map(|order| bench.allocate(order).unwrap());
    held.into_iter().for_each(|extent| bench.free(extent));
    let mut host = bench.take_all_of_the_host();
    host.push(bench.memory.allocate(&bench.cpu, 3).unwrap());
    bench.check();
    assert_eq!(bench.memory.pool().cached_regions(), 2 * 512);
    host.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn pieces_leave_the_host_what_the_low_watermark_keeps() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let held = bench.fragment(256);
    let free = bench.memory.frames.free_frames();
    bench.memory.set_watermarks(Watermarks {
        low: free - 100,
        high: free,
    });
    assert!(matches!(bench.allocate(7), Err(PrivateError::OutOfMemory(_))));
    let extent = bench.allocate(6).unwrap();
    assert!(bench.memory.frames.free_frames() >= free - 100 - 2);
    bench.free(extent);
    bench.drain();
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    let refused = memory.launch(cpu, SecondStageKind::Nested, GuestId::new(1).unwrap(), 2 * MIB);
    assert!(matches!(refused, Err(LaunchError::OutOfMemory(_))));
    assert_eq!(memory.frames.free_frames(), free);
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn a_cached_region_is_used_again_without_a_flush_and_drained_at_the_end() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(40);
    let guest = bench.launch(1, 64 * MIB);
    bench.teardown(guest);
    assert_eq!(bench.memory.pool().cached_regions(), 32);
    let after_first = bench.stats();
    for number in 2..10 {
        let guest = bench.launch(number, 64 * MIB);
        bench.teardown(guest);
    }
    let now = bench.stats();
    assert_eq!(now.flushes, after_first.flushes);
    assert_eq!(now.direct_map_writes, after_first.direct_map_writes);
    assert_eq!(now.cache_hits, 8 * 32);
    // The cache keeps no more than it may, whatever the pieces that come.
    for (kept, size) in [(33, 33), (20, 20), (7, 7)] {
        bench.drain();
        bench.memory.set_cache(kept);
        let guest = bench.launch(20, 64 * MIB);
        bench.teardown(guest);
        assert_eq!(bench.memory.pool().cached_regions(), size.min(32));
    }
    bench.drain();
    bench.memory.set_cache(40);
    let guest = bench.launch(9, 64 * MIB);
    bench.teardown(guest);
    let hidden = bench.stats().regions_hidden;
    // A larger guest takes what is there.
    let guest = bench.launch(10, 128 * MIB);
    assert_eq!(bench.stats().regions_hidden, hidden + 32);
    bench.teardown(guest);
    assert_eq!(bench.memory.pool().cached_regions(), 40);
    bench.assert_as_at_boot();
}

#[test]
fn a_cached_gigablock_is_cut_up_when_less_is_asked_for() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(600);
    let whole = bench.allocate(GIGABLOCK).unwrap();
    bench.free(whole);
    assert_eq!(bench.memory.pool().cached_regions(), 512);
    let writes = bench.stats().direct_map_writes;
    let (region, small) = (bench.allocate(REGION).unwrap(), bench.allocate(4).unwrap());
    assert_eq!(bench.stats().direct_map_writes, writes);
    bench.drain();
    bench.assert_hidden(region.pfn(), REGION);
    bench.memory.set_cache(0);
    bench.free(region);
    bench.free(small);
    bench.assert_as_at_boot();
}

#[test]
fn low_memory_empties_the_cache_up_to_the_high_mark_and_no_further() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(100);
    let guest = bench.launch(1, 200 * MIB);
    bench.teardown(guest);
    assert_eq!(bench.memory.pool().cached_regions(), 100);
    let free = bench.memory.frames.free_frames();
    bench.memory.set_watermarks(Watermarks {
        low: free - 10 * 512,
        high: free - 5 * 512,
    });
    // The host takes 4K frames. It pays nothing until a region is broken up while free memory is low.
    let mut held = Vec::new();
    let mut shrunk_at = Vec::new();
    for _ in 0..30 * 512 {
        let before = bench.stats().regions_shrunk;
        held.push(bench.memory.allocate(&bench.cpu, 0).unwrap());
        if bench.stats().regions_shrunk > before {
            shrunk_at.push((held.len() as u64, bench.stats().regions_shrunk - before));
        }
    }
    bench.check();
    // Once for each six regions that went: the gap between the marks, and what breaking up one more takes.
    assert!(shrunk_at.len() >= 3 && shrunk_at.len() <= 5, "{shrunk_at:?}");
    assert!(
        shrunk_at.iter().all(|(_, regions)| (5..=7).contains(regions)),
        "{shrunk_at:?}"
    );
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

#[test]
fn the_host_gets_cached_memory_rather_than_an_error() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(10_000);
    let all = bench.memory.frames.free_regions() * 2 * MIB;
    let guest = bench.launch(1, all);
    bench.teardown(guest);
    assert_eq!(bench.memory.frames.free_regions(), 0);
    let extent = bench.memory.allocate(&bench.cpu, 12).unwrap();
    bench.memory.frames.free(extent);
    bench.assert_as_at_boot();
}

/// The low watermark is what the host keeps beside the whole regions that a guest takes.
#[test]
fn a_guest_of_regions_and_pieces_leaves_the_host_its_watermark() {
    let mut board = Board::new(&[(0, GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let regions = bench.memory.frames.carve(3).unwrap();
    let held = bench.fragment(200);
    bench.memory.frames.uncarve(regions);
    let outside = bench.memory.frames.free_frames() - 3 * 512;
    let id = GuestId::new(1).unwrap();
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    for (spare, granted) in [(1023, false), (1024, true)] {
        let low = outside - spare;
        memory.set_watermarks(Watermarks { low, high: low });
        let launch = memory.launch(cpu, SecondStageKind::Nested, id, 10 * MIB);
        assert_eq!(launch.is_ok(), granted, "{spare}");
        if let Ok(hiding) = launch {
            let guest = hiding.wait(cpu).finish(memory, cpu, &mut bench.windows[0]);
            bench.teardown(guest);
            break;
        }
    }
    held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
    bench.assert_as_at_boot();
}

/// The cache is given back below the low watermark, and not at it.
#[test]
fn at_the_low_watermark_itself_nothing_is_given_back() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    bench.memory.set_cache(1);
    let region = bench.allocate(REGION).unwrap();
    bench.free(region);
    for (more, left) in [(0, 1), (1, 0)] {
        let low = bench.memory.frames.free_frames() + more;
        let high = low + 512;
        bench.memory.set_watermarks(Watermarks { low, high });
        let frames = bench.memory.allocate(&bench.cpu, REGION).unwrap();
        assert_eq!(bench.memory.pool().cached_regions(), left, "{more} missing");
        bench.memory.frames.free(frames);
    }
    bench.assert_as_at_boot();
}
