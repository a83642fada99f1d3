//! One vCPU reads a page without end, and never leaves the guest by itself; another shares that page. The reader must fault: when the call returns,
//! its old translation is gone, on whichever CPU it runs.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::hypercall::{exit, yield_now};
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing, vcpu};

launch!("memory=8M,vcpus=2,expect=memory-fault");
main!(run);

/// The reader went on.
const STILL_READS: u64 = 1;

/// Reads so far.
static READS: AtomicU64 = AtomicU64::new(0);

fn run(_: &LaunchInfo) {
    let page = sharing::area(2 << 20).start() + 9 * 4096;
    // SAFETY: the page is the guest's own, and free.
    unsafe { memory::store(page, 42) };
    assert_eq!(vcpu::start(reads, page), Ok(()));
    while READS.load(Ordering::Acquire) < 1000 {
        yield_now();
    }
    assert_eq!(sharing::share(page, 4096), Ok(()));
    let before = READS.load(Ordering::Acquire);
    // Where it neither reads nor faults, the time limit ends the guest.
    loop {
        // One that was under way counts itself after it.
        if READS.load(Ordering::Acquire) > before + 1 {
            println!("a vCPU still reads a page that was shared");
            exit(STILL_READS);
        }
        yield_now();
    }
}

extern "C" fn reads(page: u64) -> ! {
    loop {
        // SAFETY: reading has no effect; when the page is not private any more, the hypervisor ends the guest.
        unsafe { memory::load(page) };
        READS.fetch_add(1, Ordering::Release);
    }
}
