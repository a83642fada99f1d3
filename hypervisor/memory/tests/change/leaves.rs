//! What a change does to the leaves and tables of the second stage.

use super::*;

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

/// Pages, flushes, and large leaves that come back, each by its own counter.
#[test]
fn what_changes_is_counted() {
    for kind in KINDS {
        let mut bench = Bench::of_ram(64 * MIB);
        let mut guest = bench.launch_as(1, kind, 4 * MIB);
        for (change, pages) in [
            (Change::Share, 3),
            (Change::Unshare, 3),
            (Change::Accept, 3),
            (Change::ShareInPlace, 2),
            (Change::UnshareInPlace, 2),
        ] {
            let (start, bytes) = (5 * PAGE_SIZE, pages * PAGE_SIZE);
            bench.change(&mut guest, change, start, bytes).unwrap();
        }
        let stats = bench.memory.stats();
        let pages = [
            stats.pages_shared,
            stats.pages_unshared,
            stats.pages_accepted,
            stats.pages_shared_in_place,
            stats.pages_unshared_in_place,
        ];
        assert_eq!((pages, stats.guest_flushes), ([3, 3, 3, 2, 2], 4));
        // Where code must not run from large leaves, those stay split.
        let (splits, whole, stay) = match kind {
            SecondStageKind::ExtendedSplit => (1, 0, 2),
            _ => (2, 2, 0),
        };
        let blocked = stats.promotions_blocked;
        assert_eq!(
            (stats.second_stage_splits, stats.second_stage_collapses),
            (splits, whole)
        );
        assert_eq!((blocked.executable, blocked.address), (stay, 0));
        bench.teardown(guest);
    }
}
