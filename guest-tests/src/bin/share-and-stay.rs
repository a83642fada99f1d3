//! Fills its memory with its pattern, shares parts of it, writes something else there, takes one part back, and ends like that: for a look from
//! outside, which must find its pattern in no frame that the host reaches, nor in any that it has given up.
#![no_std]
#![no_main]

use guest_abi::launch_area::PAGE;
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println, sharing};

launch!("memory=16M");
main!(run);

const REGION: u64 = 2 << 20;
/// First byte and length of what is shared, in an area of 8 MiB: a page, pages across two regions, a region.
const SHARED: [(u64, u64); 3] = [(PAGE, PAGE), (2 * REGION - PAGE, 2 * PAGE), (3 * REGION, REGION)];
/// Pages that are shared in place and hold the pattern: no less hidden than before.
const IN_PLACE: (u64, u64) = (REGION + 3 * PAGE, 2 * PAGE);
/// The part of it that is taken back and not accepted.
const PENDING: (u64, u64) = (3 * REGION + 5 * PAGE, 100 * PAGE);

fn run(info: &LaunchInfo) {
    sharing::map();
    let pattern = Pattern::new(info.seed);
    for extent in memory::free() {
        extent.fill(&pattern, info.instance);
    }
    let start = sharing::area(4 * REGION).start();
    let mut bytes = 0;
    for (offset, length) in SHARED {
        assert_eq!(sharing::share(start + offset, length), Ok(()));
        for at in (start + offset..start + offset + length).step_by(8) {
            // SAFETY: the pages are shared, and nothing else of the guest is there.
            unsafe { memory::store(sharing::shown(at), !pattern.word(info.instance, at)) };
        }
        bytes += length;
    }
    assert_eq!(sharing::unshare(start + PENDING.0, PENDING.1), Ok(()));
    assert_eq!(sharing::share_in_place(start + IN_PLACE.0, IN_PLACE.1), Ok(()));
    println!(
        "{bytes:#x} bytes were shared, {:#x} of them taken back, {:#x} in place",
        PENDING.1, IN_PLACE.1
    );
}
