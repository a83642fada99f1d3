//! Raises an exception without an IDT: a triple fault, which shuts the guest's CPU down.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=shutdown");
main!(run);

fn run(_: &LaunchInfo) {
    println!("raising an exception");
    // SAFETY: UD2 raises an exception and does not come back.
    unsafe { asm!("ud2", options(noreturn)) }
}
