//! Memory is low: the hidden frames that are kept for pages which guests share or have given back serve others, and other frames come for those
//! pages when they are private again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gfn, Gpa, Level, PAGE_SIZE, Pfn, REGION_ORDER};
use memory::direct_map::HideCause;
use memory::frame::{HostFrames, OutOfMemory};
use memory::guest::{Change, ChangeError, GuestMemory, Kept, PageState, Progress, SecondStageKind};
use memory::region::{PrivateError, Watermarks};
use model_machine::{Bench, Board};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const REGION: u64 = 2 * MIB;

/// Every other page of 2 MiB.
fn odd_pages(bench: &mut Bench<'_>, guest: &mut GuestMemory, change: Change, region: u64) {
    for page in (PAGE_SIZE..REGION).step_by(2 * PAGE_SIZE as usize) {
        bench.change(guest, change, region + page, PAGE_SIZE).unwrap();
    }
}

fn write(bench: &mut Bench<'_>, guest: &mut GuestMemory, at: u64, bytes: &[u8]) {
    let (frames, windows) = (&bench.memory.frames, &mut bench.windows[0]);
    guest
        .write(&bench.cpu, frames, windows, Gpa::new(at), bytes)
        .unwrap();
}

/// A page of what the guest has accepted.
fn read(bench: &mut Bench<'_>, guest: &GuestMemory, at: u64) -> [u8; PAGE_SIZE as usize] {
    let mut found = [1; PAGE_SIZE as usize];
    let (frames, windows) = (&bench.memory.frames, &mut bench.windows[0]);
    guest
        .read(&bench.cpu, frames, windows, Gpa::new(at), &mut found)
        .unwrap();
    found
}

/// The guest ends, and all is as it was at boot.
fn end(mut bench: Bench<'_>, guest: GuestMemory) {
    bench.teardown(guest);
    bench.assert_as_at_boot();
}

/// The host gives everything that is free away, but for some whole regions.
fn leave(bench: &mut Bench<'_>, regions: u64) -> Vec<HostFrames> {
    let mut held = bench.take_all_of_the_host();
    for _ in 0..regions {
        let at = held.iter().position(|frames| frames.order() == REGION_ORDER);
        bench.memory.frames.free(held.swap_remove(at.unwrap()));
    }
    held
}

fn board(bytes: u64) -> Board {
    Board::new(&[(0, bytes)], 1, Level::L3)
}

/// Where nothing of 2 MiB is in use, the region is the host's again; when the pages are private again, they have one, and one leaf.
#[test]
fn whole_regions_go_back_to_the_host_and_others_come() {
    for cache in [0, 4] {
        let mut board = board(128 * MIB);
        let mut bench = Bench::new(&mut board);
        bench.memory.set_cache(cache);
        let mut guest = bench.launch(1, 16 * MIB);
        write(&mut bench, &mut guest, 4 * MIB, &[7; 64]);
        bench
            .change(&mut guest, Change::Share, 4 * MIB, 2 * REGION)
            .unwrap();
        // 2 MiB in pages, and 2 MiB of which one page stays private.
        for page in 0..512 {
            bench
                .change(&mut guest, Change::Share, 8 * MIB + page * PAGE_SIZE, PAGE_SIZE)
                .unwrap();
        }
        bench
            .change(&mut guest, Change::Share, 10 * MIB, REGION - PAGE_SIZE)
            .unwrap();
        let (hidden, free) = (bench.holes(), bench.memory.frames.free_frames());

        assert_eq!(bench.take_kept(&mut guest, Kept::Regions), 3 * 512);
        assert_eq!(bench.take_kept(&mut guest, Kept::Regions), 0);
        let kept = bench.memory.pool().cached_regions();
        assert_eq!(kept, cache.min(3));
        assert_eq!(bench.holes(), hidden - 3 + kept);
        assert_eq!(bench.memory.frames.free_frames(), free + (3 - kept) * 512);
        for at in [4 * MIB, 6 * MIB, 8 * MIB, 10 * MIB] {
            assert_eq!(bench.state(&guest, at), PageState::Shared);
        }
        let large = guest.bytes_in_large_leaves(&bench.cpu);

        let flushes = bench.stats().flushes;
        for change in [Change::Unshare, Change::Accept] {
            bench.change(&mut guest, change, 4 * MIB, 3 * REGION).unwrap();
        }
        assert_eq!(read(&mut bench, &guest, 4 * MIB), [0; 4096]);
        assert_eq!(read(&mut bench, &guest, 10 * MIB - PAGE_SIZE), [0; 4096]);
        assert_eq!(guest.bytes_in_large_leaves(&bench.cpu), large + 3 * REGION);
        let stats = bench.stats();
        assert_eq!((stats.frames_supplied, stats.regions_taken_again), (0, 3));
        assert!(
            stats.flushes <= flushes + 1,
            "one flush of the direct map for all"
        );
        bench.memory.set_cache(0);
        end(bench, guest);
    }
}

/// Single frames serve those who want hidden memory; the page gets another one, from the magazine, and its neighbours keep theirs.
#[test]
fn single_frames_go_to_the_pool_and_others_come_from_the_magazine() {
    for back in [Change::Unshare, Change::TakeAgain] {
        let change = if back == Change::Unshare {
            Change::Share
        } else {
            Change::GiveBack
        };
        let mut board = board(128 * MIB);
        let mut bench = Bench::new(&mut board);
        let mut guest = bench.launch(2, 8 * MIB);
        for page in 0..512 {
            write(
                &mut bench,
                &mut guest,
                2 * MIB + page * PAGE_SIZE,
                &page.to_le_bytes(),
            );
        }
        odd_pages(&mut bench, &mut guest, change, 2 * MIB);
        assert_eq!(
            bench.take_kept(&mut guest, Kept::Regions),
            0,
            "the others are in use"
        );
        assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 256);
        assert_eq!(bench.memory.frames.pool_free_frames(), 256);
        // Somebody else has them.
        let others: Vec<_> = (0..256).map(|_| bench.allocate(0).unwrap()).collect();
        let flushes = bench.stats().flushes;
        odd_pages(&mut bench, &mut guest, back, 2 * MIB);
        assert_eq!(bench.stats().flushes, flushes + 1, "one for 256 pages");
        odd_pages(&mut bench, &mut guest, Change::Accept, 2 * MIB);
        for page in 0..512_u64 {
            let expected = if page % 2 == 0 { page } else { 0 };
            let found = read(&mut bench, &guest, 2 * MIB + page * PAGE_SIZE);
            assert_eq!(found[..8], expected.to_le_bytes(), "page {page}");
            assert_eq!(found[8..], [0; 4088]);
        }
        let stats = bench.stats();
        assert_eq!((stats.kept_frames_taken, stats.frames_supplied), (256, 256));
        assert_eq!(stats.promotions_blocked.address, 1);
        others.into_iter().for_each(|extent| bench.free(extent));
        end(bench, guest);
    }
}

/// What was taken and is free still comes back first, so the 2M leaf may come back as well.
#[test]
fn frames_that_come_back_in_their_places_are_one_leaf_again() {
    let mut board = board(128 * MIB);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, 4 * MIB);
    bench
        .change(&mut guest, Change::Share, PAGE_SIZE, PAGE_SIZE)
        .unwrap();
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 1);
    for change in [Change::Unshare, Change::Accept] {
        bench.change(&mut guest, change, PAGE_SIZE, PAGE_SIZE).unwrap();
    }
    assert_eq!(guest.bytes_in_large_leaves(&bench.cpu), 4 * MIB);
    // And the region, which is single frames in the records, is shared, taken and torn down like any other.
    bench.change(&mut guest, Change::Share, 0, REGION).unwrap();
    assert_eq!(bench.take_kept(&mut guest, Kept::Regions), 512);
    assert_eq!(bench.holes(), 1);
    end(bench, guest);
}

/// Another page's kept frame is not taken while the guest changes its memory: what is kept then may not be zeroed yet.
#[test]
fn nothing_is_taken_in_the_middle_of_a_change() {
    let mut board = board(128 * MIB);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, 4 * MIB);
    bench.change(&mut guest, Change::Share, 0, REGION).unwrap();
    guest.begin(Change::Share, Gpa::new(REGION), REGION).unwrap();
    loop {
        assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 0);
        if let Progress::Done(result) = bench.step(&mut guest) {
            break result.unwrap();
        }
    }
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 1024);
    end(bench, guest);
}

/// A guest in one leaf of 1G, hidden by one entry: a part of it can only be the host's again with a table for the rest.
#[test]
fn a_gigablock_is_cut_up_only_with_a_table_for_it() {
    let mut board = Board::new(&[(0, 3 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    bench.memory.allow_large_guest_leaves(true);
    let mut guest = bench.launch(2, GIB);
    assert_eq!(bench.stats().gigablocks_hidden, 1);
    bench.change(&mut guest, Change::Share, 6 * MIB, REGION).unwrap();
    let held = leave(&mut bench, 0);
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 0, "there is no table");
    held.into_iter()
        .for_each(|frames| bench.memory.frames.free(frames));
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 512);
    assert_eq!(bench.holes(), 511);
    end(bench, guest);
}

/// The frames that a range lacks are had before anything changes, or nothing does.
#[test]
fn a_range_whose_frames_cannot_be_had_is_refused_whole() {
    let mut board = board(128 * MIB);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, 16 * MIB);
    // A page of 2 MiB, 2 MiB, 2 MiB, and a page.
    bench
        .change(
            &mut guest,
            Change::Share,
            4 * MIB - PAGE_SIZE,
            2 * REGION + 2 * PAGE_SIZE,
        )
        .unwrap();
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 2 * 512 + 2);
    let single = bench.allocate(0).unwrap();
    let single = (single, bench.allocate(0).unwrap());
    for regions in 0.. {
        let held = leave(&mut bench, regions);
        let before = bench.snapshot();
        let unreachable: Vec<(Pfn, u64)> = guest.unreachable(&bench.cpu).collect();
        let result = bench.change(
            &mut guest,
            Change::Unshare,
            4 * MIB - PAGE_SIZE,
            2 * REGION + 2 * PAGE_SIZE,
        );
        if result.is_err() {
            assert!(matches!(result, Err(ChangeError::OutOfMemory(_))), "{result:?}");
            assert_eq!(bench.state(&guest, 4 * MIB), PageState::Shared);
            assert_eq!(bench.state(&guest, 4 * MIB - PAGE_SIZE), PageState::Shared);
            let now: Vec<(Pfn, u64)> = guest.unreachable(&bench.cpu).collect();
            assert_eq!(now, unreachable);
            bench.drain_magazine();
            bench.drain();
            let now = bench.snapshot();
            if let Some(difference) = before.difference(&now) {
                let harmless = difference.starts_with("counters") || difference.starts_with("contents");
                assert!(harmless, "{regions} regions: {difference}");
            }
        }
        held.into_iter()
            .for_each(|frames| bench.memory.frames.free(frames));
        if result.is_ok() {
            assert_eq!(regions, 3, "one for single frames, two for whole regions");
            break;
        }
    }
    bench.free(single.0);
    bench.free(single.1);
    end(bench, guest);
}

/// What was drawn for a guest that dies comes back.
#[test]
fn a_guest_can_die_at_every_step_of_getting_frames() {
    for steps in 0.. {
        let mut board = board(64 * MIB);
        let mut bench = Bench::new(&mut board);
        let mut guest = bench.launch(2, 8 * MIB);
        bench
            .change(&mut guest, Change::Share, 2 * MIB - PAGE_SIZE, 2 * REGION)
            .unwrap();
        assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 2 * 512);
        guest
            .begin(Change::Unshare, Gpa::new(2 * MIB - PAGE_SIZE), 2 * REGION)
            .unwrap();
        let done = (0..steps).any(|_| matches!(bench.step(&mut guest), Progress::Done(_)));
        end(bench, guest);
        if done {
            break;
        }
    }
}

/// Where no region is free, 512 single frames do: of whole 2 MiB, of a page whose 2 MiB are all absent, with and without tables for splits. But not for
/// a guest that may have no table for them.
#[test]
fn where_no_region_is_free_single_frames_come() {
    for number in [1, 2] {
        for (away, back) in [
            (Change::Share, Change::Unshare),
            (Change::GiveBack, Change::TakeAgain),
        ] {
            let mut board = board(128 * MIB);
            let mut bench = Bench::new(&mut board);
            let mut guest = bench.launch(number, 8 * MIB);
            bench.change(&mut guest, away, 2 * MIB, 2 * REGION).unwrap();
            let kept = if away == Change::Share { 2 * 512 } else { 0 };
            assert_eq!(bench.take_kept(&mut guest, Kept::Regions), kept);
            let held = bench.fragment(100);
            guest.limit_tables(0);
            let refused = bench.change(&mut guest, back, 2 * MIB, 2 * REGION);
            assert!(matches!(refused, Err(ChangeError::OutOfMemory(_))), "{refused:?}");
            guest.limit_tables(u64::MAX);

            // A page of the first 2 MiB, when that brings all of them.
            if back == Change::TakeAgain {
                bench.change(&mut guest, back, 2 * MIB, PAGE_SIZE).unwrap();
                assert_eq!(bench.stats().frames_supplied, 512);
                bench
                    .change(&mut guest, back, 2 * MIB + PAGE_SIZE, 2 * REGION - PAGE_SIZE)
                    .unwrap();
            } else {
                bench.change(&mut guest, back, 2 * MIB, 2 * REGION).unwrap();
            }
            assert_eq!(bench.stats().frames_supplied, 2 * 512);
            bench
                .change(&mut guest, Change::Accept, 2 * MIB, 2 * REGION)
                .unwrap();
            for page in [2 * MIB, 4 * MIB - PAGE_SIZE, 4 * MIB, 6 * MIB - PAGE_SIZE] {
                assert_eq!(bench.state(&guest, page), PageState::Accepted);
                assert_eq!(read(&mut bench, &guest, page), [0; 4096]);
            }
            assert_eq!(guest.bytes_in_large_leaves(&bench.cpu), 4 * MIB);
            assert_eq!(bench.stats().promotions_blocked.address, 2);
            bench.teardown(guest);
            held.into_iter()
                .for_each(|frames| bench.memory.frames.free(frames));
            bench.assert_as_at_boot();
        }
    }
}

/// Single frames for 2 MiB, and a table for each where none waits since the launch, are had if exactly so much is free beyond the host's reserve. Those
/// that wait in the magazine make up for what hiding the others takes.
#[test]
fn single_frames_for_regions_take_no_more_than_they_and_their_tables() {
    let cases = [SecondStageKind::Nested, SecondStageKind::ExtendedSplit]
        .into_iter()
        .flat_map(|kind| [(kind, 1, false), (kind, 0, true)]);
    for (kind, less, enough) in cases {
        let mut board = board(128 * MIB);
        let mut bench = Bench::new(&mut board);
        let mut guest = bench.launch_as(2, kind, 8 * MIB);
        let tables = if kind == SecondStageKind::Nested { 2 } else { 0 };
        bench
            .change(&mut guest, Change::GiveBack, 2 * MIB, 2 * REGION)
            .unwrap();
        let held = bench.fragment(100);
        let (memory, windows) = (&mut bench.memory, &mut bench.windows[0]);
        bench.magazine.refill(memory, &bench.cpu, windows).unwrap();
        assert!(bench.magazine.len() >= 32);
        while let Some(frame) = bench.memory.take_private(0) {
            bench.magazine.put(frame.used()).unwrap();
        }
        let low = bench.memory.frames.free_frames() - (2 * 512 + tables) + less;
        bench.memory.set_watermarks(Watermarks { low, high: low });
        let hidden = bench.stats().pages_hidden;
        let result = bench.change(&mut guest, Change::TakeAgain, 2 * MIB, 2 * REGION);
        assert_eq!(result.is_ok(), enough, "{kind:?}, {less} less: {result:?}");
        if !enough {
            assert!(matches!(result, Err(ChangeError::OutOfMemory(_))), "{result:?}");
            assert_eq!(bench.stats().pages_hidden, hidden, "nothing was tried");
        }
        bench.teardown(guest);
        held.into_iter()
            .for_each(|frames| bench.memory.frames.free(frames));
        bench.assert_as_at_boot();
    }
}

/// No more than a gigablock's worth of regions leaves the direct map in one step, so more come in several, by a flush each.
#[test]
fn more_than_a_gigabyte_comes_by_a_flush_for_each() {
    let mut board = Board::new(&[(0, 5 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, GIB + 8 * MIB);
    let (start, bytes) = (2 * MIB, GIB + 2 * REGION);
    bench
        .change_unseen(&mut guest, Change::Share, start, bytes)
        .unwrap();
    // A look after each of so many steps would take minutes.
    let (mut next, mut taken) = (Gfn::default(), 0);
    while let Some(frames) = guest.take_kept(&mut bench.memory, &bench.cpu, &mut next, Kept::Regions) {
        taken += frames;
    }
    assert_eq!(taken, 514 * 512);
    let flushes = bench.stats().flushes;
    bench
        .change_unseen(&mut guest, Change::Unshare, start, bytes)
        .unwrap();
    bench.check();
    let stats = bench.stats();
    assert_eq!(
        (stats.regions_taken_again, stats.frames_supplied, stats.flushes),
        (514, 0, flushes + 2)
    );
    bench
        .change_unseen(&mut guest, Change::Accept, start, bytes)
        .unwrap();
    assert_eq!(guest.bytes_in_large_leaves(&bench.cpu), GIB + 8 * MIB);
    end(bench, guest);
}

/// Frames for a guest's pages leave the host its reserve, whether they come as a region for 2 MiB, as one for the magazine, or from pieces.
#[test]
fn what_comes_leaves_the_host_its_reserve() {
    for (start, bytes, needed) in [(2 * MIB, REGION, 512), (2 * MIB, 3 * PAGE_SIZE, 512 + 1)] {
        for (less, enough) in [(1, false), (0, true)] {
            let mut board = board(64 * MIB);
            let mut bench = Bench::new(&mut board);
            let mut guest = bench.launch(2, 8 * MIB);
            bench.change(&mut guest, Change::Share, start, REGION).unwrap();
            assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 512);
            let low = bench.memory.frames.free_frames() - needed + less;
            bench.memory.set_watermarks(Watermarks { low, high: low });
            let before = bench.snapshot();
            let result = bench.change(&mut guest, Change::Unshare, start, bytes);
            assert_eq!(result.is_ok(), enough, "{bytes:#x}, {less} less: {result:?}");
            if !enough {
                assert!(matches!(result, Err(ChangeError::OutOfMemory(_))), "{result:?}");
                assert_eq!(before.trace(&bench.snapshot()), None);
            }
            end(bench, guest);
        }
    }
}

/// The same of a guest that is backed by extents below 2 MiB. Only what is kept goes; the pages beside it stay the guest's.
#[test]
fn what_backs_a_guest_in_pieces_goes_in_part() {
    for (away, back) in [
        (Change::Share, Change::Unshare),
        (Change::GiveBack, Change::TakeAgain),
    ] {
        for which in [Kept::Regions, Kept::Pages] {
            let mut bench = Bench::of_ram(64 * MIB);
            // Of each block one frame is the host's: so pieces of 1 MiB and less back the guest, a page fewer than 2 MiB from each block.
            let frames = &mut bench.memory.frames;
            let all: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok()).collect();
            let (held, free): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|frame| frame.pfn().get() % 512 == 511);
            free.into_iter().for_each(|frame| frames.free(frame));
            let mut guest = bench.launch(2, 6 * MIB);
            let orders = guest.pieces(&bench.cpu, &bench.memory.frames);
            assert!(orders.map(|(_, order)| order).max() > Some(6));
            for page in 0..3 * 512_u64 {
                write(&mut bench, &mut guest, page * PAGE_SIZE, &page.to_le_bytes());
            }
            bench.change(&mut guest, away, REGION, REGION).unwrap();
            let taken = bench.take_kept(&mut guest, which);
            assert_eq!(taken, if away == Change::Share { 512 } else { 0 });
            assert_eq!(guest.unreachable(&bench.cpu).count(), 0);
            for page in (0..512).chain(2 * 512..3 * 512_u64) {
                let found = read(&mut bench, &guest, page * PAGE_SIZE);
                assert_eq!(found[..8], page.to_le_bytes(), "{away:?} {which:?}: page {page}");
            }
            for change in [back, Change::Accept] {
                bench.change(&mut guest, change, REGION, REGION).unwrap();
            }
            assert_eq!(read(&mut bench, &guest, 2 * REGION - PAGE_SIZE), [0; 4096]);
            bench.teardown(guest);
            held.into_iter().for_each(|frame| bench.memory.frames.free(frame));
            bench.assert_as_at_boot();
        }
    }
}

/// Whoever restocks the magazine says what was missing, and the guest is told that.
#[test]
fn a_change_is_refused_for_what_the_magazine_lacked() {
    let mut board = board(64 * MIB);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, 8 * MIB);
    bench.change(&mut guest, Change::Share, 0, PAGE_SIZE).unwrap();
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 1);
    let missing = bench.memory.frames.allocate(18).unwrap_err();
    let alone = OutOfMemory {
        wanted: PAGE_SIZE,
        ..missing
    };
    for (error, told) in [
        (PrivateError::OutOfMemory(missing), missing),
        (PrivateError::Hide(HideCause::OutOfMemory(missing)), missing),
        (PrivateError::TooLarge { order: 19 }, alone),
    ] {
        guest.begin(Change::Unshare, Gpa::new(0), PAGE_SIZE).unwrap();
        while !matches!(bench.go_on(&mut guest), Progress::Restock) {}
        guest.starve(&bench.memory, error);
        let told = Progress::Done(Err(ChangeError::OutOfMemory(told)));
        assert_eq!(bench.step(&mut guest), told, "{error:?}");
    }
    end(bench, guest);
}

/// Of pages that change together some have their frames and some have lost them: only those get others.
#[test]
fn pages_that_have_their_frames_get_no_others() {
    let mut board = board(64 * MIB);
    let mut bench = Bench::new(&mut board);
    let mut guest = bench.launch(2, 4 * MIB);
    let bytes = 3 * PAGE_SIZE;
    bench.change(&mut guest, Change::Share, 0, bytes).unwrap();
    assert_eq!(bench.take_kept(&mut guest, Kept::Pages), 3);
    bench.change(&mut guest, Change::Share, bytes, bytes).unwrap();
    for change in [Change::Unshare, Change::Accept] {
        bench.change(&mut guest, change, 0, 2 * bytes).unwrap();
    }
    assert_eq!(bench.stats().frames_supplied, 3);
    assert_eq!(read(&mut bench, &guest, bytes), [0; 4096]);
    end(bench, guest);
}
