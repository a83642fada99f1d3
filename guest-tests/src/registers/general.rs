//! The general registers.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use guest_abi::number;

use super::Source;
use crate::hypercall::USE_VMCALL;

/// Names in the order of the registers' numbers, then RFLAGS.
pub const NAMES: [&str; COUNT] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "rflags",
];
/// Index of RAX.
pub const RAX: usize = 0;
/// Index of RDX.
pub const RDX: usize = 2;
/// Index of RSP.
pub const RSP: usize = 4;
/// Index of RDI.
pub const RDI: usize = 7;
/// Index of RFLAGS.
pub const RFLAGS: usize = 16;
const COUNT: usize = 17;

/// A set of registers that assembly reads or writes.
#[repr(transparent)]
pub(crate) struct Slot(UnsafeCell<[u64; COUNT]>);

// SAFETY: a guest has one CPU and no interrupts; a slot is used only by the assembly of this crate and by the functions here, never by both at
// once and never through a reference.
unsafe impl Sync for Slot {}

impl Slot {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; COUNT]))
    }

    fn get(&self) -> [u64; COUNT] {
        // SAFETY: the pointer is valid, and nothing else uses the slot now (see Sync). Volatile, because assembly wrote it.
        unsafe { self.0.get().read_volatile() }
    }

    fn set(&self, values: [u64; COUNT]) {
        // SAFETY: as in `get`.
        unsafe { self.0.get().write_volatile(values) }
    }
}

/// The registers at the first instruction; written by the entry code.
pub(crate) static ENTRY: Slot = Slot::new();
static BEFORE: Slot = Slot::new();
static AFTER: Slot = Slot::new();
static STACK: Slot = Slot::new();

/// The registers at the guest's first instruction, in the order of [`NAMES`].
pub fn at_entry() -> [u64; COUNT] {
    ENTRY.get()
}

// `lacuna_exchange` loads all registers but RSP from BEFORE, makes the hypercall in RAX, and stores all to AFTER.
// `lacuna_wait` loads them, then runs until the TSC has reached the first word of AFTER, which needs RAX and RDX, and stores all.
// Every memory operand is relative to RIP, so that no register is needed for addresses.
global_asm!(
    ".macro lacuna_load",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + {stack}], rsp",
    "mov rax, [rip + {before}]",
    "mov rcx, [rip + {before} + 8]",
    "mov rdx, [rip + {before} + 16]",
    "mov rbx, [rip + {before} + 24]",
    "mov rbp, [rip + {before} + 40]",
    "mov rsi, [rip + {before} + 48]",
    "mov rdi, [rip + {before} + 56]",
    "mov r8, [rip + {before} + 64]",
    "mov r9, [rip + {before} + 72]",
    "mov r10, [rip + {before} + 80]",
    "mov r11, [rip + {before} + 88]",
    "mov r12, [rip + {before} + 96]",
    "mov r13, [rip + {before} + 104]",
    "mov r14, [rip + {before} + 112]",
    "mov r15, [rip + {before} + 120]",
    ".endm",
    ".macro lacuna_store",
    "mov [rip + {after}], rax",
    "mov [rip + {after} + 8], rcx",
    "mov [rip + {after} + 16], rdx",
    "mov [rip + {after} + 24], rbx",
    "mov [rip + {after} + 32], rsp",
    "mov [rip + {after} + 40], rbp",
    "mov [rip + {after} + 48], rsi",
    "mov [rip + {after} + 56], rdi",
    "mov [rip + {after} + 64], r8",
    "mov [rip + {after} + 72], r9",
    "mov [rip + {after} + 80], r10",
    "mov [rip + {after} + 88], r11",
    "mov [rip + {after} + 96], r12",
    "mov [rip + {after} + 104], r13",
    "mov [rip + {after} + 112], r14",
    "mov [rip + {after} + 120], r15",
    "mov rsp, [rip + {stack}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".endm",
    ".section .text.lacuna_exchange, \"ax\", @progbits",
    "lacuna_exchange:",
    "lacuna_load",
    "cmp byte ptr [rip + {use_vmcall}], 0",
    "jne 2f",
    "vmmcall",
    "jmp 3f",
    "2: vmcall",
    "3:",
    "lacuna_store",
    "lacuna_wait:",
    "lacuna_load",
    "2: rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "cmp rax, [rip + {after}]",
    "jb 2b",
    "lacuna_store",
    ".text",
    stack = sym STACK,
    before = sym BEFORE,
    after = sym AFTER,
    use_vmcall = sym USE_VMCALL,
);

unsafe extern "C" {
    fn lacuna_exchange();
    fn lacuna_wait();
}

/// A register that did not come back as it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    /// Index into [`NAMES`].
    pub index: usize,
    /// What it should hold.
    pub expected: u64,
    /// What it holds.
    pub found: u64,
}

/// Loads every general register with words of `source`, yields, and says which one came back changed. RAX must come back as 0.
pub fn yield_with(source: &Source<'_>) -> Option<Changed> {
    let mut before = words(source);
    before[RAX] = number::YIELD;
    BEFORE.set(before);
    // SAFETY: saves and restores the registers that a C function must keep; the hypercall changes RAX alone.
    unsafe { lacuna_exchange() };
    before[RAX] = 0;
    first_change(&before, &[RSP, RFLAGS])
}

/// Loads every general register with words of `source` and runs until the TSC has reached `until`: long enough to be interrupted. Says which
/// register changed, other than RAX and RDX, which hold the TSC.
pub fn wait_with(source: &Source<'_>, until: u64) -> Option<Changed> {
    let before = words(source);
    BEFORE.set(before);
    let mut deadline = [0; COUNT];
    deadline[0] = until;
    AFTER.set(deadline);
    // SAFETY: saves and restores the registers that a C function must keep.
    unsafe { lacuna_wait() };
    first_change(&before, &[RAX, RDX, RSP, RFLAGS])
}

/// Loads every general register with words of `source`, but for the two that say what to do, and exits.
pub fn exit_with(source: &Source<'_>, code: u64) -> ! {
    let mut before = words(source);
    before[RAX] = number::EXIT;
    before[RDI] = code;
    BEFORE.set(before);
    // SAFETY: as in `yield_with`; it does not come back.
    unsafe { lacuna_exchange() };
    crate::hypercall::exit(code)
}

fn words(source: &Source<'_>) -> [u64; COUNT] {
    core::array::from_fn(|index| source.word(index as u64))
}

fn first_change(before: &[u64; COUNT], except: &[usize]) -> Option<Changed> {
    let after = AFTER.get();
    (0..COUNT)
        .find(|index| !except.contains(index) && before[*index] != after[*index])
        .map(|index| Changed {
            index,
            expected: before[index],
            found: after[index],
        })
}
