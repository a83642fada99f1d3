//! Four vCPUs share pages of the same 2 MiB and take them back, in place every other time, all at the same time: each finds its own pages as it left
//! them, whatever the others change around them.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::HypercallError;
use guest_tests::hypercall::{report, yield_now};
use guest_tests::memory::Extent;
use guest_tests::{LaunchInfo, Pattern, launch, launch_info, main, memory, println, sharing, vcpu};

launch!("memory=16M,vcpus=4,limit=120s");
main!(run);

const VCPUS: u64 = 4;
const PAGE: u64 = 4096;
const PAGES: u64 = 512;
/// Changes of each vCPU's pages: a choice.
const ROUNDS: u64 = 24;

/// vCPUs that have done their rounds.
static DONE: AtomicU64 = AtomicU64::new(0);
/// Calls that were refused because another vCPU was changing the memory.
static BUSY: AtomicU64 = AtomicU64::new(0);

fn run(_: &LaunchInfo) {
    sharing::map();
    for number in 1..VCPUS {
        assert_eq!(vcpu::start(further, number), Ok(()));
    }
    change(0);
    while DONE.load(Ordering::Acquire) < VCPUS {
        yield_now();
    }
    println!("{VCPUS} vCPUs changed pages {ROUNDS} times each, between each other's");
    report("busy", BUSY.load(Ordering::Relaxed));
}

extern "C" fn further(number: u64) -> ! {
    change(number);
    loop {
        yield_now();
    }
}

/// The rounds of the vCPU with this number. Its pages are every fourth one.
fn change(number: u64) {
    let info = launch_info();
    let pattern = Pattern::new(info.seed);
    let area = sharing::area(PAGES * PAGE);
    let own = || (number..PAGES).step_by(VCPUS as usize);
    let page = |page: u64| match area.sub(page * PAGE, PAGE) {
        Some(extent) => extent,
        None => panic!("the area has no page {page}"),
    };
    own().for_each(|at| page(at).fill(&pattern, info.instance));
    for round in 0..ROUNDS {
        let changed = page(number + (7 * round + number) % (PAGES / VCPUS) * VCPUS);
        let shown = sharing::shown(changed.start());
        if round % 2 == 1 {
            in_place(number, &changed, &pattern);
            continue;
        }
        insist(|| sharing::share(changed.start(), PAGE));
        for at in (shown..shown + PAGE).step_by(8) {
            // SAFETY: the page is shared, and only this vCPU uses it.
            let found = unsafe { memory::load(at) };
            assert!(
                found == 0,
                "vCPU {number}: {found:#x} in a page that was just shared"
            );
            // SAFETY: as above.
            unsafe { memory::store(at, pattern.word(!info.instance, at)) };
        }
        check(number, &changed, own().map(page), &pattern);
        insist(|| sharing::unshare(changed.start(), PAGE));
        insist(|| sharing::accept(changed.start(), PAGE));
        if let Some(found) = changed.first_nonzero() {
            panic!("vCPU {number}: {found:x?} came back");
        }
        changed.fill(&pattern, info.instance);
    }
    check(number, &page(PAGES - 1), own().map(page), &pattern);
    DONE.fetch_add(1, Ordering::Release);
}

/// A page goes there and back with what it holds, and what is written there comes back, too.
fn in_place(number: u64, page: &Extent, pattern: &Pattern) {
    let instance = launch_info().instance;
    insist(|| sharing::share_in_place(page.start(), PAGE));
    for at in (page.start()..page.start() + PAGE).step_by(8) {
        // SAFETY: the page is shared, and only this vCPU uses it.
        let found = unsafe { memory::load(sharing::shown(at)) };
        assert!(
            found == pattern.word(instance, at),
            "vCPU {number}: {found:#x} in a page that was shared in place"
        );
        // SAFETY: as above.
        unsafe { memory::store(sharing::shown(at), pattern.word(!instance, at)) };
    }
    insist(|| sharing::unshare_in_place(page.start(), PAGE));
    if let Some(found) = page.first_foreign(pattern, !instance, 8) {
        panic!("vCPU {number}: {found:x?} in a page that came back");
    }
    page.fill(pattern, instance);
}

/// All of these pages but one are as they were filled.
fn check(number: u64, but: &Extent, pages: impl Iterator<Item = Extent>, pattern: &Pattern) {
    for page in pages.filter(|page| page != but) {
        if let Some(found) = page.first_foreign(pattern, launch_info().instance, 512) {
            panic!("vCPU {number}: {found:x?} in a page that nobody changed");
        }
    }
}

/// Makes a call again until no other vCPU is in its way.
fn insist(call: impl Fn() -> Result<(), HypercallError>) {
    loop {
        match call() {
            Ok(()) => return,
            Err(HypercallError::Busy) => {
                BUSY.fetch_add(1, Ordering::Relaxed);
                yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}
