//! Launched to have it done: an access at the other alias makes a page shared, or private again. It is zero each time, but for a page that is shared in place:
//! that comes back with what it holds.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=8M,auto-convert");
main!(run);

const PAGE: u64 = 4096;

fn run(_: &LaunchInfo) {
    sharing::map();
    let at = sharing::area(2 << 20).start();
    let page = at + 5 * PAGE;
    let wrong = Err(HypercallError::WrongState);
    for round in 0..3 {
        put(page, 1);
        put(page + PAGE, 2);
        assert_eq!(get(sharing::shown(page)), 0, "round {round}: shared");
        assert_eq!(sharing::share(page, PAGE), wrong, "it is shared by the access");
        put(sharing::shown(page), 3);
        assert_eq!(get(page), 0, "round {round}: private");
        assert_eq!(sharing::unshare(page, PAGE), wrong, "it is private by the access");
        assert_eq!(sharing::accept(page, PAGE), wrong, "and accepted");
        assert_eq!(get(page + PAGE), 2, "round {round}: a neighbour");
    }
    // Pending: at the shared alias it is shared again.
    assert_eq!(sharing::share(page, PAGE), Ok(()));
    assert_eq!(sharing::unshare(page, PAGE), Ok(()));
    assert_eq!(get(sharing::shown(page)), 0, "shared when pending");
    assert_eq!(sharing::unshare(page, PAGE), Ok(()));
    assert_eq!(sharing::accept(page, PAGE), Ok(()));
    // In place.
    put(page, 4);
    assert_eq!(sharing::share_in_place(page, PAGE), Ok(()));
    put(sharing::shown(page), get(sharing::shown(page)) + 1);
    assert_eq!(get(page), 5, "private, with what it holds");
    assert_eq!(
        sharing::unshare_in_place(page, PAGE),
        wrong,
        "it is private by the access"
    );
    assert_eq!(sharing::accept(page, PAGE), wrong, "and accepted");
    println!("each access had its alias");
}

fn put(at: u64, value: u64) {
    // SAFETY: the guest's own memory, which nothing else uses.
    unsafe { memory::store(at, value) };
}

fn get(at: u64) -> u64 {
    // SAFETY: reading the guest's own memory has no effect.
    unsafe { memory::load(at) }
}
