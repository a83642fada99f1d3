//! Finds no byte and no register of an earlier guest: all free memory is zero and every register is in its initial state. Then
//! leaves its own pattern in all of them, so that the next one has something to find.
//!
//! Its exit code is a sum of what was found, see the constants.
#![no_std]
#![no_main]

use guest_abi::launch_area::{GDT, LAUNCH_INFO, PAGE, START_RSP};
use guest_tests::hypercall::{report, yield_now};
use guest_tests::registers::system::{self, System};
use guest_tests::registers::vector::{self, Vectors};
use guest_tests::registers::{Source, general};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=64M,count=2,after");
main!(run);

/// Memory was not zero.
const MEMORY: u64 = 1;
/// A general register was not as the ABI says.
const GENERAL: u64 = 2;
/// An x87 or vector register, or one of their control words, was not in its initial state.
const VECTOR: u64 = 4;
/// A debug register, CR2 or a model-specific register was not in its initial state.
const SYSTEM: u64 = 8;
/// XCR0 or PKRU was not in its initial state.
const EXTENDED: u64 = 16;

/// Initial XCR0: x87 only (Intel SDM vol. 1, 13.3).
const INITIAL_XCR0: u64 = 1;
/// PAT and its value after a reset (AMD APM vol. 2, 7.8.2).
const PAT: (u32, u64) = (0x277, 0x0007_0406_0007_0406);

fn run(info: &LaunchInfo) {
    // Registers and stack first: what follows uses the stack.
    let xmm = Vectors::store(vector::Width::Xmm);
    let stack = memory::first_nonzero(memory::unused_stack());
    let mut found = general_registers() | vectors(&xmm) | system_registers() | extended_registers();
    if let Some(difference) = stack {
        println!("stack at {:#x} holds {:#018x}", difference.gpa, difference.found);
        found |= MEMORY;
    }
    found |= all_memory(info);
    report("found", found);

    leave_everything_dirty(info, found)
}

fn general_registers() -> u64 {
    let mut found = 0;
    for (index, value) in general::at_entry().into_iter().enumerate() {
        let expected = match index {
            general::RSP => START_RSP,
            general::RDI => LAUNCH_INFO,
            // Bit 1 is always 1 (AMD APM vol. 2, 3.1.4).
            general::RFLAGS => 2,
            _ => 0,
        };
        if value != expected {
            println!(
                "{} is {value:#x} at the start, not {expected:#x}",
                general::NAMES[index]
            );
            found = GENERAL;
        }
    }
    found
}

fn vectors(xmm: &Vectors) -> u64 {
    if let Some((name, value)) = xmm.difference(&Vectors::initial()) {
        println!("{name} is not in its initial state: {value:#x}");
        return VECTOR;
    }
    if xmm.error_pointers() != [0; 3] {
        println!("x87 error pointers are {:#x?}", xmm.error_pointers());
        return VECTOR;
    }
    0
}

fn system_registers() -> u64 {
    let mut found = 0;
    if let Some((name, value)) = System::store().difference(&System::ZERO) {
        println!("{name} is {value:#x}, not 0");
        found = SYSTEM;
    }
    let [cr2, dr6, dr7] = system::fault_registers();
    if cr2 != 0 || dr6 & system::DR6_EVENTS != 0 || dr7 != system::INITIAL_DR7 {
        println!("CR2 is {cr2:#x}, DR6 {dr6:#x}, DR7 {dr7:#x}");
        found = SYSTEM;
    }
    let pat = system::read_msr(PAT.0);
    if pat != PAT.1 {
        println!("PAT is {pat:#x}");
        found = SYSTEM;
    }
    found
}

fn extended_registers() -> u64 {
    let mut found = 0;
    if system::enable_xsave() && system::xcr0() != INITIAL_XCR0 {
        println!("XCR0 is {:#x}", system::xcr0());
        found = EXTENDED;
    }
    if system::enable_protection_keys() && system::pkru() != 0 {
        println!("PKRU is {:#x}", system::pkru());
        found = EXTENDED;
    }
    let width = vector::enable_widest();
    if let Some((name, value)) = Vectors::store(width).difference(&Vectors::initial()) {
        println!("{name} is not in its initial state: {value:#x}");
        found |= VECTOR;
    }
    println!("looked at registers of width {width:?}");
    found
}

fn all_memory(info: &LaunchInfo) -> u64 {
    let mut found = 0;
    let mut bytes = 0;
    // Two pages are used in part only.
    let info_end = LAUNCH_INFO + LaunchInfo::BYTES as u64;
    let partial = [info_end..LAUNCH_INFO + PAGE, GDT + 24..GDT + PAGE];
    let partial = partial
        .into_iter()
        .map(|range| (memory::first_nonzero(range.clone()), range.end - range.start));
    let whole = memory::free_parts().map(|part| (part.first_nonzero(), part.bytes()));
    for (difference, length) in partial.chain(whole) {
        if let Some(difference) = difference {
            match Pattern::new(info.seed).locate(difference.found) {
                Some((instance, gpa)) => println!(
                    "memory at {:#x} holds {:#018x}: what guest {instance} writes at {gpa:#x}",
                    difference.gpa, difference.found
                ),
                None => println!("memory at {:#x} holds {:#018x}", difference.gpa, difference.found),
            }
            found = MEMORY;
        }
        bytes += length;
        yield_now();
    }
    println!("looked at {bytes} of {} bytes", info.memory_bytes);
    report("bytes", bytes);
    found
}

fn leave_everything_dirty(info: &LaunchInfo, code: u64) -> ! {
    let pattern = Pattern::new(info.seed);
    for part in memory::free_parts() {
        part.fill(&pattern, info.instance);
    }
    let source = Source::new(&pattern, info.instance, 0);
    if system::enable_protection_keys() {
        system::set_pkru(source.word(500) as u32);
    }
    // CR2 takes any canonical address.
    system::dirty_fault_registers(source.word(501) >> 17);
    System::of(&source).load();
    let width = vector::enable_widest();
    Vectors::of(&source, width).load(width);
    general::exit_with(&source, code)
}
