//! Touches a page that it has given back to the host.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,expect=memory-fault");
main!(run);

fn run(_: &LaunchInfo) {
    // All of 2 MiB, so that there is nothing behind it.
    let area = sharing::area(2 << 20);
    assert_eq!(sharing::give_back(area.start(), 2 << 20), Ok(()));
    let page = area.start() + 5 * 4096;
    println!("reading at {page:#x}");
    // SAFETY: the address is mapped in the guest's tables, and the page is nobody else's.
    let found = unsafe { memory::load(page) };
    println!("read {found:#x} where there is no memory");
    exit(1);
}
