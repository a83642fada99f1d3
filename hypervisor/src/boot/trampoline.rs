//! The first instructions of every CPU but the first: from real mode to Rust on a stack and tables of its own.
//!
//! A start-up interrupt lets a CPU begin in real mode at the start of a page below 1 MiB (SDM vol. 3A, 8.4.4.2; APM vol. 2, 14.1.3). The
//! code of that page only gets it into protected mode and jumps to the image, which does not move. There it goes on as `entry`
//! does: long mode with the early tables, which show the image at identity too, then the high half. There it takes the hand-over, if
//! that is still open, and with it the tables and the stack that are its own.
//!
//! ```text
//! boot CPU                                    the other
//! fields = root, stack, argument
//! state = OPEN
//! INIT, start-up ---------------------------> (starts)
//!                                             state: OPEN -> TAKEN, else it halts
//!                                             CR3 = root; RSP = stack; entry(argument)
//! waits for SETTLED, or for too long:
//! state: OPEN -> CLOSED; INIT                 (too late: it finds no OPEN)
//! ```

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::address::Pfn;

use crate::cpu::registers;
use crate::cpu::stack::Stack;

/// Nobody may take it.
const CLOSED: u32 = 0;
/// The fields are written, and the CPU they are for may come.
const OPEN: u32 = 1;
/// A CPU has taken it.
const TAKEN: u32 = 2;
/// The CPU needs the hand-over no more.
const SETTLED: u32 = 3;

/// What a CPU finds.
#[repr(C)]
struct HandOver {
    root: AtomicU64,
    stack: AtomicU64,
    argument: AtomicU64,
    entry: AtomicU64,
    cr0: AtomicU32,
    state: AtomicU32,
}

static HAND_OVER: HandOver = HandOver {
    root: AtomicU64::new(0),
    stack: AtomicU64::new(0),
    argument: AtomicU64::new(0),
    entry: AtomicU64::new(0),
    cr0: AtomicU32::new(0),
    state: AtomicU32::new(CLOSED),
};

/// Where a CPU goes on, with the argument of its hand-over. Interrupts are masked; the descriptor tables are the entry code's.
pub type Entry = extern "C" fn(argument: u64) -> !;

/// Opens the hand-over for one CPU: `root` is the top-level table that it will use.
///
/// # Safety
/// No hand-over may be open. The tables must map the image where it is, and `stack`, which must be unused. `entry` must be right with
/// `argument`.
pub unsafe fn open(root: Pfn, stack: Stack, entry: Entry, argument: u64) {
    HAND_OVER.root.store(root.hpa().get(), Ordering::Relaxed);
    HAND_OVER.stack.store(stack.top().get(), Ordering::Relaxed);
    HAND_OVER.argument.store(argument, Ordering::Relaxed);
    HAND_OVER
        .entry
        .store((entry as *const ()).addr() as u64, Ordering::Relaxed);
    // All its bits in use lie in the lower half (SDM vol. 3A, 2.5): the same caching and protections as here, from the start.
    HAND_OVER
        .cr0
        .store(registers::read_cr0() as u32, Ordering::Relaxed);
    HAND_OVER.state.store(OPEN, Ordering::Release);
}

/// Closes the hand-over if nobody has taken it. False when somebody has.
pub fn close() -> bool {
    HAND_OVER
        .state
        .compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

/// The CPU that took the hand-over is done with it.
pub fn settle() {
    HAND_OVER.state.store(SETTLED, Ordering::Release);
}

/// Whether [`settle`] was called since [`open`].
pub fn is_settled() -> bool {
    HAND_OVER.state.load(Ordering::Acquire) == SETTLED
}

/// The bytes for a page below 1 MiB.
pub fn page() -> &'static [u8] {
    let start = &raw const trampoline_start;
    let end = &raw const trampoline_end;
    // SAFETY: the symbols bound constants of the image, which are always mapped and never written.
    unsafe { core::slice::from_raw_parts(start.cast(), end.addr() - start.addr()) }
}

// SAFETY: defined below; only the addresses are used.
unsafe extern "C" {
    static trampoline_start: c_void;
    static trampoline_end: c_void;
}

core::arch::global_asm!(
    r#"
    .set IMAGE, {image_base}

    /* Copied to a page below 1 MiB. It runs there, at CS:0; nothing in it depends on which page that is. */
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .globl trampoline_start
    trampoline_start:
    .code16
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $(trampoline_protected - IMAGE)
    .balign 4
    .word 0
    trampoline_gdt_pointer:
    .word 4 * 8 - 1
    .long boot_gdt - IMAGE
    .globl trampoline_end
    trampoline_end:

    .section .text.boot, "ax", @progbits
    .code32
    trampoline_protected:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    /* Into long mode: PAE, CR3, EFER.LME and NXE, paging (APM vol. 2, 14.6.1; SDM vol. 3A, 9.8.5). The hypervisor does not run
       without no-execute pages, and the tables to come have them. */
    movl $0x20, %eax
    movl %eax, %cr4
    movl $(early_level4 - IMAGE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl {hand_over} - IMAGE + {cr0}, %eax
    movl %eax, %cr0
    ljmp $0x08, $(trampoline_low - IMAGE)
    .code64
    trampoline_low:
    movabsq $trampoline_high, %rax
    jmpq *%rax
    trampoline_high:
    lgdt boot_gdt_pointer(%rip)
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl ${open}, %eax
    movl ${taken}, %ecx
    lock cmpxchgl %ecx, {hand_over} + {state}(%rip)
    jne trampoline_late
    movq {hand_over} + {root}(%rip), %rax
    movq %rax, %cr3
    movq {hand_over} + {stack}(%rip), %rsp
    movq {hand_over} + {argument}(%rip), %rdi
    xorl %ebp, %ebp            /* the end of every backtrace */
    callq *{hand_over} + {entry}(%rip)
    ud2
    trampoline_late:
    cli
    hlt
    jmp trampoline_late
    "#,
    image_base = const memory::layout::IMAGE_BASE.get(),
    hand_over = sym HAND_OVER,
    root = const core::mem::offset_of!(HandOver, root),
    stack = const core::mem::offset_of!(HandOver, stack),
    argument = const core::mem::offset_of!(HandOver, argument),
    entry = const core::mem::offset_of!(HandOver, entry),
    cr0 = const core::mem::offset_of!(HandOver, cr0),
    state = const core::mem::offset_of!(HandOver, state),
    open = const OPEN,
    taken = const TAKEN,
    options(att_syntax)
);
