//! Halts, one instance with interrupts off and one with interrupts on, of which there are none: nothing can wake it, so the hypervisor
//! ends it.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,count=2,expect=halt");
main!(run);

fn run(info: &LaunchInfo) {
    println!("halting");
    // SAFETY: stops the CPU, touches nothing.
    unsafe {
        if info.instance.is_multiple_of(2) {
            asm!("cli", "hlt", options(nomem, nostack));
        } else {
            asm!("sti", "hlt", options(nomem, nostack));
        }
    }
    println!("woke up");
    exit(1);
}
