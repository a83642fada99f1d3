use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::test_ram::{NX, P, TestRam, U, W};

const HIGH: u64 = 0xffff_8000_0000_0000;

fn error(ram: &TestRam) -> WalkError {
    ram.tables().count().unwrap_err()
}

#[test]
fn all_sizes_are_walked_in_order_and_translated() {
    let mut ram = TestRam::new();
    ram.map(HIGH + (3 << 30), 7 << 30, LeafSize::G1, P | W | NX);
    ram.map(HIGH + (5 << 21), 9 << 21, LeafSize::M2, P | W);
    ram.map(0x7000, 0x1_3000, LeafSize::K4, P | U);
    let leaves: Vec<Leaf> = ram.tables().leaves().map(|leaf| leaf.unwrap()).collect();
    let shape: Vec<_> = leaves
        .iter()
        .map(|leaf| (leaf.va.get(), leaf.pa.get(), leaf.size))
        .collect();
    assert_eq!(
        shape,
        [
            (0x7000, 0x1_3000, LeafSize::K4),
            (HIGH + (5 << 21), 9 << 21, LeafSize::M2),
            (HIGH + (3 << 30), 7 << 30, LeafSize::G1)
        ]
    );
    let stats = ram.tables().count().unwrap();
    assert_eq!(
        stats,
        Stats {
            leaves: LeafCounts { g1: 1, m2: 1, k4: 1 },
            tables: 6
        }
    );
    assert_eq!(stats.leaves.bytes(), (1 << 30) + (1 << 21) + (1 << 12));
    let to = |va| {
        ram.tables()
            .translate(Va::new(va))
            .unwrap()
            .map(|(_, pa)| pa.get())
    };
    assert_eq!(to(0x7abc), Some(0x1_3abc));
    assert_eq!(to(HIGH + (5 << 21) + 0x12_3456), Some((9 << 21) + 0x12_3456));
    assert_eq!(to(HIGH + (3 << 30) + 0x3fff_ffff), Some((7 << 30) + 0x3fff_ffff));
    assert_eq!(to(0x8000), None);
    assert_eq!(to(HIGH + (6 << 21)), None);
    // Not canonical: it has the same index bits as a mapped address, and still translates to nothing.
    assert_eq!(to(0x0000_8000_0000_0000 + (5 << 21)), None);
}

#[test]
fn rights_are_those_of_all_levels() {
    let mut ram = TestRam::new();
    ram.map(0, 2 << 21, LeafSize::M2, P | W | U);
    let first = |ram: &TestRam| ram.tables().leaves().next().unwrap().unwrap().attributes;
    let all = first(&ram);
    assert!(all.writable && all.user && all.execute);
    let at = ram.entry_at(0, 3);
    let entry = ram.read_u64(Pa::new(at)).unwrap();
    ram.write(at, entry & !W);
    assert!(!first(&ram).writable && first(&ram).user);
    ram.write(at, entry & !U);
    assert!(!first(&ram).user && first(&ram).writable);
    ram.write(at, entry | NX);
    assert!(!first(&ram).execute);
}

#[test]
fn the_memory_type_moves_with_the_level() {
    let mut ram = TestRam::new();
    ram.write_leaf(0, 1, P | 1 << 7 | 1 << 3);
    ram.write_leaf(2 << 21, 2, P | 1 << 7 | 1 << 12 | 1 << 4 | 1 << 8 | 5 << 59);
    let leaves: Vec<Leaf> = ram.tables().leaves().map(|leaf| leaf.unwrap()).collect();
    let (small, large) = (leaves[0].attributes, leaves[1].attributes);
    assert!(small.pat && small.write_through && !small.cache_disable && !small.global);
    assert!(large.pat && !large.write_through && large.cache_disable && large.global);
    assert_eq!((large.key, leaves[1].pa), (5, Pa::new(0)));
}

#[test]
fn five_levels_and_nested_addresses() {
    let mut ram = TestRam::with_format(Format::host(true, 52));
    ram.map(0xff00_0000_0020_0000, 4 << 21, LeafSize::M2, P);
    assert_eq!(
        ram.tables().leaves().next().unwrap().unwrap().va,
        Va::new(0xff00_0000_0020_0000)
    );
    assert_eq!(ram.tables().count().unwrap().tables, 4);
    let mut ram = TestRam::with_format(Format::nested(false, 52));
    ram.map(0x8000_0020_0000, 4 << 21, LeafSize::M2, P);
    assert_eq!(
        ram.tables().leaves().next().unwrap().unwrap().va,
        Va::new(0x8000_0020_0000)
    );
    assert!(
        ram.tables()
            .translate(Va::new(0x8000_0020_0123))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_range_gives_only_what_meets_it() {
    let mut ram = TestRam::new();
    for region in 0..512 * 3 {
        ram.map(HIGH + (region << 21), region << 21, LeafSize::M2, P);
    }
    let count = |first, last| ram.tables().leaves_in(Va::new(first), Va::new(last)).count();
    assert_eq!(count(HIGH, HIGH), 1);
    assert_eq!(count(HIGH + (2 << 21) - 1, HIGH + (2 << 21)), 2);
    assert_eq!(count(HIGH + (1 << 30), HIGH + (2 << 30) - 1), 512);
    assert_eq!(count(HIGH + (2 << 30), u64::MAX), 512);
    assert_eq!(count(0, HIGH - 1), 0);
    assert_eq!(count(HIGH + 1, HIGH), 0);
}

#[test]
fn every_reserved_bit_is_found() {
    let cases = [
        (4, P | 0x80 | 0x20_0000, 0x80),
        (4, P | 0x100 | 0x20_0000, 0x100),
        (3, P | 0x80 | 1 << 13, 1 << 13),
        (3, P | 0x80 | 1 << 29, 1 << 29),
        (2, P | 0x80 | 1 << 20, 1 << 20),
        (2, P | 1 << 40, 1 << 40),
        (1, P | 1 << 51, 1 << 51),
    ];
    for (level, planted, expected) in cases {
        let mut ram = TestRam::new();
        ram.write_leaf(0, level, planted);
        match error(&ram) {
            WalkError::ReservedBits {
                reserved,
                level: found,
                entry,
                ..
            } => {
                assert_eq!((reserved, found, entry), (expected, level, planted));
            }
            other => panic!("{other}"),
        }
    }
    let mut ram = TestRam::with_format(Format::host(false, 40).without_no_execute());
    ram.map(0, 0, LeafSize::M2, P | NX);
    assert!(matches!(
        error(&ram),
        WalkError::ReservedBits { reserved: NX, .. }
    ));
    let mut ram = TestRam::with_format(Format::host(false, 40).without_gigabyte_leaves());
    ram.map(0, 0, LeafSize::G1, P);
    assert!(matches!(
        error(&ram),
        WalkError::ReservedBits {
            reserved: 0x80,
            level: 3,
            ..
        }
    ));
}

#[test]
fn a_loop_and_a_table_outside_ram_name_their_place() {
    let mut ram = TestRam::new();
    ram.map(HIGH, 0, LeafSize::M2, P);
    let root = ram.root();
    ram.write_leaf(HIGH + (1 << 30), 3, P | root);
    let text = error(&ram).to_string();
    assert!(
        text.contains("for 0xffff800040000000") && text.contains("the table 0x100000 above"),
        "{text}"
    );
    ram.write_leaf(HIGH + (1 << 30), 3, P | 100 << 30);
    assert_eq!(
        error(&ram),
        WalkError::TableOutsideMemory {
            va: Va::new(HIGH + (1 << 30)),
            level: 2,
            at: Pa::new(100 << 30)
        }
    );
    let walk = ram.tables().walk();
    assert!(
        walk.skip_while(|step| step.is_ok()).nth(1).is_none(),
        "an error ends the walk"
    );
}

#[test]
fn too_many_tables_is_an_error() {
    let mut ram = TestRam::new();
    ram.map(0, 0, LeafSize::K4, P);
    assert!(ram.tables().with_table_limit(4).count().is_ok());
    let error = ram.tables().with_table_limit(3).count().unwrap_err();
    assert_eq!(error, WalkError::TooManyTables { limit: 3 });
}

/// Words that follow from their address: every table is full of accidental entries.
struct Noise {
    seed: u64,
    mask: u64,
}

impl PhysicalRead for Noise {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        Some(crate::address::mix(pa.get() ^ self.seed) & self.mask)
    }
}

#[test]
fn noise_in_place_of_tables_ends_in_an_error_or_in_leaves() {
    let mut leaves = 0;
    let mut errors = 0;
    // Once as it comes, once without the bits that are reserved most often, so that walks go deep.
    for mask in [
        u64::MAX,
        0x7fff_ff3f_ffff_fe7f,
        0x0000_00ff_ffff_f07f,
        0x0000_00ff_c000_10ff,
    ] {
        for seed in 0..20 {
            let noise = Noise { seed, mask };
            for format in [
                Format::host(false, 40),
                Format::host(true, 52),
                Format::nested(false, 48),
            ] {
                let tables = Tables::new(&noise, format, seed << 12).with_table_limit(50);
                match tables.for_each_leaf(|leaf| {
                    leaves += 1;
                    let (found, pa) = tables.translate(leaf.va).unwrap().unwrap();
                    assert_eq!((found, pa), (leaf, leaf.pa));
                }) {
                    Ok(stats) => assert!(stats.tables <= 50),
                    Err(_) => errors += 1,
                }
            }
        }
    }
    assert!(leaves > 1000 && errors > 100, "{leaves} leaves, {errors} errors");
}

#[test]
fn translations_are_those_that_were_mapped() {
    let mut ram = TestRam::new();
    let mut mapped = Vec::new();
    for place in 0..300_u64 {
        let random = crate::address::mix(place + 1);
        let size = [LeafSize::K4, LeafSize::M2, LeafSize::G1][(place % 3) as usize];
        // Each place has its own gigabyte in either half, so that no leaf is in another's way.
        let half = if place % 2 == 0 { 0 } else { HIGH };
        let va = half + (place << 30) + (random % (1 << 30)) / size.bytes() * size.bytes();
        let pa = (random >> 20) % (32 << 30) / size.bytes() * size.bytes();
        ram.map(va, pa, size, P | W);
        mapped.push((va, pa, size.bytes()));
    }
    for (va, pa, bytes) in mapped {
        let to = |va| {
            ram.tables()
                .translate(Va::new(va))
                .unwrap()
                .map(|(_, pa)| pa.get())
        };
        for offset in [0, 1, bytes / 2 + 3, bytes - 1] {
            assert_eq!(to(va + offset), Some(pa + offset));
        }
        assert_eq!((to(va.wrapping_sub(1)), to(va + bytes)), (None, None), "{va:#x}");
    }
}
