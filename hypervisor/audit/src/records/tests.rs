use super::*;
use crate::entry::LeafSize;
use crate::private::tests::{guest, second_stage};
use crate::test_ram::{P, TestRam, U, W};

/// What a mapper would have noted about the frames of [`guest`].
fn noted(pa: Pa) -> Option<Record> {
    let (region, offset) = (pa.get() >> 21, pa.get() & ((1 << 21) - 1));
    let gpa = match (region, offset) {
        (10, _) => offset,
        (8, _) => (1 << 21) + offset,
        (9, _) => (2 << 21) + offset,
        (11, _) => (3 << 21) + offset,
        (20, 0x1000) => 4 << 21,
        (20, 0x3000) => (4 << 21) + 0x1000,
        _ => return None,
    };
    Some(Record {
        owner: 1,
        gpa: Va::new(gpa),
    })
}

#[test]
fn leaves_that_agree_with_the_records_pass() {
    let (ram, _) = guest();
    assert_eq!(check_records(&ram.tables(), 1, |pa, _| noted(pa)), Ok(()));
}

#[test]
fn a_leaf_that_differs_from_the_records_is_found() {
    let differs = |ram: &TestRam, record: &dyn Fn(Pa) -> Option<Record>| match check_records(
        &ram.tables(),
        1,
        |pa, _| record(pa),
    ) {
        Err(RecordViolation::Differs { gpa, pa, recorded }) => {
            (gpa.get(), pa.get(), recorded.map(|record| record.owner))
        }
        other => panic!("{other:?}"),
    };
    let (ram, _) = guest();
    let last = (11 << 21) + 0x1f_f000;
    // The last frame of a 2M leaf has another owner, no owner, another address.
    let with_last = |wrong: Option<Record>| move |pa: Pa| if pa.get() == last { wrong } else { noted(pa) };
    let right = noted(Pa::new(last)).unwrap();
    let at = (3 << 21) + 0x1f_f000;
    assert_eq!(
        differs(&ram, &with_last(Some(Record { owner: 2, ..right }))),
        (at, last, Some(2))
    );
    assert_eq!(differs(&ram, &with_last(None)), (at, last, None));
    let moved = Record {
        gpa: Va::new(0),
        ..right
    };
    assert_eq!(differs(&ram, &with_last(Some(moved))), (at, last, Some(1)));
    // Two regions swapped: each frame is the guest's and mapped once, but not where it was noted.
    let (mut ram, extents) = guest();
    ram.map(0, 8 << 21, LeafSize::M2, P | W | U);
    ram.map(1 << 21, 10 << 21, LeafSize::M2, P | W | U);
    assert!(second_stage(&ram, &extents).is_ok());
    assert_eq!(differs(&ram, &noted), (0, 8 << 21, Some(1)));
}
