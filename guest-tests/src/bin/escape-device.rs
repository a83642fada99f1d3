//! Reads the local APIC where every PC has it. Guests have no devices: it is an address like any other that they do not own.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

/// Physical address of the local APIC after a reset (Intel SDM vol. 3A, 11.4.1); its version register is at 0x30.
const LOCAL_APIC: u64 = 0xfee0_0000;

fn run(_: &LaunchInfo) {
    println!("reading the local APIC");
    // SAFETY: the identity map covers 4 GiB; reading the version has no effect where there is an APIC.
    let found = unsafe { memory::load(LOCAL_APIC + 0x30) };
    println!("read {found:#x} from the local APIC");
    exit(1);
}
