//! Writes to a port: the one at which this project's virtual machines take their exit code. Were it let through, the machine would end
//! and claim that all tests passed. The write goes nowhere; a string of bytes for the port ends the guest.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=unexpected");
main!(run);

fn run(_: &LaunchInfo) {
    println!("writing to port 0xf4");
    // SAFETY: the guest has no devices; the write is dropped.
    unsafe { asm!("out 0xf4, eax", in("eax") 0x10, options(nomem, nostack)) };
    println!("still here, with a string for port 0xf4");
    let text = [0x10_u8; 4];
    // SAFETY: reads the text; the guest has no devices; the hypervisor ends it.
    unsafe {
        asm!("rep outsb", in("dx") 0xf4_u16, inout("rsi") text.as_ptr() => _, inout("rcx") text.len() => _,
            options(readonly, nostack));
    }
    println!("still here");
    exit(1);
}
