//! Where a stack is.

use core::arch::asm;

use memory::address::Hva;

use super::descriptor::CpuTables;

/// A mapped stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    low: Hva,
    top: Hva,
}

impl Stack {
    /// The stack from `low` up to, not including, `top`, which is a multiple of 16.
    ///
    /// # Safety
    /// From now on the range must stay mapped and writable, in every top-level table that is ever used, and serve as a stack only.
    pub const unsafe fn new(low: Hva, top: Hva) -> Self {
        Self { low, top }
    }

    /// One past the highest byte.
    pub const fn top(&self) -> Hva {
        self.top
    }

    /// Whether `bytes` bytes at `address` lie within the stack.
    pub fn contains(&self, address: Hva, bytes: u64) -> bool {
        self.low <= address && address.checked_add(bytes).is_some_and(|end| end <= self.top)
    }
}

/// The stacks that the CPU switches to for exceptions, whatever RSP was (interrupt stack table; SDM vol. 3A, 6.14.5).
///
/// No two may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IstStacks {
    /// Every exception without a stack of its own.
    pub fault: Stack,
    /// NMI.
    pub nmi: Stack,
    /// #MC.
    pub machine_check: Stack,
    /// #DF.
    pub double_fault: Stack,
}

/// Memory for a stack in the image, for the time before there are mapped stacks with guard pages.
#[repr(C, align(16))]
pub struct StackMemory<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> StackMemory<BYTES> {
    /// A zeroed stack.
    pub const fn new() -> Self {
        const { assert!(BYTES.is_multiple_of(16)) };
        Self([0; BYTES])
    }

    /// Gives the memory up to be a stack: nobody else can borrow it again.
    pub fn as_stack(&'static mut self) -> Stack {
        let low = self.0.as_mut_ptr().expose_provenance() as u64;
        Stack {
            low: Hva::new(low),
            top: Hva::new(low + BYTES as u64),
        }
    }
}

/// Fills what is unused of this CPU's main stack, all below the caller's frame, with zeros: calls that have returned leave their values
/// there, and some of those were a guest's.
///
/// Does nothing on any other stack.
#[inline(never)]
pub fn wipe_unused() {
    let rsp: u64;
    // SAFETY: reading RSP has no effect.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    let Some(stack) = CpuTables::current().and_then(|tables| tables.stack_of(Hva::new(rsp), 8)) else {
        return;
    };
    let words = rsp.saturating_sub(stack.low.get()) / 8;
    // SAFETY: the range lies in a mapped stack and below RSP, where nothing lives: the target has no red zone, maskable interrupts may use
    // it but are done when they return, and exceptions and NMIs have stacks of their own. The direction flag is clear, as the ABI wants.
    unsafe {
        asm!(
            "rep stosq",
            inout("rdi") rsp - words * 8 => _,
            inout("rcx") words => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags)
        );
    }
}
