//! Halts with interrupts off: nothing can wake it, so the hypervisor ends it.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=halt");
main!(run);

fn run(_: &LaunchInfo) {
    println!("halting");
    // SAFETY: stops the CPU, touches nothing.
    unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    println!("woke up");
    exit(1);
}
