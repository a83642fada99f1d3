//! Shares ranges of every kind, writes into them, takes them back and accepts them: neighbours keep what they hold, contents do not survive, and
//! the host prints what is in shared pages and refuses to print what is not.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println, sharing};

launch!("memory=16M,limit=60s");
main!(run);

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
/// First byte and length of the ranges, in an area of 8 MiB: those that the field tests, and odd ones.
const RANGES: [(u64, u64); 9] = [
    (0, 4 * K),
    (0, 2 * M),
    (4 * K, 4 * K),
    (4 * K, 2 * M),
    (2 * M, 4 * K),
    (2 * M, 4 * M),
    (12 * K, 20 * K),
    (2 * M - 4 * K, 8 * K),
    (4 * M + 28 * K, 2 * M + 12 * K),
];
const AREA: u64 = 8 * M;
const PAGE: u64 = 4 * K;
/// Which words are looked at: a choice, some in each page, others in the next.
const STEP: usize = 1000;

fn run(info: &LaunchInfo) {
    sharing::map();
    let pattern = Pattern::new(info.seed);
    let area = sharing::area(AREA);
    area.fill(&pattern, info.instance);
    for (start, bytes) in RANGES {
        let inside = |at: u64| (start..start + bytes).contains(&at);
        let first = area.start() + start;
        done(sharing::share(first, bytes), "share", (start, bytes));
        for at in (0..AREA).step_by(PAGE as usize) {
            let gpa = area.start() + at + at / PAGE % 512 * 8;
            if inside(at) {
                let shown = sharing::shown(gpa);
                // SAFETY: the page is shared, and nothing else of the guest is there.
                let found = unsafe { memory::load(shown) };
                assert!(found == 0, "{found:#x} at {at:#x}, which was shared just now");
                // SAFETY: as above.
                unsafe { memory::store(shown, pattern.word(!info.instance, gpa)) };
            } else {
                // SAFETY: reading what is the guest's has no effect.
                let found = unsafe { memory::load(gpa) };
                assert!(
                    found == pattern.word(info.instance, gpa),
                    "a neighbour at {at:#x} is {found:#x}"
                );
            }
        }
        for at in (0..AREA).step_by(PAGE as usize).filter(|at| inside(*at)) {
            let gpa = area.start() + at + at / PAGE % 512 * 8;
            // SAFETY: as above.
            let found = unsafe { memory::load(sharing::shown(gpa)) };
            assert!(
                found == pattern.word(!info.instance, gpa),
                "{found:#x} at {at:#x}, where something else was written"
            );
        }
        done(sharing::unshare(first, bytes), "unshare", (start, bytes));
        done(sharing::accept(first, bytes), "accept", (start, bytes));
        let back = area.sub(start, bytes).and_then(|back| back.first_nonzero());
        assert!(back.is_none(), "{back:x?} came back from {start:#x}");
        if let Some(back) = area.sub(start, bytes) {
            back.fill(&pattern, info.instance);
        }
        // All of it again: nothing that was written went elsewhere.
        let changed = area.first_foreign(&pattern, info.instance, STEP);
        assert!(changed.is_none(), "after {start:#x} {changed:x?}");
    }
    print(area.start());
    println!("{} ranges were shared and came back", RANGES.len());
}

/// The host sees what is in shared pages, and of private ones nothing.
fn print(page: u64) {
    let (private, shared) = ("this was private\n", "this is shared with the host\n");
    // SAFETY: a page of the area, which is the guest's and free.
    unsafe { sharing::store_text(page, private) };
    assert_eq!(
        sharing::print(page, private.len()),
        Err(HypercallError::WrongState)
    );
    done(sharing::share(page, 2 * PAGE), "share", (page, 2 * PAGE));
    // SAFETY: shared just now. The text ends on the second page.
    unsafe { sharing::store_text(sharing::shown(page + PAGE - 16), shared) };
    done(sharing::print(page + PAGE - 16, shared.len()), "print", (page, 1));
    for (start, bytes) in [(page + 2 * PAGE, 1), (page + 2 * PAGE - 1, 2), (page - 1, 2)] {
        assert_eq!(sharing::print(start, bytes), Err(HypercallError::WrongState));
    }
    for start in [u64::MAX, 1 << 40, 0xfee0_0000] {
        assert_eq!(sharing::print(start, 2), Err(HypercallError::BadRange));
    }
    done(sharing::unshare(page, 2 * PAGE), "unshare", (page, 2 * PAGE));
    done(sharing::accept(page, 2 * PAGE), "accept", (page, 2 * PAGE));
}

fn done(result: Result<(), HypercallError>, what: &str, (start, bytes): (u64, u64)) {
    if let Err(error) = result {
        panic!("{what} of {bytes:#x} bytes at {start:#x}: {error}");
    }
}
