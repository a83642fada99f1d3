//! Reads and writes every port: reads give ones, writes go nowhere. Among the values are those that reset or switch off a PC, or end the
//! emulator, at the ports that take them.
//!
//! The sizes take turns from port to port, and differ between instances: `count=3` tries each size at each port, which takes ten seconds
//! on an emulator (`every-port-every-size`). Strings end a guest, so they have one of their own, `attack-port-strings`.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::{exit, report};
use guest_tests::{LaunchInfo, Pattern, launch, main, println};

launch!("memory=4M,limit=120s");
main!(run);

/// A reset by port 64H or by port 92H, a reset by port CF9H, power-off by ACPI's control register in QEMU (604H), QEMU's exit (F4H), Bochs' stop (8900H).
const VALUES: [u32; 6] = [0xfe, 0x06, 0x2000, 0x10, b'D' as u32, b'S' as u32];

fn run(info: &LaunchInfo) {
    let random = Pattern::new(!info.seed);
    let mut accesses = 0_u64;
    for port in 0..=u16::MAX {
        let word = random.word(info.instance, 8 * u64::from(port));
        let value = VALUES[word as usize % VALUES.len()];
        // SAFETY: guests have no devices: the writes go nowhere.
        unsafe {
            match (u32::from(port) + info.instance) % 3 {
                0 => {
                    check(port, 1, word, read_1(port, word), word | 0xff);
                    asm!("out dx, ax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
                }
                1 => {
                    check(port, 2, word, read_2(port, word), word | 0xffff);
                    asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
                }
                _ => {
                    check(port, 4, word, read_4(port, word), 0xffff_ffff);
                    asm!("out dx, al", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
                }
            }
        }
        accesses += 2;
    }
    // Each of them at the port that it is for, in the size that it wants.
    for (port, value) in [
        (0x64, 0xfe),
        (0x92, 1),
        (0xcf9, 6),
        (0xf4, 0x10),
        (0x604, 0x2000),
        (0x8900, b'S' as u32),
    ] {
        // SAFETY: as above.
        unsafe {
            asm!("out dx, al", "out dx, ax", "out dx, eax", in("dx") port as u16, in("eax") value,
                options(nomem, nostack, preserves_flags));
        }
        accesses += 3;
    }
    report("accesses", accesses);
    println!("nobody answers at any port");
}

macro_rules! read {
    ($name:ident, $register:literal) => {
        fn $name(port: u16, before: u64) -> u64 {
            let rax;
            // SAFETY: guests have no devices.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, inlateout("rax") before => rax,
                    options(nomem, nostack, preserves_flags));
            }
            rax
        }
    };
}
read!(read_1, "al");
read!(read_2, "ax");
read!(read_4, "eax");

fn check(port: u16, bytes: u32, before: u64, found: u64, wanted: u64) {
    if found != wanted {
        println!("port {port:#x}, {bytes} bytes: RAX was {before:#x}, is {found:#x}, should be {wanted:#x}");
        exit(1);
    }
}
