use audit::LeafSize;
use proptest::prelude::*;

use super::*;
use crate::dump::LeafRecord;
use crate::tlb::geometry::{DataCache, WalkCaches};

/// Two entries for each size in the first level, four in two sets for 4K and 2M in the second, none for 1G. One line of data cache, so that a load
/// hits only when it follows one of the same line: 1 cycle, else 100. A second-level hit costs 10.
const SMALL: Geometry = Geometry {
    name: "small",
    core: "for hand-computed cases",
    loads: &[
        Array::of(1, 2, [true, false, false]),
        Array::of(1, 2, [false, true, false]),
        Array::of(1, 2, [false, false, true]),
    ],
    stores: Some(&[Array::full(1)]),
    second: &[Array::of(2, 2, [true, true, false])],
    coalesces: false,
    walk_caches: WalkCaches {
        level4: 1,
        level3: 1,
        level2: 1,
        nested: 1,
    },
    data: &[DataCache {
        bytes: 64,
        ways: 1,
        cycles: 1,
    }],
    memory_cycles: 100,
    second_cycles: 10,
    source: "made up",
};
static PLAIN: Geometry = SMALL;
static COALESCING: Geometry = Geometry {
    coalesces: true,
    ..SMALL
};
static SPLITTING: Geometry = Geometry {
    second: &[Array {
        splits_1g: true,
        ..Array::of(2, 2, [true, true, false])
    }],
    ..SMALL
};

const GIB: u64 = 1 << 30;

fn mapping(ranges: &[(u64, u64, LeafSize)]) -> Mapping {
    let mut leaves = Vec::new();
    for (start, bytes, size) in ranges {
        let leaf = |va| LeafRecord {
            va,
            pa: va,
            bytes: size.bytes(),
            attributes: "rw-s----".into(),
            accessed: false,
            dirty: false,
        };
        leaves.extend((*start..start + bytes).step_by(size.bytes() as usize).map(leaf));
    }
    Mapping::from_leaves(&leaves).unwrap()
}

fn run(model: &mut Model, mapping: &Mapping, addresses: &[u64]) -> Counts {
    model.restart();
    for at in addresses {
        model.access(mapping, *at, *at, false).unwrap();
    }
    model.counts()
}

fn plain() -> Model {
    Model::new(&PLAIN, Replacement::Lru, Dimensions::One)
}

#[test]
fn a_first_walk_loads_every_level_and_a_second_one_skips_what_is_cached() {
    let mapping = mapping(&[(0, 2 << 20, LeafSize::K4)]);
    let mut model = plain();
    let first = run(&mut model, &mapping, &[0x0]);
    // Four loads from memory, each of another table, so of another line.
    assert_eq!(
        first,
        Counts {
            accesses: 1,
            misses: 1,
            walks: 1,
            walks_by_size: [1, 0, 0],
            loads: 4,
            loads_from_memory: 4,
            cycles: 400
        }
    );
    // The next page: the page-walk cache has the second-level entry, one load is left; the access before has pushed the line out.
    let second = run(&mut model, &mapping, &[0x1000]);
    assert_eq!((second.walks, second.loads, second.cycles), (1, 1, 100));
    // Both are in the first level now.
    let third = run(&mut model, &mapping, &[0x0, 0x1000, 0x0]);
    assert_eq!((third.accesses, third.misses, third.cycles), (3, 0, 0));
}

#[test]
fn the_second_level_catches_what_the_first_drops() {
    let mapping = mapping(&[(0, 2 << 20, LeafSize::K4)]);
    let mut model = plain();
    // Three pages: the third drops the first from the two entries; the second level has two sets of two, so all three are there.
    run(&mut model, &mapping, &[0x0, 0x1000, 0x2000]);
    let again = run(&mut model, &mapping, &[0x0]);
    assert_eq!((again.misses, again.walks, again.cycles), (1, 0, 10));
    // Pages 0, 2 and 4 share a set of two ways: in a circle each is gone when it comes again.
    let mut model = plain();
    run(&mut model, &mapping, &[0x0, 0x2000, 0x4000]);
    let circle = run(&mut model, &mapping, &[0x0, 0x2000, 0x4000]);
    assert_eq!((circle.misses, circle.walks, circle.loads), (3, 3, 3));
}

#[test]
fn leaves_of_2m_and_1g_take_three_and_two_loads() {
    let mapping = mapping(&[(0, GIB, LeafSize::G1), (GIB, 4 << 20, LeafSize::M2)]);
    let mut model = plain();
    let large = run(&mut model, &mapping, &[5]);
    assert_eq!((large.walks_by_size, large.loads), ([0, 0, 1], 2));
    // The top-level entry is cached: third and second level are left.
    let middle = run(&mut model, &mapping, &[GIB + 5]);
    assert_eq!((middle.walks_by_size, middle.loads), ([0, 1, 0], 2));
    let next = run(&mut model, &mapping, &[GIB + (2 << 20)]);
    assert_eq!((next.walks, next.loads), (1, 1));
    // 1G pages have no place in this second level: what the first has dropped is walked again.
    let other = run(&mut model, &mapping, &[7]);
    assert_eq!(other.misses, 0);
}

#[test]
fn a_core_that_keeps_1g_as_2m_walks_for_each_2m() {
    let mapping = mapping(&[(0, 4 * GIB, LeafSize::G1)]);
    // Three 1G pages in a circle; the first level has two entries.
    let circle: Vec<u64> = (0..30).map(|step| step % 3 * GIB).collect();
    let without = run(&mut plain(), &mapping, &circle);
    assert_eq!((without.misses, without.walks), (30, 30));
    let mut model = Model::new(&SPLITTING, Replacement::Lru, Dimensions::One);
    let with = run(&mut model, &mapping, &circle);
    // Numbers 0, 512 and 1024 share a set of two ways: in a circle nothing stays. Spread over both sets, all does.
    assert_eq!(with.walks, 30);
    let spread: Vec<u64> = (0..30)
        .map(|step| [0, GIB + (2 << 20), 2 * GIB][step % 3])
        .collect();
    let mut model = Model::new(&SPLITTING, Replacement::Lru, Dimensions::One);
    assert_eq!(run(&mut model, &mapping, &spread).walks, 3);
}

#[test]
fn four_pages_in_one_entry_take_one_walk() {
    let mapping = mapping(&[(0, 0x8000, LeafSize::K4), (0x9000, 0x3000, LeafSize::K4)]);
    let mut model = Model::new(&COALESCING, Replacement::Lru, Dimensions::One);
    let whole = run(&mut model, &mapping, &[0x4000, 0x5000, 0x6000, 0x7000]);
    assert_eq!((whole.misses, whole.walks), (1, 1));
    // Page 8 is missing, so 9, 10 and 11 stand for themselves.
    let broken = run(&mut model, &mapping, &[0x9000, 0xa000, 0xb000]);
    assert_eq!(broken.walks, 3);
    assert_eq!(run(&mut plain(), &mapping, &[0x4000, 0x5000]).walks, 2);
}

#[test]
fn stores_have_entries_of_their_own() {
    let mapping = mapping(&[(0, 0x8000, LeafSize::K4)]);
    let mut model = plain();
    run(&mut model, &mapping, &[0x0]);
    model.restart();
    model.access(&mapping, 0, 0, true).unwrap();
    // Missed in the store TLB, found in the second level.
    assert_eq!((model.counts().misses, model.counts().walks), (1, 0));
    model.restart();
    model.access(&mapping, 0, 0, true).unwrap();
    model.access(&mapping, 0x1000, 0x1000, true).unwrap();
    model.access(&mapping, 0, 0, true).unwrap();
    // One entry: the other page has pushed it out.
    assert_eq!((model.counts().misses, model.counts().walks), (2, 1));
}

#[test]
fn an_outer_hypervisor_makes_each_load_a_walk() {
    let mapping = mapping(&[(0, 2 << 20, LeafSize::M2)]);
    let mut two = Model::new(&PLAIN, Replacement::Lru, Dimensions::Two(PageSize::K4));
    let first = run(&mut two, &mapping, &[0]);
    // Three loads of the inner tables, at addresses in three pages, and the result in a fourth: four outer walks. The first takes four loads. The inner
    // tables lie in one 2M block, so the two that follow take one. The result lies elsewhere: level 4 (512 GiB) differs too: four.
    assert_eq!(first.loads, 3 + 4 + 1 + 1 + 4);
    // An entry covers the outer 4K, though the inner leaf has 2M.
    let second = run(&mut two, &mapping, &[0, 0x1000]);
    assert_eq!(second.walks, 1);
    let mut large = Model::new(&PLAIN, Replacement::Lru, Dimensions::Two(PageSize::G1));
    assert_eq!(run(&mut large, &mapping, &[0, 0x1000, 0x1f_f000]).walks, 1);
}

#[test]
fn what_is_not_mapped_is_an_error_and_not_counted() {
    let mapping = mapping(&[(0, 0x1000, LeafSize::K4)]);
    let mut model = plain();
    assert_eq!(
        model.access(&mapping, 0x1000, 0x1000, false),
        Err(NotMapped { va: 0x1000 })
    );
    assert_eq!(model.counts(), Counts::default());
}

/// Pages in any order, over 64 MiB.
fn addresses() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec((0_u64..64 << 20).prop_map(|at| at & !63), 1..400)
}

proptest! {
    #[test]
    fn counts_are_ordered_and_larger_leaves_never_walk_more_often(at in addresses(), which in 0..crate::tlb::GEOMETRIES.len(), nru in any::<bool>()) {
        let replacement = if nru { Replacement::Nru } else { Replacement::Lru };
        let geometry = &crate::tlb::GEOMETRIES[which];
        let mut walks = Vec::new();
        for size in [LeafSize::K4, LeafSize::M2, LeafSize::G1] {
            let mapping = mapping(&[(0, if size == LeafSize::G1 { GIB } else { 64 << 20 }, size)]);
            let counts = run(&mut Model::new(geometry, replacement, Dimensions::One), &mapping, &at);
            prop_assert!(counts.walks <= counts.misses && counts.misses <= counts.accesses);
            prop_assert!(counts.walks <= counts.loads && counts.loads <= 4 * counts.walks);
            prop_assert_eq!(counts.walks_by_size.iter().sum::<u64>(), counts.walks);
            let two = run(&mut Model::new(geometry, replacement, Dimensions::Two(PageSize::G1)), &mapping, &at);
            prop_assert_eq!((two.walks, two.misses), (counts.walks, counts.misses));
            prop_assert!(two.loads >= counts.loads);
            walks.push(counts.walks);
        }
        // 64 MiB are 32 pages of 2M, which every first level holds or the second does: nothing is dropped.
        prop_assert!(walks[1] <= 32 && walks[2] <= walks[1] && walks[1] <= walks[0]);
    }

    #[test]
    fn the_same_addresses_again_cost_the_same(at in addresses()) {
        let mapping = mapping(&[(0, 64 << 20, LeafSize::K4)]);
        let once = |model: &mut Model| run(model, &mapping, &at);
        let geometry = crate::tlb::Geometry::named("spr").unwrap();
        let new = || Model::new(geometry, Replacement::Nru, Dimensions::One);
        prop_assert_eq!(once(&mut new()), once(&mut new()));
    }
}
