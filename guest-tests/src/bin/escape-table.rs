//! Points CR3 above its memory: the CPU would take page tables from where the guest owns nothing.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

fn run(info: &LaunchInfo) {
    let beyond = info.memory_bytes;
    println!("taking page tables from {beyond:#x}");
    // SAFETY: with no table there, not even the next instruction can be fetched; the hypervisor ends the guest.
    unsafe { asm!("mov cr3, {}", in(reg) beyond, options(nostack)) };
    println!("found page tables beyond the end of memory");
    exit(1);
}
