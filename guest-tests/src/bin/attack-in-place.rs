//! A vCPU goes on writing to a page at its shared alias while another makes the page private again, in place: the writer must fault, and once the
//! call has returned the page must not change any more. The frame is the same before and after, so only a flush keeps the writer out.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::hypercall::{exit, yield_now};
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing, vcpu};

launch!("memory=8M,vcpus=2,expect=memory-fault");
main!(run);

/// The page changed although it is private.
const CHANGED: u64 = 1;
/// How often it is looked at: a choice.
const LOOKS: u64 = 100;

/// Writes so far.
static WRITES: AtomicU64 = AtomicU64::new(0);

fn run(_: &LaunchInfo) {
    sharing::map();
    let page = sharing::area(2 << 20).start() + 9 * 4096;
    assert_eq!(sharing::share_in_place(page, 4096), Ok(()));
    assert_eq!(vcpu::start(writes, sharing::shown(page)), Ok(()));
    while WRITES.load(Ordering::Acquire) < 1000 {
        yield_now();
    }
    assert_eq!(sharing::unshare_in_place(page, 4096), Ok(()));
    // SAFETY: the page is the guest's own again.
    let before = unsafe { memory::load(page) };
    for _ in 0..LOOKS {
        // SAFETY: as above.
        let now = unsafe { memory::load(page) };
        if now != before {
            println!("{before} became {now} in a page that is private");
            exit(CHANGED);
        }
    }
    // Where it neither writes nor faults, the time limit ends the guest.
    loop {
        yield_now();
    }
}

extern "C" fn writes(shown: u64) -> ! {
    loop {
        let next = WRITES.load(Ordering::Relaxed) + 1;
        // SAFETY: nothing else is there; when the page is not shared any more, the hypervisor ends the guest.
        unsafe { memory::store(shown, next) };
        WRITES.store(next, Ordering::Release);
    }
}
