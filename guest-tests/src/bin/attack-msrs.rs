//! Reads and writes every model-specific register there could be: all that are in the maps of SVM and VMX, those of hypervisors, and others at
//! random. What guests have is as it was left; anything else is #GP, and the host goes on.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use guest_tests::exceptions::{Registers, catch, vector::PROTECTION};
use guest_tests::hypercall::{exit, report};
use guest_tests::registers::Source;
use guest_tests::registers::system::{MSRS, System, read_msr, write_msr};
use guest_tests::{LaunchInfo, Pattern, attempt, launch, main, println};

launch!("memory=4M,limit=120s");
main!(run);

/// The two registers that guests have beside [`MSRS`].
const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;
/// Registers taken at random.
const OTHERS: u64 = 10_000;

fn run(info: &LaunchInfo) {
    catch();
    let pattern = Pattern::new(info.seed);
    let source = Source::new(&pattern, info.instance, 0);
    let mine = System::of(&source);
    mine.load();
    let (efer, pat) = (read_msr(EFER), read_msr(PAT));

    let random = Pattern::new(!info.seed);
    // The upper half of RCX does not count. On AMD's CPUs it stays 0: QEMU's emulation looks for the register in SVM's map by all 64 bits, and so
    // misses the intercept (measured with 7.2).
    let upper = if __cpuid(0).ebx == u32::from_le_bytes(*b"Genu") {
        u64::MAX << 32
    } else {
        0
    };
    let ranges = [
        0..=0x1fff,
        0x4000_0000..=0x4000_00ff,
        0xc000_0000..=0xc000_1fff,
        0xc001_0000..=0xc001_1fff,
    ];
    let others = (0..OTHERS).map(|n| random.word(info.instance, 8 * n) as u32);
    let mut refused = 0;
    for (at, msr) in (0..).zip(ranges.into_iter().flatten().chain(others)) {
        if msr == EFER || msr == PAT || MSRS.iter().any(|known| known.0 == msr) {
            continue;
        }
        // Zero and ones switch things off and on.
        let value = match at % 3 {
            0 => 0,
            1 => u64::MAX,
            _ => random.word(info.instance, 8 * (OTHERS + at)),
        };
        let rcx = value & upper | u64::from(msr);
        let before = Registers {
            rax: value & 0xffff_ffff,
            rcx,
            rdx: value >> 32,
        };
        let read = attempt!(=> "rdmsr", before.rax, rcx, before.rdx);
        let write = attempt!(=> "wrmsr", before.rax, rcx, before.rdx);
        for (what, attempt) in [("read", read), ("written", write)] {
            if attempt.vector() != Some((PROTECTION, 0)) || attempt.registers != before {
                println!("{msr:#x}, {what} with {before:x?}: {attempt:x?}");
                exit(2);
            }
            refused += 1;
        }
    }

    if let Some((name, found)) = System::store().difference(&mine) {
        println!("{name} is now {found:#x}");
        exit(3);
    }
    if (read_msr(EFER), read_msr(PAT)) != (efer, pat) {
        println!("EFER or PAT changed");
        exit(4);
    }
    memory_types();
    report("refused", refused);
    println!("{refused} accesses of registers that are not mine were refused");
}

/// Each byte of PAT takes the six memory types and no other value (AMD APM vol. 2, 7.8.1; Intel SDM vol. 3A, table 11-10).
fn memory_types() {
    let first = read_msr(PAT);
    for entry in 0..8 {
        for kind in 0..=0xff {
            let value = first & !(0xff << (8 * entry)) | kind << (8 * entry);
            let attempt = attempt!(=> "wrmsr", value & 0xffff_ffff, u64::from(PAT), value >> 32);
            let valid = matches!(kind, 0 | 1 | 4..=7);
            if valid {
                attempt.passed("PAT with a memory type");
            } else {
                attempt.fault("PAT with a type that does not exist", PROTECTION);
            }
            let found = read_msr(PAT);
            if found != if valid { value } else { first } {
                println!("PAT is {found:#x} after {value:#x}");
                exit(5);
            }
            write_msr(PAT, first);
        }
    }
}
