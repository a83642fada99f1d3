//! Runs for ever with interrupts on and no interrupt table: an interrupt of the host's that reached it would be a triple fault, and its
//! time limit must end it as it does one with interrupts off.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,limit=200ms,expect=time-limit");
main!(run);

fn run(_: &LaunchInfo) {
    println!("spinning with interrupts on");
    // SAFETY: a loop that touches nothing and does not end.
    unsafe { asm!("sti", "2: jmp 2b", options(noreturn)) }
}
