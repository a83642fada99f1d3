//! docs/guest-abi.md says what this crate says.

use guest_abi::{ABI_VERSION, HypercallError, PRINT_MAX, PRINT_SHARED_MAX, cpuid, number};

const DOCUMENT: &str = include_str!("../../../docs/guest-abi.md");

/// The cells of the rows whose first cell is this.
fn row(first: &str) -> Vec<&'static str> {
    let rows: Vec<Vec<&str>> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells[0] == first)
        .collect();
    assert_eq!(rows.len(), 1, "rows that begin with {first}");
    rows[0].clone()
}

#[test]
fn every_error_is_in_the_table_and_no_other() {
    let known: Vec<i64> = (-100..0)
        .filter(|code| HypercallError::from_code(*code).is_some())
        .collect();
    for code in &known {
        let error = HypercallError::from_code(*code).unwrap();
        assert_eq!(row(&code.to_string())[1], error.to_string());
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| -")).count();
    assert_eq!(rows, known.len());
}

#[test]
fn every_call_is_in_the_table_and_no_other() {
    for (number, name) in [
        (number::PRINT, "print"),
        (number::EXIT, "exit"),
        (number::REPORT, "report a value"),
        (number::YIELD, "yield"),
        (number::START_VCPU, "start a vCPU"),
        (number::SHARE, "share"),
        (number::UNSHARE, "unshare"),
        (number::ACCEPT, "accept"),
        (number::PRINT_SHARED, "print from shared pages"),
        (number::SHARE_IN_PLACE, "share in place"),
        (number::UNSHARE_IN_PLACE, "unshare in place"),
        (number::GIVE_BACK, "give back"),
        (number::TAKE_AGAIN, "take again"),
    ] {
        assert_eq!(row(&number.to_string())[1], name);
    }
    let next = format!("| {} |", number::LAST + 1);
    assert!(!DOCUMENT.lines().any(|line| line.starts_with(&next)));
    assert!(row(&number::PRINT.to_string())[2].ends_with(&format!("0 to {PRINT_MAX}")));
    let printed = row(&number::PRINT_SHARED.to_string())[3];
    assert!(printed.ends_with(&format!("0 to {PRINT_SHARED_MAX}")));
}

#[test]
fn every_leaf_is_in_the_table() {
    let leaf = |leaf: u32| format!("{:04X}_{:04X}H", leaf >> 16, leaf & 0xffff);
    assert!(row(&leaf(cpuid::LEAF_SIGNATURE))[1].ends_with(&leaf(cpuid::LEAF_MAX)));
    assert!(row(&leaf(cpuid::LEAF_ABI))[1].ends_with(&format!(": {ABI_VERSION}")));
    assert!(row(&leaf(cpuid::LEAF_ALIASES))[1].ends_with("the shared bit"));
    for number in cpuid::LEAF_MEASUREMENT..=cpuid::LEAF_MEASUREMENT_LAST {
        assert!(row(&leaf(number))[1].contains("measurement"));
    }
}
