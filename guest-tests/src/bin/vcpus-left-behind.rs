//! The first vCPU exits while three others run on, without ever leaving the guest by themselves: the guest ends at once, wherever they run,
//! and its memory is taken down.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::hypercall::{exit, yield_now};
use guest_tests::{LaunchInfo, launch, main, println, vcpu};

launch!("memory=8M,vcpus=4");
main!(run);

/// A vCPU was not started.
const NOT_STARTED: u64 = 1;

/// vCPUs that run, without the first.
static RUNNING: AtomicU64 = AtomicU64::new(0);
/// What they write to, without end.
static WORDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn run(_: &LaunchInfo) {
    for number in 1..4 {
        if let Err(error) = vcpu::start(further, number) {
            println!("vCPU {number} does not start: {error}");
            exit(NOT_STARTED);
        }
    }
    while RUNNING.load(Ordering::Acquire) < 3 {
        yield_now();
    }
}

extern "C" fn further(number: u64) -> ! {
    RUNNING.fetch_add(1, Ordering::Release);
    loop {
        for word in WORDS.iter().skip(number as usize) {
            word.fetch_add(number, Ordering::Relaxed);
        }
    }
}
