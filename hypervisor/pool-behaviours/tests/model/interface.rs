//! What tests are given to change the direct map by: it does what it says, and keeps the counts that merging goes by.

use memory::address::{Hpa, Level, Pfn};
use memory::layout::direct;
use memory::testing::{Mark, NotDone};
use model_machine::Board;
use model_machine::bench::{Bench, GIGABLOCK, REGION};

use super::GIB;

/// A region in the middle of a gigablock with a leaf of 1G.
const INSIDE: Pfn = Pfn::new(1 << GIGABLOCK | 5 << REGION);

/// Hides more than half of all regions, or those up to one that is mapped in pieces, and restores them.
fn hide_and_restore(bench: &mut Bench<'_>) {
    let Bench {
        memory, windows, cpu, ..
    } = bench;
    let extents: Vec<_> = (0..1100)
        .map_while(|_| memory.allocate_private(cpu, &mut windows[0], REGION).ok())
        .collect();
    for extent in extents {
        memory.free_private(cpu, &mut windows[0], extent.used());
    }
}

/// The entry of the direct map that maps a frame.
fn entry(bench: &Bench<'_>, pfn: Pfn) -> u64 {
    let at = direct(pfn.hpa()).unwrap().get();
    let mut table = bench.machine.shared_root().hpa().get();
    for shift in [39, 30, 21] {
        let entry = bench
            .machine
            .ram()
            .load(Hpa::new(table + 8 * (at >> shift & 511)));
        if shift < 39 && entry & 1 << 7 != 0 {
            return entry;
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    bench.machine.ram().load(Hpa::new(table + 8 * (at >> 12 & 511)))
}

#[test]
fn a_leaf_that_is_split_is_counted_and_merges_only_when_it_is_whole() {
    let mut board = Board::new(&[(0, 3 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    let splits = |bench: &Bench<'_>| (bench.stats().level3_splits, bench.stats().level2_splits);
    let collapses = |bench: &Bench<'_>| (bench.stats().level3_collapses, bench.stats().level2_collapses);
    assert_eq!(
        bench.memory.test_split(&cpu, INSIDE, Level::L2),
        Err(NotDone::NotThere)
    );
    assert_eq!(splits(&bench), (0, 0));
    bench.memory.test_split(&cpu, INSIDE, Level::L3).unwrap();
    assert_eq!(splits(&bench), (1, 0));
    bench.memory.test_split(&cpu, INSIDE, Level::L2).unwrap();
    assert_eq!(splits(&bench), (1, 1));
    hide_and_restore(&mut bench);
    let stats = bench.stats();
    assert_eq!(stats.merges_blocked.total(), 0, "a merge was tried in vain");
    let merged = collapses(&bench);
    assert!(bench.memory.test_merge(&cpu, INSIDE, Level::L2));
    assert_eq!(collapses(&bench), (merged.0, merged.1 + 1));
    // Now the table of 2M leaves is whole, and the next restore finds that.
    hide_and_restore(&mut bench);
    assert!(
        !bench.memory.test_merge(&cpu, INSIDE, Level::L3),
        "the gigablock still has a table"
    );
}

/// One region hidden and restored is enough for the merge that is due, as every split and every merge was counted, and no other.
#[test]
fn a_table_is_merged_by_the_first_restore_when_all_below_it_is() {
    // The lowest gigablock, from which a region is taken first.
    let inside = Pfn::new(100 << REGION);
    for further in [false, true] {
        let mut board = Board::new(&[(0, 3 * GIB)], 1, Level::L3);
        let mut bench = Bench::new(&mut board);
        let cpu = bench.cpu;
        bench.memory.test_split(&cpu, inside, Level::L3).unwrap();
        if further {
            bench.memory.test_split(&cpu, inside, Level::L2).unwrap();
            assert!(bench.memory.test_merge(&cpu, inside, Level::L2));
        }
        let (memory, windows) = (&mut bench.memory, &mut bench.windows[0]);
        let extent = memory.allocate_private(&cpu, windows, REGION).unwrap();
        assert_eq!(extent.pfn().gigablock_number(), 0);
        memory.free_private(&cpu, windows, extent.used());
        let stats = bench.stats();
        assert_eq!((stats.level3_collapses, stats.merges_blocked.total()), (1, 0));
    }
}

#[test]
fn a_mark_changes_the_bit_that_it_names() {
    let mut board = Board::new(&[(0, 3 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let cpu = bench.cpu;
    for (mark, bit) in [
        (Mark::ReadOnly, 1),
        (Mark::Uncached, 4),
        (Mark::Accessed, 5),
        (Mark::Dirty, 6),
        (Mark::Global, 8),
    ] {
        let before = entry(&bench, INSIDE);
        assert!(bench.memory.test_mark(&cpu, INSIDE, mark));
        assert_eq!(entry(&bench, INSIDE) ^ before, 1 << bit, "{mark:?}");
        assert!(bench.memory.test_mark(&cpu, INSIDE, mark));
        assert_eq!(entry(&bench, INSIDE), before);
    }
}

/// A page that is in use, and the rest of its region, which is in the pool; and a region on its way back.
#[test]
fn what_is_hidden_and_no_guests_is_found() {
    let mut board = Board::new(&[(0, 3 * GIB)], 1, Level::L3);
    let mut bench = Bench::new(&mut board);
    let found = |bench: &Bench<'_>| {
        let mut found = Vec::new();
        bench
            .memory
            .test_hidden(|pfn, order| found.extend((0..1 << order).map(|frame| pfn.get() + frame)));
        found
    };
    assert_eq!(found(&bench), []);
    let page = bench.allocate(0).unwrap();
    let first = page.pfn().region_number() << REGION;
    assert_eq!(found(&bench), Vec::from_iter(first..first + 512));
    bench.free(page);
    assert_eq!(found(&bench), []);
}
