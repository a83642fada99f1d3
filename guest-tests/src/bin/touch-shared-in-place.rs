//! Touches a page that it shares in place at the private alias. It has written there before, so a translation that was not flushed would still
//! lead to the frame, which is the same one.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,expect=memory-fault");
main!(run);

fn run(_: &LaunchInfo) {
    let page = sharing::area(2 << 20).start() + 5 * 4096;
    // SAFETY: the page is the guest's own, and free.
    unsafe { memory::store(page, 42) };
    assert_eq!(sharing::share_in_place(page, 4096), Ok(()));
    println!("writing at {page:#x}");
    // SAFETY: as above.
    unsafe { memory::store(page, 43) };
    println!("wrote to the private alias of a page that is shared in place");
    exit(1);
}
