//! Shares most of its memory by one call, takes it back by one, and accepts it by one. Each takes longer than a slice, so others run meanwhile.
#![no_std]
#![no_main]

use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=40M,limit=60s");
main!(run);

fn run(info: &LaunchInfo) {
    sharing::map();
    let bytes = info.memory_bytes - (8 << 20);
    let area = sharing::area(bytes);
    let last = area.start() + bytes - 8;
    assert_eq!(sharing::share(area.start(), bytes), Ok(()));
    for page in (area.start()..last).step_by(1 << 16) {
        // SAFETY: the page is shared, and nothing else of the guest is there.
        unsafe { memory::store(sharing::shown(page), page) };
    }
    assert_eq!(sharing::unshare(area.start(), bytes), Ok(()));
    assert_eq!(sharing::accept(area.start(), bytes), Ok(()));
    // SAFETY: reading the guest's own memory has no effect.
    let found = [area.start(), last].map(|at| unsafe { memory::load(at) });
    assert_eq!(found, [0, 0]);
    println!("{} MiB were shared and came back", bytes >> 20);
}
