//! Changing over to our own tables and to a stack with a guard page.

use core::arch::asm;

use memory::address::Pfn;

use crate::cpu::registers;
use crate::cpu::stack::Stack;

/// Loads the top-level table at `root`.
///
/// # Safety
/// It must map the image and the stack in use where they are now, and RAM at its place in the direct map.
pub unsafe fn use_tables(root: Pfn) {
    // SAFETY: the caller vouches for the tables; the address has no bits below 12.
    unsafe { registers::write_cr3(root.hpa().get()) };
}

/// Goes on in `next`, on another stack, with a pointer that it may read once.
///
/// # Safety
/// `stack` must be mapped and unused.
pub unsafe fn continue_on<T>(stack: Stack, value: T, next: extern "C" fn(*const T) -> !) -> ! {
    // The old stack is part of the image and stays mapped, so the value can wait there.
    let value = core::mem::ManuallyDrop::new(value);
    // SAFETY: the new stack is ours; `next` never returns, so the zero that stands where its return address would be is never used,
    // and ends backtraces. RSP is 8 below a multiple of 16, as after a call (System V ABI, 3.2.2).
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0",
            "jmp {next}",
            stack = in(reg) stack.top().get(),
            next = in(reg) next,
            in("rdi") &raw const *value,
            options(noreturn)
        )
    }
}
