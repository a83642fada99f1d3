//! Never gives up the CPU and has interrupts off: only the timer of the hypervisor ends it.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,limit=200ms,expect=time-limit");
main!(run);

fn run(_: &LaunchInfo) {
    println!("spinning");
    // SAFETY: a loop that touches nothing and does not end.
    unsafe { asm!("cli", "2: jmp 2b", options(noreturn)) }
}
