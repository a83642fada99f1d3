//! Shares ranges of every kind in place: what they hold is at the shared alias then, what is written there is at the private one afterwards, and
//! neighbours keep what they hold. The host prints what lies there, and refuses to print what is private.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, Pattern, hypercall, launch, main, memory, sharing};

launch!("memory=16M,limit=60s");
main!(run);

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const PAGE: u64 = 4 * K;
/// First byte and length of the ranges, in an area of 8 MiB: pages, whole regions, and both.
const RANGES: [(u64, u64); 6] = [
    (0, 4 * K),
    (0, 2 * M),
    (4 * K, 2 * M),
    (2 * M, 4 * M),
    (2 * M - 4 * K, 8 * K),
    (4 * M + 28 * K, 2 * M + 12 * K),
];
const AREA: u64 = 8 * M;

fn run(info: &LaunchInfo) {
    sharing::map();
    let pattern = Pattern::new(info.seed);
    let area = sharing::area(AREA);
    area.fill(&pattern, info.instance);
    for (start, bytes) in RANGES {
        let inside = |at: u64| (start..start + bytes).contains(&at);
        let first = area.start() + start;
        done(sharing::share_in_place(first, bytes), (start, bytes));
        for at in (0..AREA).step_by(PAGE as usize) {
            let gpa = area.start() + at + at / PAGE % 512 * 8;
            let seen = if inside(at) { sharing::shown(gpa) } else { gpa };
            // SAFETY: the guest's own, at the alias that the page has.
            let found = unsafe { memory::load(seen) };
            assert!(
                found == pattern.word(info.instance, gpa),
                "{found:#x} at {at:#x} after {start:#x}"
            );
            if inside(at) {
                // SAFETY: as above.
                unsafe { memory::store(seen, !found) };
            }
        }
        done(sharing::unshare_in_place(first, bytes), (start, bytes));
        for at in (start..start + bytes).step_by(PAGE as usize) {
            let gpa = area.start() + at + at / PAGE % 512 * 8;
            // SAFETY: private again.
            let found = unsafe { memory::load(gpa) };
            assert!(
                found == !pattern.word(info.instance, gpa),
                "{found:#x} came back at {at:#x}"
            );
            // SAFETY: as above.
            unsafe { memory::store(gpa, !found) };
        }
        // All of it again: nothing that was written went elsewhere.
        let changed = area.first_foreign(&pattern, info.instance, 1000);
        assert!(changed.is_none(), "after {start:#x} {changed:x?}");
    }
    print(area.start());
    hypercall::report("ranges", RANGES.len() as u64);
}

/// The host sees what is in pages shared in place, and of private ones nothing.
fn print(page: u64) {
    let (private, shared) = ("this is private again\n", "this lies in a hidden frame\n");
    let at = page + PAGE - 16;
    // SAFETY: pages of the area, which is the guest's and free. The text ends on the second page.
    unsafe { sharing::store_text(at, shared) };
    assert_eq!(sharing::print(at, shared.len()), Err(HypercallError::WrongState));
    done(sharing::share_in_place(page, 2 * PAGE), (page, 2 * PAGE));
    assert_eq!(sharing::print(at, shared.len()), Ok(()));
    for (start, bytes) in [(page + 2 * PAGE, 1), (page + 2 * PAGE - 1, 2), (page - 1, 2)] {
        assert_eq!(sharing::print(start, bytes), Err(HypercallError::WrongState));
    }
    // Half of it one way, half of it the other.
    done(sharing::unshare_in_place(page, PAGE), (page, PAGE));
    assert_eq!(sharing::print(at, shared.len()), Err(HypercallError::WrongState));
    // SAFETY: as above.
    unsafe { sharing::store_text(page, private) };
    assert_eq!(
        sharing::print(page, private.len()),
        Err(HypercallError::WrongState)
    );
    assert_eq!(sharing::share(page, PAGE), Ok(()));
    // SAFETY: the page is shared.
    unsafe { sharing::store_text(sharing::shown(at), "half is ordinary") };
    assert_eq!(sharing::print(at, shared.len()), Ok(()));
    done(sharing::unshare_in_place(page + PAGE, PAGE), (page + PAGE, PAGE));
    assert_eq!(sharing::unshare(page, PAGE), Ok(()));
    assert_eq!(sharing::accept(page, PAGE), Ok(()));
}

fn done(result: Result<(), HypercallError>, (start, bytes): (u64, u64)) {
    if let Err(error) = result {
        panic!("{bytes:#x} bytes at {start:#x}: {error}");
    }
}
