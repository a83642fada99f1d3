use std::vec::Vec;

use super::*;
use crate::test_ram::{P, TestRam, W};

fn extent(start: u64, end: u64) -> Extent {
    Extent {
        start: Pa::new(start),
        end: Pa::new(end),
    }
}

#[test]
fn ram_decides_the_number_of_slots() {
    let base = Va::new(0xffff_8000_0000_0000);
    let slots = |ram: &[Extent]| DirectMap::new(base, 96 << 40, ram).unwrap().slots();
    assert_eq!(slots(&[]), 0);
    assert_eq!(slots(&[extent(0, 128 << 20)]), 64);
    // Three extents share the first block; RAM far away costs what it holds.
    let far = 64 << 40;
    let ram = [
        extent(0, 0x9_f000),
        extent(0x10_0000, 0x18_0000),
        extent(0x18_0000, 4 << 21),
        extent(far, far + (1 << 30)),
    ];
    assert_eq!(slots(&ram), 4 + 512);
}

#[test]
fn wrong_layouts_are_refused() {
    let at = |base, bytes, ram: &[Extent]| DirectMap::new(Va::new(base), bytes, ram).err();
    assert_eq!(at(0x1000, 1 << 30, &[]), Some(LayoutError::NotAligned));
    assert_eq!(at(u64::MAX << 30, 2 << 30, &[]), Some(LayoutError::NotAligned));
    assert_eq!(at(0, 0, &[]), Some(LayoutError::NotAligned));
    assert_eq!(at(u64::MAX << 30, 1 << 30, &[]), None);
    for ram in [
        [extent(0, 8192), extent(4096, 12288)],
        [extent(8192, 12288), extent(0, 4096)],
    ] {
        assert_eq!(at(0, 1 << 30, &ram), Some(LayoutError::Extent { index: 1 }));
    }
    assert_eq!(
        at(0, 1 << 30, &[extent(0, 100)]),
        Some(LayoutError::Extent { index: 0 })
    );
    assert_eq!(
        at(0, 1 << 30, &[extent(0, 2 << 30)]),
        Some(LayoutError::Extent { index: 0 })
    );
}

#[test]
fn each_block_of_ram_comes_once_with_its_state() {
    let base = 0xffff_8000_0000_0000;
    let mut ram = TestRam::new();
    ram.map(base + 0x3000, 0x3000, LeafSize::K4, P);
    ram.map(base + (1 << 21), 1 << 21, LeafSize::M2, P | W);
    ram.map(base + (1 << 30), 1 << 30, LeafSize::G1, P | W);
    let extents = [
        extent(0, 0x8000),
        extent(0x10_0000, 3 << 21),
        extent(1 << 30, 1 << 31),
    ];
    let map = DirectMap::new(Va::new(base), 1 << 40, &extents).unwrap();
    let tables = ram.tables();
    let regions: Vec<Region> = map.scan(&tables).map(|region| region.unwrap()).collect();
    assert_eq!(regions.len(), 3 + 512);
    assert!(
        regions
            .iter()
            .enumerate()
            .all(|(slot, region)| region.slot == slot)
    );
    assert!(matches!(regions[0].state, RegionState::Small4K { leaves: 1, .. }));
    assert!(matches!(regions[1].state, RegionState::Leaf2M(_)));
    assert_eq!(regions[2].state, RegionState::Absent);
    assert!(
        regions[3..]
            .iter()
            .all(|region| matches!(region.state, RegionState::In1G(_)))
    );
    let mut sum = LeafCounts::default();
    regions.iter().for_each(|region| sum.g1 += region.leaves().g1);
    assert_eq!(sum.g1, 1);
    assert_eq!(
        (regions[3].pa, regions[514].pa),
        (Pa::new(1 << 30), Pa::new((1 << 31) - M2))
    );
}

#[test]
fn a_leaf_may_cross_extents_that_touch_but_no_gap() {
    let mut ram = TestRam::new();
    ram.map(0, 0, LeafSize::M2, P | W);
    let touching = [extent(0, 0x1000), extent(0x1000, 0x20_0000)];
    let gap = [extent(0, 0x1000), extent(0x2000, 0x20_0000)];
    let tables = ram.tables();
    assert!(
        DirectMap::new(Va::new(0), 1 << 30, &touching)
            .unwrap()
            .scan(&tables)
            .all(|region| region.is_ok())
    );
    let map = DirectMap::new(Va::new(0), 1 << 30, &gap).unwrap();
    let found: Vec<_> = map.scan(&tables).collect();
    assert!(matches!(found[..], [Err(ScanError::NotRam { .. })]), "{found:?}");
}
