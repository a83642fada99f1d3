//! Touches the shared alias of a page that it has taken back and accepted. It has written there before, so a translation that was not
//! flushed would still lead to the frame that is the host's now.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,expect=memory-fault");
main!(run);

fn run(_: &LaunchInfo) {
    sharing::map();
    let page = sharing::area(2 << 20).start() + 5 * 4096;
    assert_eq!(sharing::share(page, 4096), Ok(()));
    // SAFETY: the page is shared, and nothing else of the guest is there.
    unsafe { memory::store(sharing::shown(page), 42) };
    assert_eq!(sharing::unshare(page, 4096), Ok(()));
    assert_eq!(sharing::accept(page, 4096), Ok(()));
    println!("writing at the shared alias of {page:#x}");
    // SAFETY: the address is mapped in the guest's tables; nothing of the guest is there.
    unsafe { memory::store(sharing::shown(page), 43) };
    println!("wrote to a frame that is not its own any more");
    exit(1);
}
