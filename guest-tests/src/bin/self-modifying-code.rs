//! Runs code that it has just written, at the ends of pages and across them, and changes it between two calls.
//!
//! Where the host splits a large leaf for the first fetch (iTLB multihit), code and data must stay the same through the split.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use guest_tests::hypercall::{self, exit};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=8M");
main!(run);

/// `mov eax, VALUE; ret` (SDM vol. 2B, MOV and RET), without the value.
const MOV_EAX: u8 = 0xb8;
const RET: u8 = 0xc3;
/// Bytes of the two.
const BYTES: u64 = 6;
/// Where code is put: around the end of a page, and around the ends of regions.
const ENDS: [u64; 3] = [0x40_1000, 0x40_0000, 0x60_0000];
/// Values that each piece returns in turn.
const VALUES: u32 = 3;

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    let mut calls = 0;
    for end in ENDS {
        let around = end - 2 * 4096..end + 2 * 4096;
        assert!(
            info.free_extents()
                .any(|free| free.start <= around.start && around.end <= free.end),
            "{around:#x?} is not free"
        );
        for at in around.clone().step_by(8) {
            // SAFETY: the range is free, as just looked up.
            unsafe { memory::store(at, pattern.word(info.instance, at)) };
        }
        // Each place for the page's end within the piece, before it and behind it.
        for offset in 0..=BYTES {
            let start = end - offset;
            let kept = [word(around.start), word(around.end - 8)];
            for value in 0..VALUES {
                let value = value << 24 | end as u32 ^ offset as u32;
                write(start, value);
                let found = run_at(start);
                if found != value {
                    println!("code at {start:#x} returns {found:#x}, should be {value:#x}");
                    exit(1);
                }
                calls += 1;
            }
            assert_eq!(kept, [word(around.start), word(around.end - 8)]);
        }
        for at in around.clone().step_by(8) {
            let code = end - BYTES..end + BYTES;
            if at + 8 > code.start && at < code.end {
                continue;
            }
            let found = word(at);
            if found != pattern.word(info.instance, at) {
                println!("memory at {at:#x} is now {found:#x}");
                exit(2);
            }
        }
    }
    hypercall::report("calls", calls);
    println!("code that was written {calls} times ran as written");
}

fn word(at: u64) -> u64 {
    // SAFETY: the addresses are of free memory, which the guest has.
    unsafe { memory::load(at) }
}

/// Writes the piece, and lets the CPU see it: CPUID serializes (SDM vol. 3A, 9.1.3; APM vol. 2, 7.6.4).
fn write(start: u64, value: u32) {
    let [a, b, c, d] = value.to_le_bytes();
    for (at, byte) in (start..).zip([MOV_EAX, a, b, c, d, RET]) {
        // SAFETY: the piece lies in free memory. Assembly as in `memory::store`.
        unsafe { asm!("mov [{}], {}", in(reg) at, in(reg_byte) byte, options(nostack, preserves_flags)) };
    }
    __cpuid(0);
}

fn run_at(start: u64) -> u32 {
    let value;
    // SAFETY: the piece sets EAX and returns; the guest's tables let all of its memory be executed.
    unsafe { asm!("call {}", in(reg) start, out("eax") value) };
    value
}
