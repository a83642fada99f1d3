//! Shares as much as it was launched for, in place or not, and is refused one page more, until it has taken one back.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, launch, main, println, sharing};

launch!("memory=8M,share=36K");
main!(run);

const PAGE: u64 = 4096;
/// As in the launch text.
const LIMIT: u64 = 36 << 10;

fn run(_: &LaunchInfo) {
    let start = sharing::area(2 << 20).start();
    let next = start + LIMIT;
    let refused = Err(HypercallError::ShareLimit);
    assert_eq!(sharing::share(start, LIMIT + PAGE), refused);
    assert_eq!(sharing::share(start, LIMIT), Ok(()));
    assert_eq!(sharing::share(next, PAGE), refused);
    assert_eq!(sharing::unshare(start, PAGE), Ok(()));
    assert_eq!(sharing::share(next, PAGE), Ok(()));
    assert_eq!(sharing::share(start, PAGE), refused, "a page that is pending");
    assert_eq!(sharing::accept(start, PAGE), Ok(()));
    assert_eq!(sharing::share_in_place(start, PAGE), refused);
    assert_eq!(sharing::unshare(next, PAGE), Ok(()));
    assert_eq!(sharing::share_in_place(start, PAGE), Ok(()));
    assert_eq!(sharing::share(next, PAGE), refused, "beside one in place");
    assert_eq!(sharing::unshare_in_place(start, PAGE), Ok(()));
    assert_eq!(sharing::share(next, PAGE), Ok(()));
    println!("{LIMIT:#x} bytes could be shared, and not one page more");
}
