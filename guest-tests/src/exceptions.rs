//! Catching exceptions: an interrupt table, its handlers, and [`attempt!`](crate::attempt), which runs an instruction and says what exception
//! came, with which error code, and where.
//!
//! [`catch`] loads the table; from then on an exception outside of an attempt goes on at the end of the last one, so a guest that calls it
//! should do all that may fault in attempts. What came is noted in one place: only one vCPU at a time can attempt something.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::hypercall::exit;
use crate::println;

/// Vectors (Intel SDM vol. 3A, 6.3.1; AMD APM vol. 2, 8.2).
pub mod vector {
    /// #DE.
    pub const DIVIDE: u64 = 0;
    /// #DB.
    pub const DEBUG: u64 = 1;
    /// #BP.
    pub const BREAKPOINT: u64 = 3;
    /// #UD.
    pub const UNDEFINED: u64 = 6;
    /// #GP.
    pub const PROTECTION: u64 = 13;
    /// #PF.
    pub const PAGE_FAULT: u64 = 14;
}

/// Gates of 16 bytes, two words each (SDM vol. 3A, 6.14.1): one for each exception.
static GATES: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
/// Where a handler goes on.
#[doc(hidden)]
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// The stack pointer of an attempt.
#[doc(hidden)]
pub static STACK: AtomicU64 = AtomicU64::new(0);
/// What it found: vector, error code, and the instruction pointer that was pushed.
static VECTOR: AtomicU64 = AtomicU64::new(NONE);
static ERROR: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// No exception came.
const NONE: u64 = u64::MAX;

/// Makes handlers: a vector each, and where the CPU pushes no error code, a zero for it (SDM vol. 3A, table 6-1).
macro_rules! handlers {
    ($($name:ident = $vector:literal $(, $push_zero:literal)?;)*) => {
        $(
            /// # Safety
            /// Only for the interrupt table.
            #[unsafe(naked)]
            unsafe extern "sysv64" fn $name() {
                naked_asm!($($push_zero,)? concat!("push ", $vector), "jmp {}", sym common)
            }
        )*
        const HANDLERS: &[(usize, unsafe extern "sysv64" fn())] = &[$(($vector, $name)),*];
    };
}
handlers! {
    divide = 0, "push 0";
    debug = 1, "push 0";
    nmi = 2, "push 0";
    breakpoint = 3, "push 0";
    overflow = 4, "push 0";
    bound = 5, "push 0";
    undefined = 6, "push 0";
    no_x87 = 7, "push 0";
    double = 8;
    bad_task = 10;
    no_segment = 11;
    stack_segment = 12;
    protection = 13;
    page_fault = 14;
    x87 = 16, "push 0";
    alignment = 17;
    machine_check = 18, "push 0";
    simd = 19, "push 0";
    virtualization = 20, "push 0";
    control_protection = 21;
    hypervisor_injection = 28, "push 0";
    vmm_communication = 29;
    security = 30;
}

/// Notes what came and goes on at [`RESUME`], with no single step.
///
/// # Safety
/// Only for the handlers, which leave the vector on top of the CPU's frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [rip + {vector}], rax",
        "mov rax, [rsp + 16]",
        "mov [rip + {error}], rax",
        "mov rax, [rsp + 24]",
        "mov [rip + {address}], rax",
        "mov rax, [rip + {resume}]",
        "mov [rsp + 24], rax",
        "and qword ptr [rsp + 40], ~0x100",
        "pop rax",
        "add rsp, 16",
        "iretq",
        vector = sym VECTOR,
        error = sym ERROR,
        address = sym ADDRESS,
        resume = sym RESUME,
    )
}

/// Sets the handler of a vector below 32: its address, and the number of the stack in the task-state segment that it gets (0: the one that is in use).
pub fn set_handler(vector: usize, handler: u64, stack: u64) {
    /// Interrupt gate, present, privilege level 0; code segment 08H.
    const GATE: u64 = 0x8e00 << 32 | 0x08 << 16;
    let low = handler & 0xffff | GATE | stack << 32 | (handler >> 16 & 0xffff) << 48;
    GATES[2 * vector].store(low, Ordering::Relaxed);
    GATES[2 * vector + 1].store(handler >> 32, Ordering::Relaxed);
}

/// Fills the interrupt table and makes the CPU use it.
pub fn catch() {
    /// What LIDT reads.
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    for (vector, handler) in HANDLERS {
        set_handler(*vector, *handler as usize as u64, 0);
    }
    let pointer = Pointer {
        limit: size_of_val(&GATES) as u16 - 1,
        base: GATES.as_ptr().addr() as u64,
    };
    // SAFETY: the table is complete for the exceptions there are, and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// The general registers that an attempted instruction may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// RAX.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
}

/// An exception that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Its vector.
    pub vector: u64,
    /// Its error code; 0 where there is none.
    pub error: u64,
    /// The instruction pointer that was pushed.
    pub address: u64,
}

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The exception that came.
    pub exception: Option<Exception>,
    /// Where the instruction is.
    pub at: u64,
    /// Where the next one is.
    pub after: u64,
    /// The registers when it was over.
    pub registers: Registers,
}

/// Forgets the exception of the last attempt.
#[doc(hidden)]
pub fn begin() {
    VECTOR.store(NONE, Ordering::Relaxed);
}

/// Takes what came.
#[doc(hidden)]
pub fn end(at: u64, after: u64, registers: Registers) -> Attempt {
    let vector = VECTOR.load(Ordering::Relaxed);
    let exception = (vector != NONE).then(|| Exception {
        vector,
        error: ERROR.load(Ordering::Relaxed),
        address: ADDRESS.load(Ordering::Relaxed),
    });
    Attempt {
        exception,
        at,
        after,
        registers,
    }
}

impl Attempt {
    /// The vector and error code of the exception that came.
    pub fn vector(&self) -> Option<(u64, u64)> {
        self.exception
            .map(|exception| (exception.vector, exception.error))
    }

    /// A fault with error code 0 came, at the instruction; else the guest says what it was and exits with 1.
    pub fn fault(&self, what: &str, vector: u64) {
        self.is(what, vector, 0, self.at);
    }

    /// A trap came: the address pushed is that of the next instruction.
    pub fn trap(&self, what: &str, vector: u64) {
        self.is(what, vector, 0, self.after);
    }

    fn is(&self, what: &str, vector: u64, error: u64, address: u64) {
        let wanted = Some(Exception {
            vector,
            error,
            address,
        });
        if self.exception != wanted {
            println!("{what}: {:x?} came, should be {wanted:x?}", self.exception);
            exit(1);
        }
    }

    /// No exception came. Gives the registers.
    pub fn passed(&self, what: &str) -> Registers {
        if let Some(exception) = self.exception {
            println!("{what}: {exception:x?} came, should be none");
            exit(1);
        }
        self.registers
    }
}

/// Runs instructions, the last of which may raise an exception: `attempt!("setup", ... => "last", rax, rcx, rdx)`. They may use RAX,
/// RCX and RDX (which start with the values given; RDX with 0 if none is) and the stack. Gives an [`Attempt`].
///
/// [`catch`] has been called.
#[macro_export]
macro_rules! attempt {
    ($($setup:literal,)* => $last:literal, $rax:expr, $rcx:expr) => {
        $crate::attempt!($($setup,)* => $last, $rax, $rcx, 0)
    };
    ($($setup:literal,)* => $last:literal, $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (mut rax, mut rcx, mut rdx): (u64, u64, u64) = ($rax, $rcx, $rdx);
        let (at, after): (u64, u64);
        $crate::exceptions::begin();
        // SAFETY: the last instruction raises an exception, after which all goes on behind it, or does what the caller wants; the
        // registers are given up. RBX, which CPUID changes and the compiler
        // keeps for itself, is saved.
        unsafe {
            ::core::arch::asm!(
                "lea {after}, [rip + 3f]",
                "mov [rip + {resume}], {after}",
                "lea {at}, [rip + 2f]",
                "push rbx",
                "mov [rip + {stack}], rsp",
                $($setup,)*
                "2:",
                $last,
                "3:",
                // What was pushed before an exception came need not be popped.
                "mov rsp, [rip + {stack}]",
                "pop rbx",
                resume = sym $crate::exceptions::RESUME,
                stack = sym $crate::exceptions::STACK,
                after = out(reg) after,
                at = out(reg) at,
                inout("rax") rax,
                inout("rcx") rcx,
                inout("rdx") rdx,
            );
        }
        $crate::exceptions::end(at, after, $crate::exceptions::Registers { rax, rcx, rdx })
    }};
}
