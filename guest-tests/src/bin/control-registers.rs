//! Changes what a guest may change of its control registers, and finds each as it left it; caching stays on, whatever it asks.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::{exit, yield_now};
use guest_tests::registers::system::{read_msr, write_msr};
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M");
main!(run);

/// CR0: task switched, numeric errors, cache disable (Intel SDM vol. 3A, 2.5).
const TS: u64 = 1 << 3;
const NE: u64 = 1 << 5;
const CD: u64 = 1 << 30;
/// CR4: machine checks, VMX: the host's.
const MCE: u64 = 1 << 6;
const VMXE: u64 = 1 << 13;
/// CR4: global pages, as an example of a bit that guests have.
const PGE: u64 = 1 << 7;
const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;
const EFER_SCE: u64 = 1 << 0;

macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        fn $read() -> u64 {
            let value;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        fn $write(value: u64) {
            // SAFETY: the callers set bits that change nothing for compiled code.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
register!(cr0, set_cr0, "cr0");
register!(cr4, set_cr4, "cr4");
register!(cr8, set_cr8, "cr8");

fn run(_: &LaunchInfo) {
    let (first_cr0, first_cr4) = (cr0(), cr4());
    check("CR0.NE is set at the start", first_cr0 & NE != 0);
    check("CR4 shows nothing of the host's", first_cr4 & (MCE | VMXE) == 0);

    set_cr0(first_cr0 | CD);
    check("CR0.CD reads as zero", cr0() == first_cr0);
    set_cr0((first_cr0 & !NE) | CD | TS);
    check("CR0 is as written but for CD", cr0() == first_cr0 & !NE | TS);
    // SAFETY: clears the flag that was just set; compiled code uses no x87 or vector instruction.
    unsafe { asm!("clts", options(nomem, nostack)) };
    check("CLTS clears TS alone", cr0() == first_cr0 & !NE);
    let status = first_cr0 as u16 | TS as u16;
    // SAFETY: sets TS.
    unsafe { asm!("lmsw {0:x}", in(reg) status, options(nomem, nostack)) };
    check("LMSW sets TS", cr0() == first_cr0 & !NE | TS);
    yield_now();
    check("CR0 stays over a yield", cr0() == first_cr0 & !NE | TS);
    set_cr0(first_cr0);
    check("CR0 is back", cr0() == first_cr0);

    set_cr4(first_cr4 | PGE);
    check("CR4 is as written", cr4() == first_cr4 | PGE);
    set_cr4(first_cr4);

    // The highest task priority: the host must still get its timer interrupts, or nobody else would have a turn.
    set_cr8(15);
    check("CR8 is as written", cr8() == 15);
    for _ in 0..3_000_000_u32 {
        core::hint::spin_loop();
    }
    check("CR8 stays", cr8() == 15);
    set_cr8(0);

    let efer = read_msr(EFER);
    write_msr(EFER, efer | EFER_SCE);
    check("EFER is as written", read_msr(EFER) == efer | EFER_SCE);
    // Uncacheable in all entries, which is only kept.
    write_msr(PAT, 0);
    check("PAT is as written", read_msr(PAT) == 0);
    // SAFETY: the caches lose nothing of this guest's: WBINVD writes back, and INVD is not let through.
    unsafe { asm!("wbinvd", "invd", options(nostack)) };
    println!("control registers are as they should be");
}

fn check(what: &str, holds: bool) {
    if !holds {
        println!(
            "not so: {what} (CR0 {:#x}, CR4 {:#x}, CR8 {:#x})",
            cr0(),
            cr4(),
            cr8()
        );
        exit(1);
    }
}
