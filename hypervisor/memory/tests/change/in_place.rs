//! Pages that are shared in place: the hidden frame itself, with what it holds.

use super::*;

/// There and back over each range: what the pages hold is at the alias that they have, the host reads and writes it, neighbours keep what they
/// hold, no frame is drawn, one flush each, the direct map as before, the large leaves come back.
#[test]
fn a_range_is_shared_in_place_with_what_it_holds() {
    for kind in KINDS {
        for (start, bytes) in RANGES {
            let mut bench = Bench::of_ram(256 * MIB);
            let mut guest = bench.launch_as(1, kind, 10 * MIB);
            let probes: Vec<u64> = (0..10 * MIB)
                .step_by(PAGE_SIZE as usize)
                .map(|page| page + page / PAGE_SIZE % 512 * 8)
                .collect();
            let inside = |at: u64| (start..start + bytes).contains(&at);
            for at in &probes {
                assert!(bench.store(*at, !at));
            }
            // The tables of the shared alias stay once they are made: so that frames can be counted after this.
            bench
                .change(&mut guest, Change::ShareInPlace, start, bytes)
                .unwrap();
            bench
                .change(&mut guest, Change::UnshareInPlace, start, bytes)
                .unwrap();
            let (before, free) = (bench.memory.stats(), bench.memory.frames.free_frames());
            bench
                .change(&mut guest, Change::ShareInPlace, start, bytes)
                .unwrap();
            let split = bench.memory.stats().second_stage_splits - before.second_stage_splits;
            let used = free.abs_diff(bench.memory.frames.free_frames());
            assert!(
                used <= 2,
                "{kind:?} {start:#x} {bytes:#x}: {used} frames, {split} splits"
            );
            for at in &probes {
                let shared = bench.load_shared(&guest, *at).ok();
                let expected = if inside(*at) {
                    (None, Some(!at))
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
                assert_eq!(bench.state(&guest, *at), PageState::SharedInPlace);
                assert_eq!(bench.load_shared(&guest, *at), Ok(7 * at));
                bench.store_shared(&mut guest, *at, 9 * at).unwrap();
            }
            let runs: u64 = guest.shared_in_place(&bench.cpu).map(|(_, frames)| frames).sum();
            assert_eq!(runs, bytes / PAGE_SIZE);
            assert_eq!(guest.unreachable(&bench.cpu).count(), 0);
            bench
                .change(&mut guest, Change::UnshareInPlace, start, bytes)
                .unwrap();
            for at in &probes {
                let expected = if inside(*at) { 9 * at } else { !at };
                assert_eq!(bench.load(&guest, *at), Some(expected));
                assert!(bench.store(*at, 1) && !bench.store(at | SHARED, 1));
                assert!(bench.load_shared(&guest, *at).is_err());
                assert!(bench.store_shared(&mut guest, *at, 1).is_err());
            }
            let stats = bench.memory.stats();
            assert_eq!(stats.guest_flushes - before.guest_flushes, 2);
            assert_eq!(
                (stats.flushes, stats.direct_map_writes, stats.bytes_scrubbed),
                (before.flushes, before.direct_map_writes, before.bytes_scrubbed)
            );
            let back = stats.second_stage_collapses + stats.promotions_blocked.executable
                - before.second_stage_collapses
                - before.promotions_blocked.executable;
            let expected = if kind == SecondStageKind::ExtendedSplit {
                back
            } else {
                split
            };
            assert_eq!(back, expected, "{kind:?} {start:#x} {bytes:#x}");
            assert_eq!(
                stats.pages_shared_in_place, stats.pages_unshared_in_place,
                "{kind:?} {start:#x} {bytes:#x}"
            );
            bench.teardown(guest);
            assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
        }
    }
}

/// The old alias leads nowhere before the new one leads to the frame, also by translations that hardware still has: the walker of the model
/// finds a frame that is reached at both.
#[test]
fn no_step_leaves_a_frame_at_both_aliases() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, kind, 6 * MIB);
        let (start, bytes) = (2 * MIB - PAGE_SIZE, 2 * MIB + 2 * PAGE_SIZE);
        for change in [Change::ShareInPlace, Change::UnshareInPlace] {
            guest.begin(change, Gpa::new(start), bytes).unwrap();
            loop {
                for at in [start, 3 * MIB, start + bytes - PAGE_SIZE] {
                    let both = bench.store(at, 1) & bench.store(at | SHARED, 1);
                    assert!(!both, "{kind:?} {change:?} {at:#x}");
                }
                // Checks the whole machine.
                if let Progress::Done(result) = bench.step(&mut guest) {
                    break assert_eq!(result, Ok(()));
                }
            }
        }
        bench.teardown(guest);
    }
}

/// A page in place beside one with an ordinary frame: the host's copies go over both, and over neither when the next one is private.
#[test]
fn a_copy_goes_over_pages_shared_in_both_ways() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Extended, 4 * MIB);
    let edge = MIB + PAGE_SIZE;
    bench
        .change(&mut guest, Change::ShareInPlace, MIB, PAGE_SIZE)
        .unwrap();
    bench.change(&mut guest, Change::Share, edge, PAGE_SIZE).unwrap();
    let data: Vec<u8> = (0..2 * PAGE_SIZE).map(|at| (at * 7 % 251) as u8).collect();
    let cpu = bench.cpu;
    let Bench { memory, windows, .. } = &mut bench;
    let frames = &memory.frames;
    guest
        .write_shared(&cpu, frames, &mut windows[0], Gpa::new(MIB), &data)
        .unwrap();
    let mut read = vec![0; data.len()];
    guest
        .read_shared(&cpu, frames, &mut windows[0], Gpa::new(MIB), &mut read)
        .unwrap();
    assert!(read == data);
    for (start, length, first) in [
        (MIB - 1, 2, MIB - PAGE_SIZE),
        (MIB + 5, data.len(), edge + PAGE_SIZE),
    ] {
        let mut same = vec![0xee; length];
        let refused = Err(NotShared::Page(Gpa::new(first)));
        let at = Gpa::new(start);
        assert_eq!(
            guest.read_shared(&cpu, frames, &mut windows[0], at, &mut same),
            refused
        );
        assert!(same.iter().all(|byte| *byte == 0xee));
        assert_eq!(
            guest.write_shared(&cpu, frames, &mut windows[0], at, &same),
            refused
        );
    }
    guest
        .read_shared(&cpu, frames, &mut windows[0], Gpa::new(MIB), &mut read)
        .unwrap();
    assert!(read == data, "a write that was refused has changed something");
    assert!(bench.store(SHARED | MIB, 0x55) && bench.store(SHARED | edge, 0x66));
    assert_eq!(bench.load_shared(&guest, MIB), Ok(0x55));
    assert_eq!(bench.load_shared(&guest, edge), Ok(0x66));
    bench.check();
    bench.teardown(guest);
}

/// The frames go through the hands of the teardown like private ones: scrubbed, and none twice.
#[test]
fn what_is_shared_in_place_at_the_end_is_scrubbed() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, kind, 6 * MIB);
        bench
            .change(&mut guest, Change::ShareInPlace, 0, 2 * MIB + PAGE_SIZE)
            .unwrap();
        bench
            .change(&mut guest, Change::Share, 4 * MIB, PAGE_SIZE)
            .unwrap();
        for at in [0, MIB, 2 * MIB, 4 * MIB] {
            assert!(bench.store(at | SHARED, 0x5ec2e7));
        }
        let scrubbed = bench.memory.stats().bytes_scrubbed;
        bench.teardown(guest);
        assert_eq!(
            bench.memory.stats().bytes_scrubbed - scrubbed,
            6 * MIB,
            "{kind:?}"
        );
        bench.check();
        assert_eq!(bench.boot.0.trace(&bench.snapshot()), None);
    }
}

/// One limit for both ways of sharing.
#[test]
fn what_is_shared_in_place_counts_against_the_limit() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    guest.limit_sharing(2 * PAGE_SIZE);
    let limit = Err(ChangeError::Limit);
    let three = bench.change(&mut guest, Change::ShareInPlace, 0, 3 * PAGE_SIZE);
    assert_eq!(three, limit);
    let page = |bench: &mut Bench, guest: &mut GuestMemory, change, page| {
        bench.change(guest, change, page * PAGE_SIZE, PAGE_SIZE)
    };
    page(&mut bench, &mut guest, Change::ShareInPlace, 0).unwrap();
    page(&mut bench, &mut guest, Change::Share, 1).unwrap();
    for change in [Change::ShareInPlace, Change::Share] {
        assert_eq!(page(&mut bench, &mut guest, change, 2), limit);
    }
    page(&mut bench, &mut guest, Change::UnshareInPlace, 0).unwrap();
    page(&mut bench, &mut guest, Change::ShareInPlace, 2).unwrap();
    assert_eq!(page(&mut bench, &mut guest, Change::Share, 0), limit);
    bench.teardown(guest);
}

/// The mark alone does not let the host in: until the shared alias leads to the page, nobody has shared it.
#[test]
fn the_host_does_not_copy_in_the_middle_of_a_change() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut guest = bench.launch_as(1, kind, 4 * MIB);
        for (change, before) in [(Change::ShareInPlace, false), (Change::UnshareInPlace, true)] {
            assert_eq!(bench.load_shared(&guest, 0).is_ok(), before);
            guest.begin(change, Gpa::new(0), PAGE_SIZE).unwrap();
            while bench.step(&mut guest) != Progress::Flush {}
            let between = bench.load_shared(&guest, 0);
            assert_eq!(between, Err(NotShared::Page(Gpa::new(0))), "{kind:?} {change:?}");
            while bench.step(&mut guest) != Progress::Done(Ok(())) {}
            assert_eq!(bench.load_shared(&guest, 0).is_ok(), !before);
        }
        bench.teardown(guest);
    }
}

/// Hidden frames out of the guest's reach come in runs as they stand in the second stage; those shared in place count as such when the guest reaches
/// them, one by one, and as out of its reach as long as it does not.
#[test]
fn what_is_on_its_way_to_the_shared_alias_is_out_of_reach() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 6 * MIB);
    let (cpu, pages) = (bench.cpu, 512);
    let first = guest.regions(&cpu, &bench.memory.frames).next().unwrap();
    let unreachable = |guest: &GuestMemory| guest.unreachable(&cpu).collect::<Vec<_>>();
    let in_place = |guest: &GuestMemory| guest.shared_in_place(&cpu).collect::<Vec<_>>();
    let singles: Vec<_> = (0..pages).map(|page| (first.add(page), 1)).collect();
    guest.begin(Change::ShareInPlace, Gpa::new(0), 2 * MIB).unwrap();
    while bench.go_on(&mut guest) != Progress::Flush {}
    assert!(unreachable(&guest) == singles && in_place(&guest).is_empty());
    bench.answer(&mut guest, &Progress::Flush);
    while !matches!(bench.step(&mut guest), Progress::Done(Ok(()))) {}
    assert!(unreachable(&guest).is_empty() && in_place(&guest) == singles);
    bench
        .change(&mut guest, Change::UnshareInPlace, 0, 2 * MIB)
        .unwrap();
    bench.change(&mut guest, Change::Share, 0, 2 * MIB).unwrap();
    assert_eq!(
        (unreachable(&guest), in_place(&guest)),
        (vec![(first, pages)], vec![])
    );
    bench.teardown(guest);
}
