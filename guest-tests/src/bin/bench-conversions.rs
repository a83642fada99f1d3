//! What calls cost, by the guest's own clock: ticks of the TSC from before a call to after it, for `cargo xtask bench conversions`. A page of a
//! whole 2 MiB, pages of 2 MiB that are split already, 2 MiB by one call, and 16 MiB by one call.
#![no_std]
#![no_main]

use core::arch::x86_64::{__cpuid, _rdtsc};

use guest_abi::{Arguments, HypercallError};
use guest_tests::{LaunchInfo, hypercall, launch, main, println, sharing};

launch!("memory=32M,limit=60s");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 512 * PAGE;
/// Pages, or calls, of which the mean is reported.
const MANY: u64 = 64;
/// A number that no call has.
const NO_CALL: u64 = 1000;

type Call = fn(u64, u64) -> Result<(), HypercallError>;
const SHARE: Call = sharing::share;
const UNSHARE: Call = sharing::unshare;
const ACCEPT: Call = sharing::accept;

fn run(_: &LaunchInfo) {
    sharing::map();
    let start = sharing::area(8 * REGION).start();
    hypercall::report(
        "call",
        mean(|_| {
            let unknown = hypercall::raw(NO_CALL, &Arguments::default());
            assert_eq!(unknown, HypercallError::UnknownNumber.code());
        }),
    );
    hypercall::report(
        "cpuid",
        mean(|_| {
            let _ = core::hint::black_box(__cpuid(0));
        }),
    );
    // The first page splits the leaf, and its acceptance brings it back.
    let pages = start + PAGE;
    hypercall::report("share4k1", ticks(|| done(SHARE, start, PAGE)));
    for (name, call) in [("share4k", SHARE), ("unsh4k", UNSHARE), ("acc4k", ACCEPT)] {
        hypercall::report(name, mean(|at| done(call, pages + at * PAGE, PAGE)));
    }
    hypercall::report("unsh4k1", ticks(|| done(UNSHARE, start, PAGE)));
    hypercall::report("acc4k1", ticks(|| done(ACCEPT, start, PAGE)));
    // Of 2 MiB that no page was taken from: where code must not run from large leaves, the others stay split. And the least of three: a slice that ends in the
    // middle is not the call's.
    let calls = [("share2m", SHARE), ("unsh2m", UNSHARE), ("acc2m", ACCEPT)];
    let mut least = [u64::MAX; 3];
    for _ in 0..3 {
        for (least, (_, call)) in least.iter_mut().zip(calls) {
            *least = (*least).min(ticks(|| done(call, start + REGION, REGION)));
        }
    }
    for ((name, _), least) in calls.into_iter().zip(least) {
        hypercall::report(name, least);
    }
    for (name, call) in [("share16m", SHARE), ("unsh16m", UNSHARE), ("acc16m", ACCEPT)] {
        hypercall::report(name, ticks(|| done(call, start, 8 * REGION)));
    }
    println!("what was shared came back");
}

fn done(call: Call, start: u64, bytes: u64) {
    assert_eq!(call(start, bytes), Ok(()));
}

fn mean(mut call: impl FnMut(u64)) -> u64 {
    ticks(|| (0..MANY).for_each(&mut call)) / MANY
}

fn ticks(call: impl FnOnce()) -> u64 {
    // SAFETY: every CPU that runs guests has a TSC.
    let start = unsafe { _rdtsc() };
    call();
    // SAFETY: as above.
    unsafe { _rdtsc() }.wrapping_sub(start)
}
