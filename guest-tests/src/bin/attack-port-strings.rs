//! A string of bytes, words or double words from a port or for one, once or repeated: the instance chooses which of the twelve, and a port. The host ends
//! the guest, whichever it is: it reaches no memory of the guest's for a device, and no device.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, Pattern, launch, main, println};

launch!("memory=4M,count=24,expect=unexpected");
main!(run);

/// Reset by the keyboard controller, serial port, QEMU's exit, reset, ACPI's control register in QEMU, Bochs' stop, and the ends.
const PORTS: [u16; 8] = [0x64, 0x3f8, 0xf4, 0xcf9, 0x604, 0x8900, 0, u16::MAX];

/// Runs one of the instructions.
macro_rules! string {
    ($instruction:literal, $port:expr, $at:expr) => {
        // SAFETY: the memory is the guest's own; it has no devices, and the hypervisor ends it.
        unsafe {
            asm!($instruction, in("dx") $port, inout("rsi") $at => _, inout("rdi") $at => _, inout("rcx") 4_u64 => _,
                options(nostack));
        }
    };
}

fn run(info: &LaunchInfo) {
    let word = Pattern::new(!info.seed).word(info.instance, 0);
    let number = info.instance - 1;
    // The first twelve at a port that something waits behind, others anywhere.
    let port = match number / 12 {
        0 => PORTS[word as usize % PORTS.len()],
        _ => word as u16,
    };
    let mut text = [0x10_u32; 4];
    let at = text.as_mut_ptr();
    println!("string instruction {} at port {port:#x}", number % 12);
    match number % 12 {
        0 => string!("outsb", port, at),
        1 => string!("outsw", port, at),
        2 => string!("outsd", port, at),
        3 => string!("insb", port, at),
        4 => string!("insw", port, at),
        5 => string!("insd", port, at),
        6 => string!("rep outsb", port, at),
        7 => string!("rep outsw", port, at),
        8 => string!("rep outsd", port, at),
        9 => string!("rep insb", port, at),
        10 => string!("rep insw", port, at),
        _ => string!("rep insd", port, at),
    }
    println!("still here: {text:x?}");
    exit(1);
}
