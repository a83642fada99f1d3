use std::vec::Vec;

use super::*;
use crate::entry::{Format, LeafSize};
use crate::test_ram::{P, TestRam, U, W};

const HIGH: u64 = 0xffff_8000_0000_0000;

fn extent(start: u64, end: u64, owner: u64) -> PrivateExtent {
    PrivateExtent {
        start: Pa::new(start),
        end: Pa::new(end),
        owner,
    }
}

fn host() -> TestRam {
    let mut ram = TestRam::new();
    for region in [0, 1, 2, 6, 7] {
        ram.map(HIGH + (region << 21), region << 21, LeafSize::M2, P | W);
    }
    ram.map(HIGH + (1 << 30), 1 << 30, LeafSize::G1, P);
    ram
}

fn reach(ram: &TestRam, extents: &[PrivateExtent]) -> Option<Reach> {
    match check_unreachable(&ram.tables(), &PrivateSet::new(extents).unwrap()) {
        Ok(_) => None,
        Err(PrivateViolation::Reached(reach)) => Some(reach),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn unreachable_memory_passes_and_is_counted() {
    let set = [extent(3 << 21, 6 << 21, 1), extent(8 << 21, 9 << 21, 2)];
    let stats = check_unreachable(&host().tables(), &PrivateSet::new(&set).unwrap()).unwrap();
    assert_eq!((stats.leaves.m2, stats.leaves.g1, stats.tables), (5, 1, 3));
}

#[test]
fn the_first_reachable_byte_is_named() {
    let ram = host();
    let found = reach(&ram, &[extent(3 << 21, (6 << 21) + 0x1000, 9)]).unwrap();
    assert_eq!(
        (found.va.get(), found.pa.get(), found.owner),
        (HIGH + (6 << 21), 6 << 21, 9)
    );
    // In the middle of a 1G leaf.
    let found = reach(&ram, &[extent((1 << 30) + 0x5000, (1 << 30) + 0x6000, 4)]).unwrap();
    assert_eq!(
        (found.va.get(), found.pa.get()),
        (HIGH + (1 << 30) + 0x5000, (1 << 30) + 0x5000)
    );
}

#[test]
fn an_alias_far_from_the_direct_map_is_found() {
    let mut ram = host();
    let private = [extent(3 << 21, 4 << 21, 5)];
    assert_eq!(reach(&ram, &private), None);
    ram.map(0xffff_e000_0000_3000, (3 << 21) + 0x7000, LeafSize::K4, P);
    let found = reach(&ram, &private).unwrap();
    assert_eq!(
        (found.va.get(), found.pa.get()),
        (0xffff_e000_0000_3000, (3 << 21) + 0x7000)
    );
}

#[test]
fn a_table_in_private_memory_is_found() {
    let mut ram = host();
    let private = [extent(3 << 21, 4 << 21, 5)];
    ram.write_leaf(HIGH + (2 << 30), 3, P | 3 << 21);
    assert_eq!(reach(&ram, &private).unwrap().table, Some(2));
}

#[test]
fn a_set_out_of_order_is_refused() {
    for (extents, index) in [
        ([extent(0x2000, 0x3000, 1), extent(0, 0x1000, 1)], 1),
        ([extent(0, 0x3000, 1), extent(0x2000, 0x4000, 2)], 1),
        ([extent(0x1000, 0x1000, 1), extent(0x2000, 0x3000, 1)], 0),
        ([extent(0x1000, 0x1800, 1), extent(0x2000, 0x3000, 1)], 0),
    ] {
        assert_eq!(PrivateSet::new(&extents).unwrap_err(), SetError { index });
    }
}

#[test]
fn regions_are_counted_once() {
    let extents = [
        extent(0, 0x1000, 1),
        extent(0x5000, 0x6000, 2),
        extent(2 << 21, (4 << 21) + 0x1000, 1),
    ];
    assert_eq!(PrivateSet::new(&extents).unwrap().regions(), 4);
}

/// A guest of owner 1 with 2M leaves for regions 8 to 11, and two 4K leaves of region 20.
pub(crate) fn guest() -> (TestRam, Vec<PrivateExtent>) {
    let mut ram = TestRam::with_format(Format::nested(false, 40));
    for (gpa, region) in [(0, 10), (1, 8), (2, 9), (3, 11)] {
        ram.map(gpa << 21, region << 21, LeafSize::M2, P | W | U);
    }
    ram.map(4 << 21, (20 << 21) + 0x1000, LeafSize::K4, P | W | U);
    ram.map((4 << 21) + 0x1000, (20 << 21) + 0x3000, LeafSize::K4, P | W | U);
    let extents = [
        extent(8 << 21, 12 << 21, 1),
        extent(12 << 21, 13 << 21, 2),
        extent((20 << 21) + 0x1000, (20 << 21) + 0x2000, 1),
        extent((20 << 21) + 0x3000, (20 << 21) + 0x4000, 1),
    ];
    (ram, extents.into())
}

pub(crate) fn second_stage(ram: &TestRam, extents: &[PrivateExtent]) -> Result<Stats, SecondStageViolation> {
    check_second_stage(
        &ram.tables(),
        &PrivateSet::new(extents).unwrap(),
        ExpectedGuest::all_private(1),
    )
}

#[test]
fn a_guest_that_maps_its_own_frames_once_passes() {
    let (ram, extents) = guest();
    let stats = second_stage(&ram, &extents).unwrap();
    assert_eq!((stats.leaves.m2, stats.leaves.k4), (4, 2));
}

#[test]
fn frames_of_others_in_a_guest_are_found() {
    let (mut ram, extents) = guest();
    ram.map(9 << 21, 12 << 21, LeafSize::M2, P | W | U);
    let other = SecondStageViolation::NotOwned {
        gpa: Va::new(9 << 21),
        pa: Pa::new(12 << 21),
        owner: Some(2),
    };
    assert_eq!(second_stage(&ram, &extents), Err(other));
    ram.map(9 << 21, 30 << 21, LeafSize::M2, P | W | U);
    let host = SecondStageViolation::NotOwned {
        gpa: Va::new(9 << 21),
        pa: Pa::new(30 << 21),
        owner: None,
    };
    assert_eq!(second_stage(&ram, &extents), Err(host));
    // The leaf begins in its own memory and ends in another's.
    let (ram, mut extents) = guest();
    extents[0].end = Pa::new((12 << 21) - 0x1000);
    assert!(matches!(
        second_stage(&ram, &extents),
        Err(SecondStageViolation::NotOwned { owner: None, .. })
    ));
}

#[test]
fn a_frame_mapped_twice_or_never_is_found() {
    let (mut ram, extents) = guest();
    ram.map(9 << 21, 8 << 21, LeafSize::M2, P | W | U);
    assert!(matches!(
        second_stage(&ram, &extents),
        Err(SecondStageViolation::NotOnce { .. })
    ));
    // Twice one and never another: the number of bytes is right.
    let (mut ram, extents) = guest();
    ram.map(0, 8 << 21, LeafSize::M2, P | W | U);
    assert!(matches!(
        second_stage(&ram, &extents),
        Err(SecondStageViolation::NotOnce { .. })
    ));
    let (mut ram, extents) = guest();
    ram.map(4 << 21, (20 << 21) + 0x3000, LeafSize::K4, P | W | U);
    assert!(matches!(
        second_stage(&ram, &extents),
        Err(SecondStageViolation::NotOnce { .. })
    ));
    let (mut ram, extents) = guest();
    ram.write_leaf(0, 2, 0);
    assert!(matches!(
        second_stage(&ram, &extents),
        Err(SecondStageViolation::NotOnce { .. })
    ));
}

/// RAM in which private memory cannot be read, as in the hypervisor.
struct Unreadable<'r>(&'r TestRam, &'r PrivateSet<'r>);

impl PhysicalRead for Unreadable<'_> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        assert!(
            self.1.overlap(pa, Pa::new(pa.get() + 8)).is_none(),
            "private memory was read at {pa}"
        );
        self.0.read_u64(pa)
    }
}

#[test]
fn a_table_of_a_guest_in_private_memory_is_found_before_it_is_read() {
    // In its own memory, and in another guest's.
    for (region, owner) in [(8, 1), (12, 2)] {
        let (mut ram, extents) = guest();
        let table = (region << 21) + 0x5000;
        ram.write_leaf(5 << 21, 2, table | P | W | U);
        let set = PrivateSet::new(&extents).unwrap();
        let memory = Unreadable(&ram, &set);
        let tables = Tables::new(&memory, ram.format, ram.root());
        let violation = SecondStageViolation::TablePrivate {
            gpa: Va::new(5 << 21),
            level: 1,
            pa: Pa::new(table),
            owner,
        };
        assert_eq!(
            check_second_stage(&tables, &set, ExpectedGuest::all_private(1)),
            Err(violation)
        );
    }
    // The root, of which nothing may be read either.
    let (ram, _) = guest();
    let extents = [extent(ram.root(), ram.root() + 0x1000, 3)];
    let set = PrivateSet::new(&extents).unwrap();
    let memory = Unreadable(&ram, &set);
    let tables = Tables::new(&memory, ram.format, ram.root());
    assert!(matches!(
        check_second_stage(&tables, &set, ExpectedGuest::all_private(1)),
        Err(SecondStageViolation::TablePrivate {
            level: 4,
            owner: 3,
            ..
        })
    ));
}

const SHARED: u64 = 1 << 39;

/// The guest above, but for one 4K page that is shared by way of an ordinary frame, and one 2M region that it can't reach.
#[test]
fn what_is_shared_is_not_private_and_what_is_kept_is_not_missed() {
    let (page, kept) = ((20 << 21) + 0x1000, (10 << 21, 11 << 21));
    let check = |ram: &TestRam, extents: &[PrivateExtent], unreachable: &[(u64, u64)]| {
        let expected = ExpectedGuest {
            owner: 1,
            shared_from: Va::new(SHARED),
            unreachable: unreachable
                .iter()
                .map(|(start, end)| (Pa::new(*start), Pa::new(*end))),
            in_place: core::iter::empty(),
        };
        check_second_stage(&ram.tables(), &PrivateSet::new(extents).unwrap(), expected)
    };
    let shares = || {
        let (mut ram, extents) = guest();
        ram.write_leaf(4 << 21, 1, 0);
        ram.write_leaf(0, 2, 0);
        ram.map(SHARED + (4 << 21), 50 << 21, LeafSize::K4, P | W | U);
        (ram, extents)
    };
    let unreachable = [(page, page + 0x1000), kept];
    let (ram, extents) = shares();
    assert!(check(&ram, &extents, &unreachable).is_ok());
    // One is missing in the list, one is in it twice, one is in it that is mapped, one that is nobody's.
    for wrong in [
        &unreachable[..1],
        &[unreachable[0], kept, kept],
        &[unreachable[0], kept, (8 << 21, 9 << 21)],
        &[unreachable[0], (30 << 21, 31 << 21)],
    ] {
        let found = check(&ram, &extents, wrong);
        assert!(
            matches!(found, Err(SecondStageViolation::NotOnce { .. })),
            "{found:?}"
        );
    }
    // The frame that is kept for the page is mapped there, or another guest's.
    let own = SecondStageViolation::NotInPlace {
        mapped: 0x1000,
        expected: 0,
    };
    let other = SecondStageViolation::SharedPrivate {
        gpa: Va::new(SHARED + (4 << 21) + 0x5000),
        pa: Pa::new(12 << 21),
        owner: 2,
    };
    for (pa, violation) in [(page, own), (12 << 21, other)] {
        let (mut ram, extents) = shares();
        ram.map(SHARED + (4 << 21) + 0x5000, pa, LeafSize::K4, P | W | U);
        assert_eq!(check(&ram, &extents, &unreachable), Err(violation));
    }
    // The ordinary frame at the private alias.
    let (mut ram, extents) = shares();
    ram.map(4 << 21, 50 << 21, LeafSize::K4, P | W | U);
    assert!(matches!(
        check(&ram, &extents, &unreachable),
        Err(SecondStageViolation::NotOwned { owner: None, .. })
    ));
}

/// The guest above, but for one 4K page that is shared in place, and one 2M region of which that is true for one page.
#[test]
fn what_is_shared_in_place_is_reached_at_the_shared_alias_and_nowhere_else() {
    let (page, other) = ((20 << 21) + 0x1000, (10 << 21) + 0x7000);
    let check = |ram: &TestRam, extents: &[PrivateExtent], in_place: &[u64]| {
        let expected = ExpectedGuest {
            owner: 1,
            shared_from: Va::new(SHARED),
            unreachable: core::iter::empty(),
            in_place: in_place.iter().map(|at| (Pa::new(*at), Pa::new(at + 0x1000))),
        };
        check_second_stage(&ram.tables(), &PrivateSet::new(extents).unwrap(), expected)
    };
    let shares = || {
        let (mut ram, extents) = guest();
        ram.write_leaf(4 << 21, 1, 0);
        ram.map(SHARED + (4 << 21), page, LeafSize::K4, P | W | U);
        ram.write_leaf(0, 2, 0);
        for at in (0..512).map(|frame| frame << 12) {
            let alias = if at == 0x7000 { SHARED } else { 0 };
            ram.map(alias + at, (10 << 21) + at, LeafSize::K4, P | W | U);
        }
        (ram, extents)
    };
    let in_place = [page, other];
    let (ram, extents) = shares();
    assert!(check(&ram, &extents, &in_place).is_ok());
    // One too few, one too many, another one in its place.
    for wrong in [&in_place[..1], &[page, other, 8 << 21], &[page, 8 << 21]] {
        let found = check(&ram, &extents, wrong);
        assert!(
            matches!(
                found,
                Err(SecondStageViolation::NotInPlace { mapped: 0x2000, .. })
            ),
            "{found:?}"
        );
    }
    // At both aliases; at two pages of the shared one; at none.
    let (mut ram, extents) = shares();
    ram.map(4 << 21, page, LeafSize::K4, P | W | U);
    assert!(matches!(
        check(&ram, &extents, &in_place),
        Err(SecondStageViolation::NotOnce { .. })
    ));
    let (mut ram, extents) = shares();
    ram.map(SHARED + (4 << 21) + 0x3000, page, LeafSize::K4, P | W | U);
    assert!(matches!(
        check(&ram, &extents, &in_place),
        Err(SecondStageViolation::NotInPlace {
            mapped: 0x3000,
            expected: 0x2000
        })
    ));
    let (mut ram, extents) = shares();
    ram.write_leaf(SHARED + (4 << 21), 1, 0);
    assert!(matches!(
        check(&ram, &extents, &in_place),
        Err(SecondStageViolation::NotInPlace {
            mapped: 0x1000,
            expected: 0x2000
        })
    ));
    // A leaf that is partly its own.
    let (mut ram, mut extents) = shares();
    ram.map(SHARED + (6 << 21), 11 << 21, LeafSize::M2, P | W | U);
    extents[0].end = Pa::new((12 << 21) - 0x1000);
    assert!(matches!(
        check(&ram, &extents, &in_place),
        Err(SecondStageViolation::SharedPrivate { owner: 1, .. } | SecondStageViolation::NotOwned { .. })
    ));
}
