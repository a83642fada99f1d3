//! Touches a page that it has taken back from the host before it has accepted it.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,expect=memory-fault");
main!(run);

fn run(_: &LaunchInfo) {
    let page = sharing::area(2 << 20).start() + 5 * 4096;
    assert_eq!(sharing::share(page, 4096), Ok(()));
    assert_eq!(sharing::unshare(page, 4096), Ok(()));
    println!("reading at {page:#x}");
    // SAFETY: the address is mapped in the guest's tables, and the page is its own.
    let found = unsafe { memory::load(page) };
    println!("read {found:#x} without having accepted it");
    exit(1);
}
