//! What a change is refused for although the range is right: memory, and what the guest may share.

use super::*;

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

/// What a guest makes the host allocate leaves the host its reserve, and may take all above it.
#[test]
fn sharing_stops_at_the_low_watermark() {
    let mut bench = Bench::of_ram(64 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 24 * MIB);
    let free = bench.memory.frames.free_frames();
    let keep = |bench: &mut Bench<'_>, low| bench.memory.set_watermarks(Watermarks { low, high: low });
    // A frame for each page, and the tables of levels 3, 2 and 1.
    let needed = 512 + 3;
    keep(&mut bench, free - needed + 1);
    let refused = bench.change(&mut guest, Change::Share, 0, 2 * MIB);
    let Err(ChangeError::OutOfMemory(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((error.wanted, error.free), (needed * PAGE_SIZE, free * PAGE_SIZE));
    assert_eq!(bench.memory.frames.free_frames(), free);
    keep(&mut bench, free - needed);
    assert_eq!(bench.change(&mut guest, Change::Share, 0, 2 * MIB), Ok(()));
    assert_eq!(bench.memory.frames.free_frames(), free - needed);
    bench.teardown(guest);
}

/// Its own limit counts what is shared, not what was ever shared; a refusal changes nothing.
#[test]
fn sharing_stops_at_the_guest_s_limit() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Extended, 8 * MIB);
    guest.limit_sharing(2 * MIB + PAGE_SIZE + 1);
    let share = |bench: &mut Bench<'_>, guest: &mut GuestMemory, start, bytes, expected| {
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

/// Tables that serve several 2 MiB of a range are reserved once.
#[test]
fn a_range_needs_each_table_once() {
    let mut bench = Bench::of_ram(4 * GIB);
    bench.memory.allow_large_guest_leaves(true);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, GIB);
    // For the leaf of 1G; and of the shared alias the two upper ones, and a lowest one for each 2 MiB.
    let needed = 1 + 2 + 2;
    guest.limit_tables(needed - 1);
    let refused = bench.change(&mut guest, Change::Share, 0, 4 * MIB);
    assert_eq!(refused, Err(ChangeError::Tables));
    guest.limit_tables(needed);
    bench.change(&mut guest, Change::Share, 0, 4 * MIB).unwrap();
    bench.teardown(guest);
}
