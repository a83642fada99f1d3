//! Gives pages back to the host and takes them again: they are zero then, their neighbours keep what they hold, and each call is refused in the
//! states that it is not for.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println, sharing};

launch!("memory=16M");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;
/// What is given back at a time: first byte and length, in an area of three regions.
const RANGES: [(u64, u64); 4] = [
    (0, PAGE),
    (PAGE, REGION),
    (REGION, 2 * REGION),
    (REGION - PAGE, REGION + 2 * PAGE),
];

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    let area = sharing::area(3 * REGION);
    let wrong = Err(HypercallError::WrongState);
    for (start, bytes) in RANGES {
        area.fill(&pattern, info.instance);
        let at = area.start() + start;
        // What is the guest's can't be taken again.
        assert_eq!(sharing::take_again(at, bytes), wrong);
        assert_eq!(sharing::give_back(at, bytes), Ok(()));
        for call in [
            sharing::give_back,
            sharing::share,
            sharing::unshare,
            sharing::accept,
        ] {
            assert_eq!(call(at, bytes), wrong, "{start:#x} {bytes:#x} is absent");
        }
        // Partly wrong, so refused whole.
        assert_eq!(sharing::give_back(area.start(), 3 * REGION), wrong);
        assert_eq!(sharing::take_again(area.start(), 3 * REGION), wrong);
        assert_eq!(sharing::take_again(at, bytes), Ok(()));
        assert_eq!(sharing::take_again(at, bytes), wrong);
        // Pending: it may go back at once.
        assert_eq!(sharing::give_back(at, PAGE), Ok(()));
        assert_eq!(sharing::take_again(at, PAGE), Ok(()));
        assert_eq!(sharing::accept(at, bytes), Ok(()));
        for word in (at..at + bytes).step_by(8) {
            // SAFETY: reading the guest's own memory has no effect.
            let found = unsafe { memory::load(word) };
            assert_eq!(found, 0, "{word:#x} was given back and taken again");
        }
        let end = start + bytes;
        for part in [area.sub(0, start), area.sub(end, 3 * REGION - end)] {
            let changed = part.and_then(|part| part.first_foreign(&pattern, info.instance, 8));
            assert!(changed.is_none(), "a neighbour has become {changed:x?}");
        }
    }
    // Not the guest's memory.
    for (start, bytes) in [(info.memory_bytes, PAGE), (info.memory_bytes - PAGE, 2 * PAGE)] {
        assert_eq!(sharing::give_back(start, bytes), Err(HypercallError::BadRange));
        assert_eq!(sharing::take_again(start, bytes), Err(HypercallError::BadRange));
    }
    println!("what was given back came again as zeros");
}
