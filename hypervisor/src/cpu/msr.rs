//! Model-specific registers that may not be there: an access that faults says so, instead of ending the run.

use core::arch::global_asm;

use memory::address::Hva;

// Both return 0, or 1 when the access has faulted: then `fixup` lets the code go on at `try_msr_faulted`.
global_asm!(
    r#"
    .pushsection .text.try_msr, "ax", @progbits
    /* edi: register, rsi: where its value goes */
    try_rdmsr:
    movl %edi, %ecx
    try_rdmsr_access:
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, (%rsi)
    xorl %eax, %eax
    retq
    /* edi: register, rsi: value */
    try_wrmsr:
    movl %edi, %ecx
    movq %rsi, %rax
    movq %rsi, %rdx
    shrq $32, %rdx
    try_wrmsr_access:
    wrmsr
    xorl %eax, %eax
    retq
    try_msr_faulted:
    movl $1, %eax
    retq
    .popsection
    "#,
    options(att_syntax)
);

// SAFETY: defined above, with these arguments by the C ABI.
unsafe extern "C" {
    fn try_rdmsr(register: u32, value: *mut u64) -> u32;
    fn try_wrmsr(register: u32, value: u64) -> u32;
    static try_rdmsr_access: core::ffi::c_void;
    static try_wrmsr_access: core::ffi::c_void;
    static try_msr_faulted: core::ffi::c_void;
}

/// Reads a register; `None` when that faults.
pub fn read(register: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the routine writes one word, and a fault in it is caught. Reading a register that is there has no effect.
    let faulted = unsafe { try_rdmsr(register, &raw mut value) } != 0;
    (!faulted).then_some(value)
}

/// Writes a register; false when that faults.
///
/// # Safety
/// If the CPU has the register, it must take the value, or fault, without harm: nothing that runs may rely on the old one.
pub unsafe fn write(register: u32, value: u64) -> bool {
    // SAFETY: a fault in the routine is caught; the caller vouches for the rest.
    unsafe { try_wrmsr(register, value) == 0 }
}

/// Where code goes on whose access to a register has faulted at `rip`, if it is one of the two above.
pub fn fixup(rip: Hva) -> Option<Hva> {
    let address = |symbol: *const core::ffi::c_void| symbol.addr() as u64;
    let accesses = [
        address(&raw const try_rdmsr_access),
        address(&raw const try_wrmsr_access),
    ];
    accesses
        .contains(&rip.get())
        .then(|| Hva::new(address(&raw const try_msr_faulted)))
}
