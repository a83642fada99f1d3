//! Writes to a port: the one at which this project's virtual machines take their exit code. Were it not intercepted, the machine would end
//! and claim that all tests passed.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=unexpected");
main!(run);

fn run(_: &LaunchInfo) {
    println!("writing to port 0xf4");
    // SAFETY: the guest has no devices; the hypervisor ends it.
    unsafe { asm!("out 0xf4, eax", in("eax") 0x10, options(nomem, nostack)) };
    println!("still here");
    exit(1);
}
