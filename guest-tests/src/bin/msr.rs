//! Writes a model-specific register that is the host's: zero to IA32_APIC_BASE would switch the host's interrupt controller off. It is
//! #GP, and the host's timer goes on.
#![no_std]
#![no_main]

use guest_tests::exceptions::{catch, vector::PROTECTION};
use guest_tests::{LaunchInfo, attempt, launch, main, println};

launch!("memory=4M");
main!(run);

/// Intel SDM vol. 4, table 2-2.
const APIC_BASE: u64 = 0x1b;

fn run(_: &LaunchInfo) {
    catch();
    attempt!(=> "wrmsr", 0, APIC_BASE).fault("a write of IA32_APIC_BASE", PROTECTION);
    attempt!(=> "rdmsr", 0, APIC_BASE).fault("a read of IA32_APIC_BASE", PROTECTION);
    println!("IA32_APIC_BASE is not mine");
}
