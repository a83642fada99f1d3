//! Writes a model-specific register that is the host's: zero to IA32_APIC_BASE would switch the host's interrupt controller off.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=unexpected");
main!(run);

fn run(_: &LaunchInfo) {
    println!("writing IA32_APIC_BASE");
    // SAFETY: the register is not the guest's; the hypervisor ends it.
    unsafe { asm!("wrmsr", in("ecx") 0x1b, in("eax") 0, in("edx") 0, options(nomem, nostack)) };
    println!("still here");
    exit(1);
}
