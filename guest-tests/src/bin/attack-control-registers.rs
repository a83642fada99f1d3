//! Writes CR0, CR3, CR4, EFER and XCR0 with every bit changed alone, with several changed, and with any value at all. What CPUID offers is
//! taken and reads back, caching stays on, and everything else is #GP and changes nothing.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use guest_tests::exceptions::{Attempt, catch, vector::PROTECTION};
use guest_tests::hypercall::{exit, report};
use guest_tests::registers::system::{enable_xsave, read_msr, xcr0};
use guest_tests::{LaunchInfo, Pattern, attempt, launch, main, println};

launch!("memory=4M,limit=120s");
main!(run);

/// Values of each register that are not single bits.
const VALUES: u64 = 500;
const EFER: u32 = 0xc000_0080;

/// XCR0: the registers of MPX.
const MPX: u64 = 0b11 << 3;

/// Bits of CR0 (Intel SDM vol. 3A, 2.5).
mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const ET: u64 = 1 << 4;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// With MP, EM, TS, NE, WP and AM, all that mean anything.
    pub const DEFINED: u64 = PE | 0b1110 | ET | 1 << 5 | 1 << 16 | 1 << 18 | NW | CD | PG;
}

/// Bits of EFER (AMD APM vol. 2, 3.1.7).
mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

macro_rules! read {
    ($name:ident, $register:literal) => {
        fn $name() -> u64 {
            let value;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}
read!(read_cr0, "cr0");
read!(read_cr3, "cr3");
read!(read_cr4, "cr4");

/// A register that is attacked.
struct Register<'a> {
    name: &'a str,
    read: &'a dyn Fn() -> u64,
    write: &'a dyn Fn(u64) -> Attempt,
    /// What a write leaves in the register; `None` is #GP.
    rule: &'a dyn Fn(u64) -> Option<u64>,
    /// Values that are left out.
    left_out: &'a dyn Fn(u64) -> bool,
}

fn run(info: &LaunchInfo) {
    catch();
    let random = Pattern::new(!info.seed);
    let word = |register: u64, n: u64| random.word(info.instance, 8 * (register * 4 * VALUES + n));
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");
    let mut taken = 0;

    let first_cr0 = read_cr0();
    taken += attack(
        &Register {
            name: "CR0",
            read: &read_cr0,
            write: &|value| attempt!(=> "mov cr0, rax", value, 0),
            rule: &after_cr0,
            // QEMU's emulation looks for changes in the lower half alone, and drops the upper half without a #GP when it finds none but in
            // MP and TS (measured with 7.2).
            left_out: &|value| !intel && value >> 32 != 0 && (value ^ first_cr0) & 0xffff_ffff & !0b1010 == 0,
        },
        &|n| word(0, n),
    );
    let offered = offered_cr4();
    taken += attack(
        &Register {
            name: "CR4",
            read: &read_cr4,
            write: &|value| attempt!(=> "mov cr4, rax", value, 0),
            // PAE is wanted in long mode.
            rule: &|value| (value & !offered == 0 && value & 1 << 5 != 0).then_some(value),
            left_out: &|_| false,
        },
        &|n| word(1, n),
    );
    let features = __cpuid(0x8000_0001).edx;
    // SYSCALL and no-execute pages.
    let mine = efer::LME
        | if features & 1 << 11 != 0 { efer::SCE } else { 0 }
        | if features & 1 << 20 != 0 { efer::NXE } else { 0 };
    taken += attack(
        &Register {
            name: "EFER",
            read: &|| read_msr(EFER),
            write: &|value| attempt!(=> "wrmsr", value & 0xffff_ffff, u64::from(EFER), value >> 32),
            // LMA only reports; LME can't change under paging.
            rule: &|value| {
                let wanted = value & !efer::LMA;
                (wanted & !mine == 0 && wanted & efer::LME != 0).then_some(wanted | efer::LMA)
            },
            left_out: &|_| false,
        },
        &|n| word(2, n),
    );
    if enable_xsave() {
        let leaf = __cpuid_count(0xd, 0);
        let offered = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
        taken += attack(
            &Register {
                name: "XCR0",
                read: &xcr0,
                write: &|value| attempt!(=> "xsetbv", value & 0xffff_ffff, 0, value >> 32),
                rule: &|value| after_xcr0(value, offered),
                // QEMU's emulation of SVM does not intercept XSETBV, and has MPX, which is not offered (measured with 7.2).
                left_out: &|value| !intel && value & MPX != 0,
            },
            &|n| word(3, n),
        );
        for index in 1..64 {
            attempt!(=> "xsetbv", 1, index).fault("another XCR", PROTECTION);
        }
    }
    // QEMU's emulation hangs on a bad CR3 (measured with 7.2).
    if intel {
        let width = __cpuid(0x8000_0008).eax & 0xff;
        for bit in width..64 {
            attempt!("mov rax, cr3", "bts rax, rcx", => "mov cr3, rax", 0, u64::from(bit))
                .fault("CR3 with a bit above the address", PROTECTION);
        }
        check("CR3 is as it was", read_cr3() == info.page_tables_start);
    }
    report("taken", taken);
    println!("control registers took {taken} values, and no other");
}

/// Tries all values; returns how many were taken.
fn attack(register: &Register<'_>, word: &dyn Fn(u64) -> u64) -> u64 {
    let first = (register.read)();
    let single = (0..64).map(|bit| first ^ 1 << bit);
    let several = (0..VALUES).map(|n| {
        let words = word(3 * n);
        let bits = (0..words % 7).fold(0, |bits, turn| bits | 1 << (words >> (8 * turn) & 63));
        match n % 4 {
            // Any value; any low half; bits of the low half; bits.
            0 => word(3 * n + 1),
            1 => word(3 * n + 1) & 0xffff_ffff,
            2 => first ^ bits & 0xffff_ffff,
            _ => first ^ bits,
        }
    });
    let mut taken = 0;
    for value in single.chain(several).filter(|value| !(register.left_out)(*value)) {
        let attempt = (register.write)(value);
        let found = (register.read)();
        let (came, holds) = match (register.rule)(value) {
            Some(after) => (None, after),
            None => (Some((PROTECTION, 0)), first),
        };
        if attempt.vector() != came || found != holds {
            println!(
                "{} with {value:#x} over {first:#x}: {:x?} came, should be {came:x?}; it holds {found:#x}, should be {holds:#x}",
                register.name,
                attempt.vector()
            );
            exit(1);
        }
        if came.is_none() {
            taken += 1;
            (register.write)(first).passed(register.name);
        }
    }
    check(register.name, (register.read)() == first);
    if taken == 0 {
        println!("{} took no value", register.name);
        exit(2);
    }
    taken
}

/// In 64-bit code (Intel SDM vol. 3A, 2.5; AMD APM vol. 2, 3.1.1); CD and NW can't be set here.
fn after_cr0(value: u64) -> Option<u64> {
    let fault = value >> 32 != 0
        || value & cr0::PG == 0
        || value & cr0::PE == 0
        || value & cr0::NW != 0 && value & cr0::CD == 0;
    (!fault).then_some(value & cr0::DEFINED & !(cr0::CD | cr0::NW) | cr0::ET)
}

/// SDM vol. 1, 13.3.
fn after_xcr0(value: u64, offered: u64) -> Option<u64> {
    let has = |bits: u64| value & bits == bits;
    let (x87, sse, avx, avx512) = (1, 1 << 1, 1 << 2, 0b111 << 5);
    let fits = value & !offered == 0
        && has(x87)
        && (value & avx == 0 || has(sse))
        && (value & avx512 == 0 || has(avx512 | avx));
    fits.then_some(value)
}

/// The bits of CR4 whose features CPUID shows (SDM vol. 3A, 2.5).
fn offered_cr4() -> u64 {
    let (leaf_1, leaf_7) = (__cpuid(1), __cpuid_count(7, 0));
    // Register, its bit, the bits of CR4.
    let features = [
        (leaf_1.edx, 1, 0b11),
        (leaf_1.edx, 4, 1 << 2),
        (leaf_1.edx, 2, 1 << 3),
        (leaf_1.edx, 3, 1 << 4),
        (leaf_1.edx, 6, 1 << 5),
        (leaf_1.edx, 7, 1 << 6),
        (leaf_1.edx, 13, 1 << 7),
        (leaf_1.edx, 24, 1 << 9),
        (leaf_1.edx, 25, 1 << 10),
        (leaf_7.ecx, 2, 1 << 11),
        (leaf_7.ecx, 16, 1 << 12),
        (leaf_1.ecx, 5, 1 << 13),
        (leaf_1.ecx, 6, 1 << 14),
        (leaf_7.ebx, 0, 1 << 16),
        (leaf_1.ecx, 17, 1 << 17),
        (leaf_1.ecx, 26, 1 << 18),
        (leaf_7.ebx, 7, 1 << 20),
        (leaf_7.ebx, 20, 1 << 21),
        (leaf_7.ecx, 3, 1 << 22),
        (leaf_7.ecx, 7, 1 << 23),
    ];
    // PCE has no feature of its own.
    let bits = features
        .into_iter()
        .filter(|(register, bit, _)| register >> bit & 1 != 0);
    bits.fold(1 << 8, |all, (.., bits)| all | bits)
}

fn check(what: &str, holds: bool) {
    if !holds {
        println!(
            "not so: {what} (CR0 {:#x}, CR3 {:#x}, CR4 {:#x})",
            read_cr0(),
            read_cr3(),
            read_cr4()
        );
        exit(3);
    }
}
