//! Launched to have it done: a page that is pending or absent is its own, and zero, when it touches it; its neighbours stay what they are.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=12M,auto-accept");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;

fn run(_: &LaunchInfo) {
    let at = sharing::area(2 * REGION).start();
    let wrong = Err(HypercallError::WrongState);
    fill(at, 2 * REGION);
    // Nothing behind the first 2 MiB: the first touch brings all of them.
    assert_eq!(sharing::give_back(at, REGION), Ok(()));
    touch(at + 7 * PAGE);
    // Page by page: a range is refused when one of them is there.
    for page in [at, at + 8 * PAGE, at + REGION - PAGE] {
        assert_eq!(sharing::take_again(page, PAGE), wrong, "it has come by itself");
        assert_eq!(sharing::accept(page, PAGE), wrong, "and is accepted");
    }
    zeros(at + 8 * PAGE, REGION - 8 * PAGE);
    // One page of the second: its neighbour stays absent.
    let page = at + REGION + 3 * PAGE;
    assert_eq!(sharing::give_back(page, 2 * PAGE), Ok(()));
    touch(page);
    assert_eq!(sharing::take_again(page, PAGE), wrong);
    assert_eq!(
        sharing::take_again(page + PAGE, PAGE),
        Ok(()),
        "it was not touched"
    );
    // Pending.
    touch(page + PAGE);
    assert_eq!(sharing::accept(page + PAGE, PAGE), wrong, "it was touched");
    println!("all that was touched was there");
}

/// Writes and reads a page that is zero at first.
fn touch(at: u64) {
    zeros(at, PAGE);
    fill(at, PAGE);
}

fn fill(at: u64, bytes: u64) {
    for word in (at..at + bytes).step_by(8) {
        // SAFETY: the guest's own memory, which nothing else uses.
        unsafe { memory::store(word, !word) };
    }
}

fn zeros(at: u64, bytes: u64) {
    for word in (at..at + bytes).step_by(8) {
        // SAFETY: reading the guest's own memory has no effect.
        let found = unsafe { memory::load(word) };
        assert_eq!(found, 0, "{word:#x} is not zero");
    }
}
