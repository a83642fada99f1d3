//! Waits in a loop of PAUSE with interrupts off: its time limit ends it as it does one that spins.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,limit=200ms,expect=time-limit");
main!(run);

fn run(_: &LaunchInfo) {
    println!("waiting");
    // SAFETY: a loop that touches nothing and does not end.
    unsafe { asm!("cli", "2: pause", "jmp 2b", options(noreturn)) }
}
