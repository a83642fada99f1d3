//! Guests give memory back and take it again, on the model machine: what the host gets, what it costs, what is refused, and that all of it comes
//! back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gpa, PAGE_SIZE};
use memory::guest::{Change, ChangeError, GuestMemory, PageState, Progress, SecondStageKind};
use memory::region::Watermarks;
use model_machine::Bench;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const REGION: u64 = 2 * MIB;

const KINDS: [SecondStageKind; 3] = [
    SecondStageKind::Nested,
    SecondStageKind::Extended,
    SecondStageKind::ExtendedSplit,
];

/// First byte and length, in a guest of 10 MiB.
const RANGES: [(u64, u64); 8] = [
    (0, PAGE_SIZE),
    (0, REGION),
    (PAGE_SIZE, PAGE_SIZE),
    (PAGE_SIZE, REGION),
    (REGION, PAGE_SIZE),
    (REGION, 2 * REGION),
    (REGION - PAGE_SIZE, REGION + 2 * PAGE_SIZE),
    (0, 10 * MIB),
];

/// There and back over each range: neighbours keep what they hold, whole regions leave what the host has hidden, what comes again is zero; one
/// flush of the guest, and one of the host at most.
#[test]
fn what_is_given_back_is_the_host_s_and_comes_again_as_zeros() {
    for kind in KINDS {
        for (start, bytes) in RANGES {
            let mut bench = Bench::of_ram(128 * MIB);
            let mut guest = bench.launch_as(1, kind, 10 * MIB);
            let (before, free) = (bench.memory.stats(), bench.memory.frames.free_frames());
            let probes: Vec<u64> = (0..10 * MIB).step_by(PAGE_SIZE as usize).collect();
            let inside = |at: u64| (start..start + bytes).contains(&at);
            for at in &probes {
                assert!(bench.store(*at, !at));
            }
            let last = (start + bytes) / REGION;
            let whole = last.saturating_sub(start.div_ceil(REGION));
            bench.change(&mut guest, Change::GiveBack, start, bytes).unwrap();
            assert_eq!(bench.holes(), 5 - whole, "{kind:?} {start:#x} {bytes:#x}");
            // But for the tables of the leaves that were split, one for each end.
            let given = bench.memory.frames.free_frames();
            assert!(
                given.abs_diff(free + whole * 512) <= 2,
                "{given} frames, {free} before"
            );
            for at in &probes {
                assert_eq!(bench.load(&guest, *at), (!inside(*at)).then_some(!at));
                assert_eq!(bench.store(*at, !at), !inside(*at));
            }
            // Its first and its last page are gone from RAM.
            for at in [start, start + bytes - PAGE_SIZE] {
                assert!(!bench.machine.ram().contains(!at), "{at:#x} was given back");
            }
            let middle = bench.memory.stats();
            assert_eq!(middle.guest_flushes - before.guest_flushes, 1);
            assert_eq!(
                middle.flushes, before.flushes,
                "what merges waits for another's flush"
            );
            bench.change(&mut guest, Change::TakeAgain, start, bytes).unwrap();
            let after = bench.memory.stats();
            assert_eq!(after.guest_flushes, middle.guest_flushes);
            assert_eq!(after.flushes - middle.flushes, u64::from(whole > 0));
            assert_eq!(
                (after.regions_given_back, after.regions_taken_again),
                (whole, whole)
            );
            assert_eq!(bench.holes(), 5);
            for at in probes.iter().filter(|at| inside(**at)) {
                assert!(!bench.store(*at, 1), "{at:#x} is pending");
                assert_eq!(guest.page(&bench.cpu, Gpa::new(*at)).state, PageState::Pending);
            }
            bench.change(&mut guest, Change::Accept, start, bytes).unwrap();
            for at in &probes {
                let expected = if inside(*at) { 0 } else { !at };
                assert_eq!(bench.load(&guest, *at), Some(expected));
                assert!(bench.store(*at, 1));
            }
            bench.teardown(guest);
            assert_eq!(
                bench.boot.0.trace(&bench.snapshot()),
                None,
                "{kind:?} {start:#x} {bytes:#x}"
            );
        }
    }
}

/// Page by page, in any order: the region goes with its last page, whoever of them that is, and comes again with the first.
#[test]
fn a_region_goes_with_its_last_page_and_comes_with_its_first() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, kind, 4 * MIB);
        let order = |page: u64| page * 181 % 512;
        for page in 0..512 {
            assert_eq!(bench.holes(), 2);
            let at = REGION + order(page) * PAGE_SIZE;
            bench.change(&mut guest, Change::GiveBack, at, PAGE_SIZE).unwrap();
        }
        assert_eq!(bench.holes(), 1);
        bench
            .change(&mut guest, Change::TakeAgain, REGION + 77 * PAGE_SIZE, PAGE_SIZE)
            .unwrap();
        assert_eq!(bench.holes(), 2);
        let states = [76, 77, 78].map(|page| {
            let at = Gpa::new(REGION + page * PAGE_SIZE);
            guest.page(&bench.cpu, at).state
        });
        assert_eq!(states, [PageState::Absent, PageState::Pending, PageState::Absent]);
        bench.teardown(guest);
        assert_eq!(bench.holes(), 0);
    }
}

/// A gigablock that is one entry in the direct map, one leaf in the second stage, and one extent in the records: a part of it goes, and comes again.
#[test]
fn a_part_of_a_gigablock_is_given_back() {
    for (kind, large) in [
        (SecondStageKind::Nested, true),
        (SecondStageKind::Extended, false),
    ] {
        for start in [0, REGION, 511 * REGION, 700 * REGION] {
            let mut bench = Bench::of_ram(4 * GIB);
            bench.memory.allow_large_guest_leaves(large);
            let mut guest = bench.launch_as(1, kind, 2 * GIB);
            bench
                .change(&mut guest, Change::GiveBack, start, 3 * REGION)
                .unwrap();
            assert_eq!(bench.holes(), 1024 - 3);
            bench
                .change(&mut guest, Change::TakeAgain, start + REGION, REGION)
                .unwrap();
            assert_eq!(bench.holes(), 1024 - 2);
            bench.teardown(guest);
            assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
        }
    }
}

/// What the cache has room for stays hidden, and is taken again without a flush.
#[test]
fn what_the_cache_keeps_costs_no_flush() {
    let mut bench = Bench::of_ram(128 * MIB);
    bench.memory.set_cache(2);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 10 * MIB);
    bench.change(&mut guest, Change::GiveBack, 0, 4 * REGION).unwrap();
    assert_eq!((bench.holes(), bench.memory.pool().cached_regions()), (3, 2));
    let flushes = bench.memory.stats().flushes;
    bench
        .change(&mut guest, Change::TakeAgain, REGION, 2 * REGION)
        .unwrap();
    assert_eq!(bench.memory.stats().flushes, flushes);
    assert_eq!(bench.memory.pool().cached_regions(), 0);
    bench.teardown(guest);
}

/// What others left in the cache and this guest does not want stays there; what is there is not waited for.
#[test]
fn the_cache_gives_what_is_wanted_and_no_more() {
    let mut bench = Bench::of_ram(128 * MIB);
    bench.memory.set_cache(4);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 10 * MIB);
    bench.change(&mut guest, Change::GiveBack, 0, 4 * REGION).unwrap();
    for (regions, left) in [(1, 3), (2, 1)] {
        let start = (3 - left) * REGION;
        guest
            .begin(Change::TakeAgain, Gpa::new(start), regions * REGION)
            .unwrap();
        loop {
            match bench.step(&mut guest) {
                Progress::Done(result) => break result.unwrap(),
                Progress::Hide => panic!("nothing is left to hide"),
                _ => {}
            }
        }
        assert_eq!((bench.holes(), bench.memory.pool().cached_regions()), (5, left));
    }
    bench.teardown(guest);
}

/// A guest of 6 MiB that has given all back if it is to take something again, with so many regions cached.
fn before(kind: SecondStageKind, change: Change, cached: u64) -> (Bench<'static>, GuestMemory) {
    let mut bench = Bench::of_ram(48 * MIB);
    bench.memory.set_cache(cached);
    let mut guest = bench.launch_as(1, kind, 6 * MIB);
    if change == Change::TakeAgain {
        bench.change(&mut guest, Change::GiveBack, 0, 6 * MIB).unwrap();
        assert_eq!(bench.memory.pool().cached_regions(), cached);
    }
    (bench, guest)
}

/// Makes a change while so many whole regions and so many frames beside them are free. It is done, or refused for lack of memory and nothing has
/// changed; then the guest dies, still without memory.
fn change_with(
    (mut bench, mut guest): (Bench<'static>, GuestMemory),
    (change, start, bytes): (Change, u64, u64),
    (regions, frames): (u64, u64),
) -> bool {
    let mut held = bench.take_all_of_the_host();
    // Those that were taken as whole regions come first.
    for region in held.drain(..regions as usize) {
        bench.memory.frames.free(region);
    }
    for frame in held.split_off(held.len() - frames as usize) {
        bench.memory.frames.free(frame);
    }
    let free = (
        bench.memory.frames.free_regions(),
        bench.memory.frames.free_frames(),
    );
    assert_eq!(free, (regions, regions * 512 + frames));
    let state = |bench: &Bench<'_>, guest: &GuestMemory| {
        let marks: Vec<_> = guest.unreachable(&bench.cpu).collect();
        let pages = (0..3 * REGION).step_by(PAGE_SIZE as usize);
        let pages: Vec<_> = pages.map(|at| bench.state(guest, at)).collect();
        (marks, pages)
    };
    let (snapshot, before) = (bench.snapshot(), state(&bench, &guest));
    let pages_hidden = bench.stats().pages_hidden;
    let result = bench.change(&mut guest, change, start, bytes);
    if let Err(error) = result {
        assert!(matches!(error, ChangeError::OutOfMemory(_)), "{error:?}");
        let what = format!("{change:?} {start:#x} {bytes:#x} with {regions} regions and {frames} frames");
        // Where single frames were tried for regions, those that there were are ready in the magazine, and the table that they have split a leaf
        // with comes back with the next flush: see below.
        bench.drain_magazine();
        if bench.stats().pages_hidden == pages_hidden {
            assert_eq!(snapshot.trace(&bench.snapshot()), None, "{what}");
        }
        assert!(before == state(&bench, &guest), "{what}");
    }
    bench.teardown(guest);
    held.into_iter()
        .for_each(|extent| bench.memory.frames.free(extent));
    bench.memory.set_cache(0);
    while bench.memory.shrink(&bench.cpu, 512) > 0 {}
    bench.drain();
    assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
    result.is_ok()
}

/// Whichever allocation fails, of a table or a region: the whole range is refused and nothing has changed.
#[test]
fn a_change_is_refused_whichever_allocation_fails() {
    let part = (REGION - PAGE_SIZE, REGION + 2 * PAGE_SIZE);
    // How many regions it takes, and how many it divides.
    for (change, (start, bytes), regions, divided) in [
        (Change::GiveBack, part, 0, 2),
        (Change::GiveBack, (PAGE_SIZE, PAGE_SIZE), 0, 1),
        (Change::GiveBack, (0, 6 * MIB), 0, 0),
        (Change::TakeAgain, (0, 6 * MIB), 3, 0),
        (Change::TakeAgain, part, 3, 2),
        (Change::TakeAgain, (PAGE_SIZE, PAGE_SIZE), 1, 1),
    ] {
        for kind in KINDS {
            let trial =
                |cached, left| change_with(before(kind, change, cached), (change, start, bytes), left);
            let what = format!("{kind:?} {change:?} {start:#x} {bytes:#x}");
            // A table for each region that is divided; with small leaves it has one from its launch on.
            let tables = if kind == SecondStageKind::ExtendedSplit {
                0
            } else {
                divided
            };
            for less in 0..=regions {
                for frames in 0..=tables + 1 {
                    let enough = less == regions && frames >= tables;
                    let done = trial(0, (less, frames));
                    assert_eq!(done, enough, "{what}: {less} regions, {frames} frames");
                }
            }
            // A region more serves for all tables.
            assert!(trial(0, (regions + 1, 0)), "{what}");
            if change == Change::TakeAgain {
                // What is cached serves as well as what the host has.
                for cached in 1..=regions {
                    for frames in 0..=tables {
                        let done = trial(cached, (regions - cached, frames));
                        assert_eq!(done, frames == tables, "{what}: {cached} cached, {frames} frames");
                        assert!(!trial(cached - 1, (regions - cached, frames)), "{what}");
                    }
                }
            }
        }
    }
}

/// The same where a gigablock is one entry in the direct map and one leaf in the second stage.
#[test]
fn a_part_of_a_gigablock_is_refused_whichever_table_is_missing() {
    for (kind, large) in [
        (SecondStageKind::Nested, true),
        (SecondStageKind::Extended, false),
    ] {
        let whole = || {
            let mut bench = Bench::of_ram(3 * GIB);
            bench.memory.allow_large_guest_leaves(large);
            let guest = bench.launch_as(1, kind, GIB);
            assert_eq!(bench.stats().gigablocks_hidden, 1);
            (bench, guest)
        };
        for (start, bytes) in [(REGION, REGION), (REGION, PAGE_SIZE)] {
            let give_back = (Change::GiveBack, start, bytes);
            // One for the direct map, which is in leaves of 2M afterwards; one for the same in the second stage; one where a region is divided.
            let tables = 1 + u64::from(large) + u64::from(bytes < REGION);
            for frames in 0..=tables {
                let done = change_with(whole(), give_back, (0, frames));
                assert_eq!(done, frames == tables, "{kind:?} {bytes:#x}: {frames} frames");
            }
        }
    }
}

/// Neither goes below the host's reserve, to the frame.
#[test]
fn a_change_leaves_the_host_its_reserve() {
    let (start, bytes) = (REGION - PAGE_SIZE, REGION + 2 * PAGE_SIZE);
    // Two tables, and three regions.
    for (change, needed) in [(Change::GiveBack, 2), (Change::TakeAgain, 2 + 3 * 512)] {
        for (less, enough) in [(1, false), (0, true)] {
            let (mut bench, mut guest) = before(SecondStageKind::Nested, change, 0);
            let low = bench.memory.frames.free_frames() - needed + less;
            bench.memory.set_watermarks(Watermarks { low, high: low });
            let before = bench.snapshot();
            let result = bench.change(&mut guest, change, start, bytes);
            assert_eq!(result.is_ok(), enough, "{change:?}, {less} less: {result:?}");
            if !enough {
                assert!(matches!(result, Err(ChangeError::OutOfMemory(_))), "{result:?}");
                assert_eq!(before.difference(&bench.snapshot()), None);
            }
            bench.teardown(guest);
        }
    }
}

/// What is taken again is cut out of a 1G leaf of the direct map, which takes a table.
#[test]
fn memory_is_not_taken_again_without_the_table_to_split_a_1g_leaf() {
    let given_back = || {
        let mut bench = Bench::of_ram(2 * GIB);
        let mut guest = bench.launch_as(1, SecondStageKind::Nested, 6 * MIB);
        bench.change(&mut guest, Change::GiveBack, 0, 6 * MIB).unwrap();
        bench.drain();
        assert_eq!(bench.stats().level3_collapses, 1);
        (bench, guest)
    };
    for (regions, frames, enough) in [
        (2, 1, false),
        (2, 2, false),
        (3, 0, false),
        (3, 1, true),
        (4, 0, true),
    ] {
        let done = change_with(given_back(), (Change::TakeAgain, 0, 6 * MIB), (regions, frames));
        assert_eq!(done, enough, "{regions} regions, {frames} frames");
    }
}

/// The guest dies between any two steps, the flush of the direct map asked for and not waited for among them.
#[test]
fn a_guest_can_die_at_every_step() {
    for change in [Change::GiveBack, Change::TakeAgain] {
        for steps in 0.. {
            let mut bench = Bench::of_ram(64 * MIB);
            let mut guest = bench.launch_as(1, SecondStageKind::Nested, 6 * MIB);
            if change == Change::TakeAgain {
                bench.change(&mut guest, Change::GiveBack, 0, 6 * MIB).unwrap();
            }
            guest.begin(change, Gpa::new(0), 6 * MIB).unwrap();
            let mut done = false;
            for step in 0..steps {
                if step + 1 == steps {
                    // Without what it asks for.
                    done = matches!(bench.go_on(&mut guest), Progress::Done(_));
                } else {
                    let _ = bench.step(&mut guest);
                }
            }
            bench.teardown(guest);
            assert_eq!(
                bench.boot.0.trace(&bench.snapshot()),
                None,
                "{change:?}, {steps} steps"
            );
            if done {
                break;
            }
        }
    }
}

/// A change goes no further before the direct map's flush was waited for, however often it is asked to.
#[test]
fn what_is_taken_again_waits_for_its_flush() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 10 * MIB);
    bench.change(&mut guest, Change::GiveBack, 0, REGION).unwrap();
    guest.begin(Change::TakeAgain, Gpa::new(0), REGION).unwrap();
    while bench.go_on(&mut guest) != Progress::Hide {}
    for _ in 0..3 {
        assert_eq!(bench.go_on(&mut guest), Progress::Hide);
    }
    bench.answer(&mut guest, &Progress::Hide);
    loop {
        match bench.step(&mut guest) {
            Progress::More => {}
            other => break assert_eq!(other, Progress::Done(Ok(()))),
        }
    }
    assert_eq!(bench.load(&guest, 0), None, "pending");
    bench.teardown(guest);
}

/// What is on its way to a guest goes out of use with the rest of it.
#[test]
fn a_guest_is_quarantined_at_every_step() {
    let mut seen = std::collections::BTreeSet::new();
    for steps in 0.. {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, SecondStageKind::Nested, 10 * MIB);
        bench.change(&mut guest, Change::GiveBack, 0, 2 * REGION).unwrap();
        guest.begin(Change::TakeAgain, Gpa::new(0), 2 * REGION).unwrap();
        let mut done = false;
        for _ in 0..steps {
            done = matches!(bench.step(&mut guest), Progress::Done(_));
        }
        let (cpu, memory) = (&bench.cpu, &mut bench.memory);
        let before = memory.frames.free_frames();
        let bytes = guest.quarantine(memory, cpu);
        assert_eq!(memory.stats().frames_quarantined * PAGE_SIZE, bytes);
        let quarantined: u64 = (0..)
            .zip(memory.view().quarantined)
            .map(|(order, count)| count << order)
            .sum();
        assert_eq!(quarantined * PAGE_SIZE, bytes, "{steps} steps");
        // What was only reserved is free again.
        assert!(memory.frames.free_frames() >= before);
        seen.insert(bytes);
        if done {
            break;
        }
    }
    assert_eq!(Vec::from_iter(seen), [6 * MIB, 10 * MIB]);
}

/// One table for each region that is divided; it counts until the region is whole again.
#[test]
fn a_guest_gets_no_more_tables_than_it_may_have() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 10 * MIB);
    guest.limit_tables(2);
    let free = bench.memory.frames.free_frames();
    let page = |region: u64| region * REGION + 5 * PAGE_SIZE;
    for region in [0, 1] {
        // Two tables are too many, and the first of them is not counted.
        let refused = bench.change(&mut guest, Change::GiveBack, page(2), REGION);
        assert_eq!(
            refused,
            if region == 0 {
                Ok(())
            } else {
                Err(ChangeError::Tables)
            }
        );
        if refused.is_ok() {
            for change in [Change::TakeAgain, Change::Accept] {
                bench.change(&mut guest, change, page(2), REGION).unwrap();
            }
        }
        bench
            .change(&mut guest, Change::GiveBack, page(region), PAGE_SIZE)
            .unwrap();
    }
    let before = bench.snapshot();
    for (start, bytes) in [(page(2), PAGE_SIZE), (page(1), REGION), (page(2), 2 * REGION)] {
        for change in [Change::GiveBack, Change::Share] {
            let refused = bench.change(&mut guest, change, start + PAGE_SIZE, bytes);
            assert_eq!(refused, Err(ChangeError::Tables), "{change:?} {start:#x}");
            assert_eq!(before.difference(&bench.snapshot()), None);
        }
    }
    // No table: they are divided, or change as a whole.
    bench
        .change(&mut guest, Change::GiveBack, page(0) + PAGE_SIZE, PAGE_SIZE)
        .unwrap();
    bench
        .change(&mut guest, Change::GiveBack, 3 * REGION, REGION)
        .unwrap();
    // Whole again, so another one may be divided.
    bench
        .change(&mut guest, Change::TakeAgain, page(1), PAGE_SIZE)
        .unwrap();
    bench
        .change(&mut guest, Change::Accept, page(1), PAGE_SIZE)
        .unwrap();
    bench
        .change(&mut guest, Change::GiveBack, page(2), PAGE_SIZE)
        .unwrap();
    assert_eq!(bench.memory.frames.free_frames() + 2, free + 512);
    bench.teardown(guest);
}

/// A table that was reserved and not needed, to cut up a gigablock whose region stays, does not count.
#[test]
fn a_table_that_was_not_needed_does_not_count() {
    let mut bench = Bench::of_ram(4 * GIB);
    bench.memory.allow_large_guest_leaves(true);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, GIB);
    // One for the leaf of 1G, one for that of 2M, one to cut with.
    guest.limit_tables(2);
    let refused = bench.change(&mut guest, Change::GiveBack, 0, PAGE_SIZE);
    assert_eq!(refused, Err(ChangeError::Tables));
    guest.limit_tables(4);
    bench.change(&mut guest, Change::GiveBack, 0, PAGE_SIZE).unwrap();
    // Two are in use. One for the next leaf of 2M, and again one to cut with.
    bench
        .change(&mut guest, Change::GiveBack, REGION, PAGE_SIZE)
        .unwrap();
    let refused = bench.change(&mut guest, Change::GiveBack, 2 * REGION, PAGE_SIZE);
    assert_eq!(refused, Err(ChangeError::Tables));
    bench.teardown(guest);
}

/// What one change hides, it hides in one step.
#[test]
fn no_more_than_a_gigablock_is_taken_again_at_once() {
    let mut bench = Bench::of_ram(4 * GIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, GIB + REGION);
    bench
        .change(&mut guest, Change::GiveBack, 0, GIB + REGION)
        .unwrap();
    let refused = guest.begin(Change::TakeAgain, Gpa::new(0), GIB + PAGE_SIZE);
    assert_eq!(refused, Err(ChangeError::TooMuch));
    assert!(ChangeError::TooMuch.to_string().contains("1024 MiB"));
    assert!(!guest.is_changing());
    let flushes = bench.memory.stats().flushes;
    bench.change(&mut guest, Change::TakeAgain, REGION, GIB).unwrap();
    assert_eq!(bench.memory.stats().flushes, flushes + 1);
    assert_eq!(bench.holes(), 512);
    bench.teardown(guest);
}

/// For an absent page all of its 2 MiB are taken again if they have no memory, and only the page if it is reserved in theirs.
#[test]
fn an_absent_page_stands_for_its_2_mib_when_there_is_nothing_behind_them() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, kind, 6 * MIB);
        let page = REGION + 5 * PAGE_SIZE;
        let around = |bench: &Bench<'_>, guest: &GuestMemory| {
            let (start, bytes) = guest.absent_around(&bench.cpu, Gpa::new(page + 77));
            (start.get(), bytes)
        };
        bench
            .change(&mut guest, Change::GiveBack, page, PAGE_SIZE)
            .unwrap();
        assert_eq!(around(&bench, &guest), (page, PAGE_SIZE), "{kind:?}");
        for (start, bytes) in [
            (REGION, 5 * PAGE_SIZE),
            (page + PAGE_SIZE, REGION - 6 * PAGE_SIZE),
        ] {
            bench.change(&mut guest, Change::GiveBack, start, bytes).unwrap();
        }
        assert_eq!(around(&bench, &guest), (REGION, REGION), "{kind:?}");
        bench.teardown(guest);
    }
}
