//! Shares most of its memory by one call, takes it back by one, and accepts it by one. Each takes longer than a slice, so others run meanwhile.
#![no_std]
#![no_main]

use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=128M,limit=60s");
main!(run);

const BYTES: u64 = 120 << 20;

fn run(_: &LaunchInfo) {
    sharing::map();
    let area = sharing::area(BYTES);
    let last = area.start() + BYTES - 8;
    assert_eq!(sharing::share(area.start(), BYTES), Ok(()));
    for page in (area.start()..last).step_by(1 << 16) {
        // SAFETY: the page is shared, and nothing else of the guest is there.
        unsafe { memory::store(sharing::shown(page), page) };
    }
    assert_eq!(sharing::unshare(area.start(), BYTES), Ok(()));
    assert_eq!(sharing::accept(area.start(), BYTES), Ok(()));
    // SAFETY: reading the guest's own memory has no effect.
    let found = [area.start(), last].map(|at| unsafe { memory::load(at) });
    assert_eq!(found, [0, 0]);
    println!("{} MiB were shared and came back", BYTES >> 20);
}
