use std::vec::Vec;

use super::*;
use crate::address::{Pa, Va};
use crate::entry::{Leaf, LeafSize};
use crate::private::{ExpectedGuest, PrivateExtent, PrivateSet, SecondStageViolation, check_second_stage};
use crate::test_ram::TestRam;
use crate::walk::WalkError;

/// Read, write, execute, write-back, ignore PAT.
const RAM: u64 = 0x77;

fn ram() -> TestRam {
    TestRam::with_format(Format::extended(false, 40))
}

/// The reserved bits that the walk names for one entry, alone in its tables.
fn complaint(format: Format, level: u8, entry: u64) -> Option<u64> {
    let mut ram = TestRam::with_format(format);
    ram.write_leaf(0x40_0000_0000, level, entry);
    match ram.tables().count() {
        Err(WalkError::ReservedBits {
            reserved,
            level: at_level,
            ..
        }) => {
            assert_eq!(at_level, level);
            Some(reserved)
        }
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn leaves_of_all_sizes() {
    let mut ram = ram();
    ram.map(0x1000, 0x5000, LeafSize::K4, RAM);
    ram.map(0x20_0000, 0x60_0000, LeafSize::M2, RAM & !EXECUTE | ACCESSED);
    ram.map(0x4000_0000, 0xc000_0000, LeafSize::G1, READ | EXECUTE | DIRTY);
    let leaves: Vec<Leaf> = ram.tables().leaves().map(|leaf| leaf.unwrap()).collect();
    let shape: Vec<_> = leaves
        .iter()
        .map(|leaf| (leaf.va.get(), leaf.pa.get(), leaf.accessed, leaf.dirty))
        .collect();
    assert_eq!(
        shape,
        [
            (0x1000, 0x5000, false, false),
            (0x20_0000, 0x60_0000, true, false),
            (0x4000_0000, 0xc000_0000, false, true)
        ]
    );
    let rights: Vec<_> = leaves
        .iter()
        .map(|leaf| (leaf.attributes.writable, leaf.attributes.execute))
        .collect();
    assert_eq!(rights, [(true, true), (true, false), (false, true)]);
    // Guest-physical addresses have no sign.
    ram.map(0xffff_8000_0000, 0x7000, LeafSize::K4, RAM);
    let found = ram.tables().translate(Va::new(0xffff_8000_0123)).unwrap();
    assert_eq!(found.map(|(_, pa)| pa), Some(Pa::new(0x7123)));
}

#[test]
fn an_entry_that_allows_nothing_is_absent_and_any_permission_is_presence() {
    let mut ram = ram();
    // All other bits are ignored then.
    ram.write_leaf(0, 2, !7);
    assert_eq!(ram.tables().count().unwrap().leaves.bytes(), 0);
    // Without bit 0, which is what makes a long-mode entry present.
    let execute_only = Format::extended(false, 40).with_execute_only();
    let mut ram = TestRam::with_format(execute_only);
    ram.write_leaf(0, 2, 0x20_00f4);
    assert_eq!(ram.tables().count().unwrap().leaves.m2, 1);
}

/// Each rule of 29.3.3.1, broken alone.
#[test]
fn misconfigurations_are_named() {
    let format = Format::extended(false, 40);
    let leaf = 0x4000_0000 | RAM | LEAF;
    for level in [2, 3] {
        assert_eq!(complaint(format, level, leaf), None);
        assert_eq!(
            complaint(format, level, leaf | 1 << 12),
            Some(1 << 12),
            "level {level}"
        );
        assert_eq!(complaint(format, level, leaf | 1 << 40), Some(1 << 40));
    }
    assert_eq!(complaint(format, 2, leaf | 1 << 20), Some(1 << 20));
    assert_eq!(complaint(format, 2, leaf | 1 << 21), None);
    assert_eq!(complaint(format, 3, leaf | 1 << 29), Some(1 << 29));
    // A large leaf where the CPU knows none.
    assert_eq!(
        complaint(format.without_gigabyte_leaves(), 3, 0x4000_0087),
        Some(0x80)
    );
    // Memory types 2, 3 and 7.
    for (kind, wrong) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (4, false),
        (5, false),
        (7, true),
    ] {
        let entry = 0x1000 | 7 | kind << 3;
        assert_eq!(
            complaint(format, 1, entry),
            wrong.then_some(kind << 3),
            "type {kind}"
        );
    }
    // Writable or executable without being readable.
    assert_eq!(complaint(format, 1, 0x1000 | 0x70 | WRITE), Some(WRITE));
    assert_eq!(complaint(format, 1, 0x1000 | 0x70 | EXECUTE), Some(EXECUTE));
    assert_eq!(
        complaint(format.with_execute_only(), 1, 0x1000 | 0x70 | EXECUTE),
        None
    );
    assert_eq!(
        complaint(format.with_execute_only(), 1, 0x1000 | 0x70 | EXECUTE | WRITE),
        Some(WRITE)
    );
    // Entries that point to a table have no memory type, and the top level no leaf.
    for level in [2, 3, 4] {
        assert_eq!(
            complaint(format, level, 0x30_0000 | 7 | 1 << 6),
            Some(1 << 6),
            "level {level}"
        );
    }
    assert_eq!(complaint(format, 4, 0x30_0000 | 7 | LEAF), Some(LEAF));
    // Ignored: bits 8 to 11, and 52 to 63.
    assert_eq!(complaint(format, 2, leaf | 0xf00 | 0xfff << 52), None);
}

#[test]
fn rights_are_those_of_all_levels() {
    let mut ram = ram();
    ram.map(0, 0x20_0000, LeafSize::M2, RAM);
    let upper = ram.entry_at(0, 4);
    let entry = ram.words(upper);
    ram.write(upper, entry & !WRITE);
    let leaf = ram.tables().leaves().next().unwrap().unwrap();
    assert!(!leaf.attributes.writable && leaf.attributes.execute);
}

#[test]
fn a_guest_that_could_bypass_the_caches_is_found() {
    let extents = [PrivateExtent {
        start: Pa::new(0x20_0000),
        end: Pa::new(0x40_0000),
        owner: 3,
    }];
    let private = PrivateSet::new(&extents).unwrap();
    let check = |flags| {
        let mut ram = ram();
        ram.map(0, 0x20_0000, LeafSize::M2, flags);
        check_second_stage(&ram.tables(), &private, ExpectedGuest::all_private(3))
    };
    assert!(check(RAM).is_ok());
    let violation = Err(SecondStageViolation::NotWriteBack { gpa: Va::new(0) });
    // PAT not ignored; uncacheable; write-through.
    for flags in [0x37, 0x47, 0x67] {
        assert_eq!(check(flags), violation, "{flags:#x}");
    }
}
