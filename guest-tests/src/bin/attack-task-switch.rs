//! Switches tasks by hardware: in long mode, which has no such thing, and in 32-bit protected mode without paging, for which it leaves
//! long mode. There the switch ends it.
#![no_std]
#![no_main]

use core::arch::asm;
use core::cell::UnsafeCell;

use guest_tests::exceptions::{catch, vector::PROTECTION};
use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, attempt, launch, main, println};

launch!("memory=4M,expect=unexpected");
main!(run);

/// Selectors: as at the start, then 32-bit code, and two task-state segments.
const CODE_32: u64 = 0x18;
const TASK: u64 = 0x20;
const OTHER_TASK: u64 = 0x28;

/// Descriptors (Intel SDM vol. 3A, 3.4.5 and 7.2.2): 64-bit code, data, 32-bit code, of 4 GiB each.
const FLAT: [u64; 4] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
];
/// Present, an available 32-bit task-state segment.
const TASK_TYPE: u64 = 0x89 << 40;
/// Bytes of a 32-bit task-state segment (figure 7-2).
const TASK_BYTES: usize = 104;

/// Memory that only the CPU and assembly use.
#[repr(C, align(16))]
struct Tables {
    descriptors: UnsafeCell<[u64; 6]>,
    tasks: UnsafeCell<[[u32; TASK_BYTES / 4]; 2]>,
}
// SAFETY: a guest has one CPU.
unsafe impl Sync for Tables {}
static TABLES: Tables = Tables {
    descriptors: UnsafeCell::new([0; 6]),
    tasks: UnsafeCell::new([[0; TASK_BYTES / 4]; 2]),
};

fn run(_: &LaunchInfo) {
    catch();
    fill();
    // A far jump to a task is #GP with its selector in long mode, and so is one through a task gate (SDM vol. 3A, 7.7). RSP points at the
    // far pointer.
    let jump = attempt!("push rcx", "push 0", => "ljmp [rsp + 4]", 0, OTHER_TASK << 32);
    if jump.vector() != Some((PROTECTION, OTHER_TASK)) {
        println!("a jump to a task in long mode: {:x?}", jump.exception);
        exit(1);
    }
    println!("leaving long mode");
    leave_long_mode();
}

/// Makes descriptors and tasks, and loads the descriptor table; the segments that are in use stay as they are.
fn fill() {
    let tasks = TABLES.tasks.get();
    let at = |index: usize| tasks.addr() as u64 + (index * TASK_BYTES) as u64;
    let descriptor = |index: usize| {
        let at = at(index);
        (TASK_BYTES as u64 - 1) | (at & 0xff_ffff) << 16 | TASK_TYPE | (at >> 24 & 0xff) << 56
    };
    let [null, code, data, code_32] = FLAT;
    let descriptors = [null, code, data, code_32, descriptor(0), descriptor(1)];
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
    // The task that is switched to: EIP, EFLAGS, ESP at words 8, 9 and 14; ES to DS from 18 on.
    let mut other = [0_u32; TASK_BYTES / 4];
    other[8] = switched as *const () as usize as u32;
    other[9] = 1 << 1;
    other[14] = 0x7_fff0;
    for (word, selector) in (18..).zip([0x10, CODE_32 as u32, 0x10, 0x10]) {
        other[word] = selector;
    }
    // SAFETY: nobody else uses the tables yet, and a guest has one CPU.
    unsafe {
        TABLES.descriptors.get().write(descriptors);
        (*tasks)[1] = other;
        asm!("lgdt [{}]", in(reg) &raw const pointer, options(readonly, nostack));
    }
}

/// Goes to 32-bit code, switches paging and long mode off, and jumps to the other task.
fn leave_long_mode() -> ! {
    // SAFETY: the guest ends in here. What runs lies in the image, below 4 GiB, where addresses are physical.
    unsafe {
        asm!(
            "cli",
            "push {code}",
            "lea rax, [rip + 2f]",
            "push rax",
            "retfq",
            ".code32",
            "2:",
            // Paging off ends long mode; then it can be disabled.
            "mov eax, cr0",
            "and eax, 0x7fffffff",
            "mov cr0, eax",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "and eax, 0xfffffeff",
            "wrmsr",
            "mov ax, 0x10",
            "mov ds, ax",
            "mov es, ax",
            "mov ss, ax",
            "mov ax, {task}",
            "ltr ax",
            // A far jump, opcode EAH: offset, selector.
            ".byte 0xea",
            ".long 0",
            ".word {other}",
            "ud2",
            ".code64",
            code = const CODE_32,
            task = const TASK,
            other = const OTHER_TASK,
            options(noreturn),
        )
    }
}

/// Where the other task begins: the exit with code 2, by whichever of the two instructions the CPU has.
///
/// # Safety
/// Only as the start of the task, in 32-bit code.
#[unsafe(naked)]
unsafe extern "sysv64" fn switched() {
    core::arch::naked_asm!(
        ".code32",
        "xor eax, eax",
        "cpuid",
        "cmp ebx, 0x756e6547",
        "mov eax, 2",
        "mov edi, 2",
        "je 2f",
        "vmmcall",
        "2:",
        "vmcall",
        "ud2",
        ".code64",
    )
}
