//! Launched to have it done, and to share no more than a page: the access for which a second one would be shared is the memory fault that it is.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,share=4K,auto-convert,expect=memory-fault");
main!(run);

fn run(_: &LaunchInfo) {
    sharing::map();
    let page = sharing::area(2 << 20).start() + 5 * 4096;
    // One, and back, and another one: what counts is what is shared at a time.
    for page in [page, page + 4096] {
        // SAFETY: the guest's own memory, which nothing else uses, by both aliases.
        unsafe {
            memory::store(sharing::shown(page), 42);
            memory::store(page, 43);
        }
    }
    // SAFETY: as above.
    unsafe {
        memory::store(sharing::shown(page), 44);
        println!("sharing a second page at {:#x}", page + 4096);
        memory::store(sharing::shown(page + 4096), 45);
    }
    println!("more was shared than may be");
    exit(1);
}
