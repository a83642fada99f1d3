//! Raises exceptions without end, in one of three ways by instance: a handler that returns to the fault; a single step after each
//! instruction of the handler of single steps; a breakpoint on the words that the delivery of #DB itself writes (CVE-2015-8104), so that a
//! CPU that keeps such exceptions to itself never comes to the next instruction. The time limit ends each.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;

use guest_tests::exceptions::{catch, set_handler};
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,count=3,limit=200ms,expect=time-limit");
main!(run);

const DEBUG: usize = 1;
const UNDEFINED: usize = 6;
/// Selector of the task-state segment, behind the two of the start.
const TASK: u64 = 0x18;
/// DR7: a breakpoint on writes of 8 bytes at DR0 (Intel SDM vol. 3B, 18.2.4); bit 10 is always one.
const ON_WRITES: u64 = 0b1001 << 16 | 1 << 10 | 1 << 1;
/// Words of a 64-bit task-state segment (SDM vol. 3A, figure 8-11), and its first stack of the seven, which starts at a word's half.
const TASK_WORDS: usize = 26;
const FIRST_STACK: usize = 9;

/// Memory that only the CPU uses.
#[repr(C, align(16))]
struct Tables {
    stack: UnsafeCell<[u64; 512]>,
    task: UnsafeCell<[u32; TASK_WORDS]>,
    descriptors: UnsafeCell<[u64; 5]>,
}
// SAFETY: a guest has one CPU.
unsafe impl Sync for Tables {}
static TABLES: Tables = Tables {
    stack: UnsafeCell::new([0; 512]),
    task: UnsafeCell::new([0; TASK_WORDS]),
    descriptors: UnsafeCell::new([0; 5]),
};

fn run(info: &LaunchInfo) {
    catch();
    match info.instance % 3 {
        0 => {
            println!("a handler that returns to the fault");
            set_handler(UNDEFINED, again as *const () as usize as u64, 0);
            // SAFETY: the handler returns to here, for ever.
            unsafe { asm!("ud2", options(noreturn)) }
        }
        1 => {
            println!("a single step in the handler of single steps");
            set_handler(DEBUG, step as *const () as usize as u64, 0);
            // SAFETY: the handler steps through itself, for ever.
            unsafe {
                asm!(
                    "pushfq",
                    "or qword ptr [rsp], 0x100",
                    "popfq",
                    "2: jmp 2b",
                    options(noreturn)
                )
            }
        }
        _ => {
            println!("a breakpoint on what the delivery of #DB writes");
            let top = use_own_stack();
            set_handler(DEBUG, again as *const () as usize as u64, 1);
            // SAFETY: the word is the highest of the stack that #DB gets, where its delivery writes SS. Where there are no breakpoints
            // on data, the loop goes on.
            unsafe {
                asm!("mov dr0, {}", "mov dr7, {}", "mov [{0}], {1}", "2: jmp 2b",
                    in(reg) top - 8, in(reg) ON_WRITES, options(noreturn))
            }
        }
    }
}

/// Gives the CPU a task-state segment with a stack for those handlers that ask for number 1. Returns the stack's end.
fn use_own_stack() -> u64 {
    let stack = TABLES.stack.get();
    let top = stack.addr() as u64 + size_of_val(&TABLES.stack) as u64;
    let at = TABLES.task.get().addr() as u64;
    // An available task-state segment, present; the upper half of its base (SDM vol. 3A, figure 8-4).
    let low = (4 * TASK_WORDS as u64 - 1) | (at & 0xff_ffff) << 16 | 0x89 << 40 | (at >> 24 & 0xff) << 56;
    let descriptors = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, at >> 32];
    /// What LGDT reads.
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer {
        limit: size_of_val(&descriptors) as u16 - 1,
        base: TABLES.descriptors.get().addr() as u64,
    };
    // SAFETY: nobody else uses the tables yet, and a guest has one CPU; the segments in use stay as they are.
    unsafe {
        (*TABLES.task.get())[FIRST_STACK] = top as u32;
        (*TABLES.task.get())[FIRST_STACK + 1] = (top >> 32) as u32;
        TABLES.descriptors.get().write(descriptors);
        asm!("lgdt [{}]", "ltr {:x}", in(reg) &raw const pointer, in(reg) TASK, options(nostack));
    }
    top
}

/// Returns to where it came from.
///
/// # Safety
/// Only for the interrupt table, for exceptions without an error code.
#[unsafe(naked)]
unsafe extern "sysv64" fn again() {
    naked_asm!("iretq")
}

/// Returns to itself with the flag of single steps set.
///
/// # Safety
/// Only for the interrupt table.
#[unsafe(naked)]
unsafe extern "sysv64" fn step() {
    naked_asm!(
        "lea rax, [rip + 2f]",
        "mov [rsp], rax",
        "or qword ptr [rsp + 16], 0x100",
        "iretq",
        "2:",
        "jmp 2b",
    )
}
