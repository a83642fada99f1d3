//! Jumps to the first byte above its memory, which is mapped in its own page tables but not its own.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

fn run(info: &LaunchInfo) {
    let beyond = info.memory_bytes;
    println!("jumping to {beyond:#x}");
    // SAFETY: no code is there that could return; the hypervisor ends the guest.
    unsafe { asm!("jmp {}", in(reg) beyond, options(noreturn)) }
}
