//! Makes the host take tables, one page of each 2 MiB at a time, until it has as many as it was launched for; what needs none goes on.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, launch, main, println, sharing};

launch!("memory=24M,tables=8");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;
const REGIONS: u64 = 9;

fn run(_: &LaunchInfo) {
    let start = sharing::area(REGIONS * REGION).start();
    let refused = Err(HypercallError::TableLimit);
    let shared = (0..REGIONS).take_while(|region| {
        let result = sharing::share(start + region * REGION, PAGE);
        assert!(result == Ok(()) || result == refused, "{result:?}");
        result.is_ok()
    });
    let shared = shared.count() as u64;
    // At least a table each, and some that they have in common.
    assert!((1..8).contains(&shared), "{shared} pages could be shared");
    assert_eq!(sharing::share(start + shared * REGION, PAGE), refused);
    // Its 2 MiB are in small pages already, at both aliases.
    assert_eq!(sharing::share(start + PAGE, PAGE), Ok(()));
    assert_eq!(sharing::unshare(start, 2 * PAGE), Ok(()));
    assert_eq!(sharing::accept(start, 2 * PAGE), Ok(()));
    println!("{shared} times 2 MiB could be divided, and no more");
}
