//! Runs instructions at which it exits across the end of a page, at each place within them: into a page that lies elsewhere, into one that is
//! not there (a page fault of its own), and with more prefixes than an instruction may have. In the end one begins in the last
//! byte of its memory: the rest is nobody's.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use guest_abi::launch_area::PAGE;
use guest_tests::exceptions::{Attempt, catch, vector};
use guest_tests::hypercall::{exit, report};
use guest_tests::mapping::{FREE_SLOT, PRESENT, Pages, WRITABLE, map};
use guest_tests::registers::system::fault_registers;
use guest_tests::{LaunchInfo, attempt, launch, main, println};

launch!("memory=4M,limit=120s,expect=memory-fault");
main!(run);

/// Most bytes of an instruction (AMD APM vol. 3, 1.1).
const MOST: u64 = 15;
/// A segment override, which has no meaning in 64-bit code.
const PREFIX: u8 = 0x2e;
const RET: u8 = 0xc3;
/// What RAX holds before, and after those that leave it alone: leaf 0, and a hypercall that does not exist.
const BEFORE: u64 = 0x1_0000_0000;

/// What is run: its name, its bytes, RCX, and RAX afterwards.
struct Piece {
    name: &'static str,
    bytes: &'static [u8],
    rcx: u64,
    rax: Option<u64>,
}

fn run(info: &LaunchInfo) {
    catch();
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");
    let mut pages = Pages::new();
    // The last page of memory, for the end.
    let last = pages.take();
    // Physically the second lies below the first.
    let (first, second) = (pages.take(), pages.take());
    map(&mut pages, FREE_SLOT, first, PRESENT | WRITABLE);
    let end = FREE_SLOT + PAGE;

    let highest_leaf = u64::from(__cpuid(0).eax);
    let pieces = [
        Piece {
            name: "CPUID",
            bytes: &[0x0f, 0xa2],
            rcx: 0,
            rax: Some(highest_leaf),
        },
        Piece {
            name: "RDMSR",
            bytes: &[0x0f, 0x32],
            rcx: 0x277,
            rax: Some(0x0007_0406),
        },
        Piece {
            name: "IN",
            bytes: &[0xe5, 0xf4],
            rcx: 0,
            rax: Some(0xffff_ffff),
        },
        Piece {
            name: "OUT",
            bytes: &[0xe7, 0xf4],
            rcx: 0,
            rax: Some(BEFORE),
        },
        Piece {
            name: "WBINVD",
            bytes: &[0x0f, 0x09],
            rcx: 0,
            rax: Some(BEFORE),
        },
        Piece {
            name: "MOV to DR6",
            bytes: &[0x0f, 0x23, 0xf1],
            rcx: 0xffff_0ff0,
            rax: Some(BEFORE),
        },
        Piece {
            name: "MOV to CR0",
            bytes: &[0x0f, 0x22, 0xc1],
            // With caching off, so that it exits; PG, WP, NE, ET, MP and PE as at the start.
            rcx: 0xc001_0033,
            rax: Some(BEFORE),
        },
        Piece {
            name: "the hypercall",
            bytes: if intel {
                &[0x0f, 0x01, 0xc1]
            } else {
                &[0x0f, 0x01, 0xd9]
            },
            rcx: 0,
            rax: Some(-1_i64 as u64),
        },
        Piece {
            name: "RDMSR of a register that is not there",
            bytes: &[0x0f, 0x32],
            rcx: 0x1b,
            rax: None,
        },
    ];
    let mut runs = 0;
    for piece in &pieces {
        let length = piece.bytes.len() as u64;
        for prefixes in 0..=MOST - length {
            let length = prefixes + length;
            for before in 0..=length {
                let start = end - before;
                map(&mut pages, end, second, PRESENT | WRITABLE);
                write(start, prefixes, piece.bytes);
                // First with the second page taken away. In this order: once it has run, Bochs keeps such an instruction, whatever becomes of
                // the page (measured with 2.7).
                if before > 0 && before < length {
                    map(&mut pages, end, 0, 0);
                    without_page(piece, start, end);
                    map(&mut pages, end, second, PRESENT | WRITABLE);
                }
                runs += 1;
                check(piece, start, length, call(start, piece.rcx));
            }
        }
        // One prefix too many.
        map(&mut pages, end, second, PRESENT | WRITABLE);
        for before in 0..=MOST + 1 {
            write(end - before, MOST + 1 - length, piece.bytes);
            let attempt = call(end - before, piece.rcx);
            if attempt.vector() != Some((vector::PROTECTION, 0)) {
                println!("{} of 16 bytes: {attempt:x?}", piece.name);
                exit(4);
            }
        }
    }
    report("runs", runs);

    let at = info.memory_bytes - 1;
    assert_eq!(at, last + PAGE - 1);
    println!("{runs} runs were right; and now CPUID in the last byte, at {at:#x}");
    store(at, 0x0f);
    call(at, 0);
    println!("ran on behind the end of memory");
    exit(5);
}

fn store(at: u64, byte: u8) {
    // SAFETY: the address is in free memory, which is mapped. Assembly as in `memory::store`.
    unsafe { asm!("mov [{}], {}", in(reg) at, in(reg_byte) byte, options(nostack, preserves_flags)) };
}

/// Writes prefixes, the instruction and a return, and lets the CPU see them: a hypervisor that is called serializes.
fn write(start: u64, prefixes: u64, bytes: &[u8]) {
    for at in 0..prefixes {
        store(start + at, PREFIX);
    }
    for (at, byte) in (start + prefixes..).zip(bytes.iter().copied().chain([RET])) {
        store(at, byte);
    }
    __cpuid(0);
}

fn call(start: u64, rcx: u64) -> Attempt {
    // SAFETY: the word is on the guest's own stack; the code at `start` returns, or an exception comes.
    attempt!("push rdx", => "call qword ptr [rsp]", BEFORE, rcx, start)
}

/// A page fault at the start of the instruction, for the page that is not there.
fn without_page(piece: &Piece, start: u64, end: u64) {
    /// In the error code: it was a fetch, which is told only where pages can be no-execute, or under SMEP (SDM vol. 3A, 4.7).
    const FETCH: u64 = 1 << 4;
    let attempt = call(start, piece.rcx);
    let came = attempt
        .exception
        .map(|came| (came.vector, came.error & !FETCH, came.address));
    let cr2 = fault_registers()[0];
    if came != Some((vector::PAGE_FAULT, 0, start)) || cr2 != end {
        println!(
            "{} at {start:#x} with no page behind: {attempt:x?}, CR2 {cr2:#x}",
            piece.name
        );
        exit(3);
    }
}

fn check(piece: &Piece, start: u64, length: u64, attempt: Attempt) {
    let came = attempt
        .exception
        .map(|came| (came.vector, came.error, came.address));
    let wanted = match piece.rax {
        Some(_) => None,
        None => Some((vector::PROTECTION, 0, start)),
    };
    if came != wanted {
        println!("{} of {length} bytes at {start:#x}: {attempt:x?}", piece.name);
        exit(1);
    }
    if let Some(rax) = piece.rax
        && attempt.registers.rax != rax
    {
        println!(
            "{} of {length} bytes at {start:#x}: RAX is {:#x}",
            piece.name, attempt.registers.rax
        );
        exit(2);
    }
}
