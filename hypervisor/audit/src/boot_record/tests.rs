use std::string::ToString;
use std::{vec, vec::Vec};

use super::*;
use crate::direct_map::Extent;
use crate::entry::LeafSize;
use crate::private::PrivateExtent;
use crate::test_ram::{NX, P, TestRam, W};

const BASE: u64 = 0xffff_8000_0000_0000;
const FLAGS: u64 = P | W | NX;

/// 3 GiB + 6 MiB of RAM: the first gigablock in 2M leaves but for 4K leaves with a gap in its first region, two 1G leaves, three 2M leaves.
fn machine() -> (TestRam, Vec<Extent>) {
    let mut ram = TestRam::new();
    for page in (0..512).filter(|page| !(0xa0..0x100).contains(page)) {
        let flags = if page < 0x80 { P | NX } else { FLAGS };
        ram.map(BASE + (page << 12), page << 12, LeafSize::K4, flags);
    }
    for region in 1..512 {
        ram.map(BASE + (region << 21), region << 21, LeafSize::M2, FLAGS);
    }
    for gigablock in 1..3 {
        ram.map(BASE + (gigablock << 30), gigablock << 30, LeafSize::G1, FLAGS);
    }
    for region in 1536..1539 {
        ram.map(BASE + (region << 21), region << 21, LeafSize::M2, FLAGS);
    }
    let extent = |start, end| Extent {
        start: Pa::new(start),
        end: Pa::new(end),
    };
    (ram, vec![extent(0, 0xa_0000), extent(0x10_0000, 1539 << 21)])
}

fn hole(region: u64, count: u64, owner: u64) -> PrivateExtent {
    PrivateExtent {
        start: Pa::new(region << 21),
        end: Pa::new((region + count) << 21),
        owner,
    }
}

/// Captures, changes the machine, checks.
fn check_after(
    holes: &[PrivateExtent],
    change: impl FnOnce(&mut TestRam),
) -> Result<BootCheck, BootViolation> {
    let (mut ram, extents) = machine();
    let map = DirectMap::new(Va::new(BASE), 96 << 40, &extents).unwrap();
    let mut storage = vec![0; map.slots()];
    let record = BootRecord::capture(map, &ram.tables(), &mut storage).unwrap();
    change(&mut ram);
    record.check(&ram.tables(), &PrivateSet::new(holes).unwrap())
}

fn hide(ram: &mut TestRam, region: u64) {
    ram.write_leaf(BASE + (region << 21), 2, 0);
}

fn split_and_hide(ram: &mut TestRam) {
    ram.split_gigabyte(BASE + (1 << 30));
    hide(ram, 512);
    hide(ram, 700);
    hide(ram, 701);
}

const HOLES: fn() -> [PrivateExtent; 2] = || [hole(512, 1, 7), hole(700, 2, 8)];

#[test]
fn an_untouched_map_is_as_at_boot() {
    let check = check_after(&[], |_| ()).unwrap();
    let leaves = LeafCounts {
        g1: 2,
        m2: 514,
        k4: 512 - 0x60,
    };
    assert_eq!(
        check,
        BootCheck {
            gigablocks_as_boot: 4,
            gigablocks_with_holes: 0,
            holes: 0,
            leaves
        }
    );
}

#[test]
fn accessed_and_dirty_do_not_count() {
    let seen = |ram: &mut TestRam| ram.map(BASE + (1 << 30), 1 << 30, LeafSize::G1, FLAGS | 0x60);
    assert!(check_after(&[], seen).is_ok());
}

#[test]
fn holes_as_whole_regions_are_in_order() {
    let check = check_after(&HOLES(), split_and_hide).unwrap();
    assert_eq!(
        (check.gigablocks_as_boot, check.gigablocks_with_holes, check.holes),
        (3, 1, 3)
    );
    assert_eq!(
        check.leaves,
        LeafCounts {
            g1: 1,
            m2: 514 + 509,
            k4: 512 - 0x60
        }
    );
}

#[test]
fn a_gigablock_of_holes_may_lose_its_entry() {
    let absent = |ram: &mut TestRam| ram.write_leaf(BASE + (2 << 30), 3, 0);
    let check = check_after(&[hole(1024, 512, 1)], absent).unwrap();
    assert_eq!((check.holes, check.leaves.g1), (512, 1));
}

#[test]
fn a_mapped_hole_is_found() {
    let violation = check_after(&HOLES(), |ram| {
        split_and_hide(ram);
        ram.map(BASE + (701 << 21), 701 << 21, LeafSize::M2, FLAGS);
    });
    let (pa, va) = (Pa::new(701 << 21), Va::new(BASE + (701 << 21)));
    assert_eq!(violation, Err(BootViolation::HoleMapped { pa, va, owner: 8 }));
}

#[test]
fn one_page_left_in_a_hole_is_found() {
    let violation = check_after(&HOLES(), |ram| {
        split_and_hide(ram);
        ram.map(
            BASE + (700 << 21) + 0x5000,
            (700 << 21) + 0x5000,
            LeafSize::K4,
            FLAGS,
        );
    });
    assert!(
        matches!(violation, Err(BootViolation::HoleMapped { owner: 8, .. })),
        "{violation:?}"
    );
}

#[test]
fn a_hole_under_an_unsplit_leaf_is_found() {
    let violation = check_after(&HOLES(), |_| ());
    assert!(
        matches!(violation, Err(BootViolation::HoleMapped { owner: 7, .. })),
        "{violation:?}"
    );
}

#[test]
fn a_leaf_left_split_is_found() {
    let violation = check_after(&[], |ram| ram.split_gigabyte(BASE + (1 << 30))).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "region 0x40000000 (at 0xffff800040000000) is a 2M leaf, and must be part of a 1G leaf"
    );
}

#[test]
fn small_leaves_beside_a_hole_are_found() {
    let violation = check_after(&HOLES(), |ram| {
        split_and_hide(ram);
        hide(ram, 600);
        for page in 0..512 {
            let at = (600 << 21) + (page << 12);
            ram.map(BASE + at, at, LeafSize::K4, FLAGS);
        }
    });
    let violation = violation.unwrap_err().to_string();
    assert!(
        violation.ends_with("is 4K leaves, and must be a 2M leaf"),
        "{violation}"
    );
}

#[test]
fn a_region_that_stayed_absent_is_found() {
    let violation = check_after(&HOLES(), |ram| {
        split_and_hide(ram);
        hide(ram, 513);
    });
    assert!(
        matches!(violation, Err(BootViolation::Changed { found: ABSENT, .. })),
        "{violation:?}"
    );
}

#[test]
fn changed_attributes_are_found() {
    for flags in [P | NX, P | W, FLAGS | 1 << 8, FLAGS | 1 << 4, FLAGS | 1 << 12] {
        let violation = check_after(&HOLES(), |ram| {
            split_and_hide(ram);
            ram.map(BASE + (800 << 21), 800 << 21, LeafSize::M2, flags);
        });
        let violation = violation.unwrap_err().to_string();
        assert!(
            violation.ends_with("with other attributes or pages"),
            "{violation}"
        );
    }
}

#[test]
fn a_changed_small_leaf_is_found() {
    let violation = check_after(&[], |ram| ram.map(BASE + 0x3000, 0x3000, LeafSize::K4, FLAGS));
    assert!(
        matches!(violation, Err(BootViolation::Changed { .. })),
        "{violation:?}"
    );
    let violation = check_after(&[], |ram| ram.write_leaf(BASE + 0x3000, 1, 0));
    assert!(
        matches!(violation, Err(BootViolation::Changed { .. })),
        "{violation:?}"
    );
}

#[test]
fn a_leaf_that_goes_elsewhere_or_to_no_ram_is_found() {
    let violation = check_after(&[], |ram| ram.map(BASE + (5 << 21), 6 << 21, LeafSize::M2, FLAGS));
    assert!(
        matches!(violation, Err(BootViolation::Scan(ScanError::NotLinear { .. }))),
        "{violation:?}"
    );
    let violation = check_after(&[], |ram| ram.map(BASE + 0xb_0000, 0xb_0000, LeafSize::K4, FLAGS));
    assert!(
        matches!(violation, Err(BootViolation::Scan(ScanError::NotRam { .. }))),
        "{violation:?}"
    );
    // Beyond the last RAM, so after the last block.
    let violation = check_after(&[], |ram| {
        ram.map(BASE + (50 << 30), 50 << 30, LeafSize::G1, FLAGS)
    });
    assert!(
        matches!(violation, Err(BootViolation::Scan(ScanError::NotRam { .. }))),
        "{violation:?}"
    );
}

#[test]
fn a_hole_without_ram_is_found() {
    let violation = check_after(&[hole(30000, 2, 1)], |_| ());
    assert_eq!(violation, Err(BootViolation::HoleNotRam { found: 0, given: 2 }));
}

#[test]
fn capture_refuses_the_wrong_storage_and_a_wrong_map() {
    let (mut ram, extents) = machine();
    let map = DirectMap::new(Va::new(BASE), 96 << 40, &extents).unwrap();
    let mut storage = vec![0; map.slots() - 1];
    let error = BootRecord::capture(map, &ram.tables(), &mut storage).unwrap_err();
    assert_eq!(
        error,
        CaptureError::Storage {
            needed: 1539,
            given: 1538
        }
    );
    ram.map(BASE + (50 << 30), 50 << 30, LeafSize::G1, FLAGS);
    let mut storage = vec![0; map.slots()];
    let error = BootRecord::capture(map, &ram.tables(), &mut storage).unwrap_err();
    assert!(
        matches!(error, CaptureError::Scan(ScanError::NotRam { .. })),
        "{error:?}"
    );
}

#[test]
fn the_digest_is_stable_and_tells_maps_apart() {
    let (mut ram, extents) = machine();
    let map = DirectMap::new(Va::new(BASE), 96 << 40, &extents).unwrap();
    let digest = |ram: &TestRam| {
        let mut storage = vec![0; map.slots()];
        BootRecord::capture(map, &ram.tables(), &mut storage)
            .unwrap()
            .digest()
    };
    let first = digest(&ram);
    assert_eq!(first, digest(&ram));
    ram.split_gigabyte(BASE + (2 << 30));
    assert_ne!(first, digest(&ram));
}
