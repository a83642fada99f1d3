//! Entry from every exception and interrupt, and what each vector leads to.
//!
//! A stub per vector makes the stack look the same (it pushes a zero where the CPU pushes no error code), `interrupt_common` saves
//! all general registers as a [`Frame`] and calls `interrupt_dispatch`. When that returns, the interrupted code goes on.

use memory::address::Hva;
use x86::irq::{GENERAL_PROTECTION_FAULT_VECTOR, NONMASKABLE_INTERRUPT_VECTOR};

use super::descriptor::CpuTables;
use super::{fault_report, msr};
use crate::virt::vmx;
use crate::{console, presence};

/// Vectors that belong to the CPU itself (SDM vol. 3A, 6.2).
pub const EXCEPTIONS: u8 = 32;
/// Where the legacy interrupt controllers are moved to; all their lines are masked, but a spurious one may still come.
pub const PIC_VECTOR: u8 = 0x20;
/// The local APIC's timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// A shootdown's interrupt.
pub const SHOOTDOWN_VECTOR: u8 = 0x41;
/// Wakes a CPU that dozes, and does nothing else.
pub const WAKE_VECTOR: u8 = 0x42;
/// The local APIC's spurious vector; its low four bits are ones on every APIC (SDM vol. 3A, 10.9).
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Bytes from one stub to the next.
const STUB_BYTES: u64 = 16;

/// The interrupted state, as the stubs leave it on the stack and take it up again.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// R15.
    pub r15: u64,
    /// R14.
    pub r14: u64,
    /// R13.
    pub r13: u64,
    /// R12.
    pub r12: u64,
    /// R11.
    pub r11: u64,
    /// R10.
    pub r10: u64,
    /// R9.
    pub r9: u64,
    /// R8.
    pub r8: u64,
    /// RBP.
    pub rbp: u64,
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// RDX.
    pub rdx: u64,
    /// RCX.
    pub rcx: u64,
    /// RBX.
    pub rbx: u64,
    /// RAX.
    pub rax: u64,
    /// Which vector.
    pub vector: u64,
    /// The CPU's error code, or zero.
    pub error_code: u64,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

core::arch::global_asm!(
    r#"
    .pushsection .text.interrupt_stubs, "ax", @progbits
    .balign 16
    .globl interrupt_stubs
    interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign {stub_bytes}
    /* The CPU pushes an error code for these (SDM vol. 3A, 6.3.1, table 6-1; APM vol. 2, 8.2). */
    .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21 && vector != 29 && vector != 30
    pushq $0
    .endif
    .byte 0x68                 /* pushq with a 32-bit operand: the stubs stay equally long */
    .long vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

    .balign 16
    interrupt_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    /* The CPU aligned the stack to 16 before its five words; with ours that makes 22, still aligned. */
    callq interrupt_dispatch
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
    .popsection
    "#,
    stub_bytes = const STUB_BYTES,
    options(att_syntax)
);

// SAFETY: defined above; only the address is used.
unsafe extern "C" {
    static interrupt_stubs: core::ffi::c_void;
}

/// The address of a vector's stub.
pub fn stub(vector: u8) -> Hva {
    Hva::new((&raw const interrupt_stubs).addr() as u64 + u64::from(vector) * STUB_BYTES)
}

// SAFETY: the name is this project's own and defined once.
#[unsafe(no_mangle)]
extern "C" fn interrupt_dispatch(frame: &mut Frame) {
    // An NMI or a machine check may come while this CPU still owes a flush: it counts as having acknowledged while it is in a guest or
    // asleep, and may hold translations of frames that have become private. So does whatever else wakes it. So flush before
    // touching anything beyond the image, the stack and the tables (design rule 1).
    presence::visit(|| handle(frame));
}

fn handle(frame: &mut Frame) {
    // Interrupt gates push at most 255.
    let vector = frame.vector as u8;
    match vector {
        NONMASKABLE_INTERRUPT_VECTOR => nmi(frame),
        #[cfg(feature = "test-hooks")]
        0..EXCEPTIONS if crate::hooks::host_access::caught(frame) => {}
        GENERAL_PROTECTION_FAULT_VECTOR => match msr::fixup(Hva::new(frame.rip)) {
            Some(rip) => frame.rip = rip.get(),
            None => fault_report::fatal(frame),
        },
        0..EXCEPTIONS => fault_report::fatal(frame),
        TIMER_VECTOR => {
            if let Some(cpu) = CpuTables::current() {
                cpu.count_tick();
            }
            end_of_interrupt();
        }
        SHOOTDOWN_VECTOR => {
            presence::answer();
            end_of_interrupt();
        }
        WAKE_VECTOR => end_of_interrupt(),
        // Neither kind of spurious interrupt wants an end-of-interrupt (SDM vol. 3A, 10.9; the 8259's are not in service).
        SPURIOUS_VECTOR | PIC_VECTOR..0x30 => {}
        // Nothing was set up to send these.
        _ => fault_report::fatal(frame),
    }
}

fn end_of_interrupt() {
    if let Some(apic) = CpuTables::current().and_then(CpuTables::apic) {
        apic.end_of_interrupt();
    }
}

/// A kick has done its work by coming; what is wanted stands in the CPU's request word. Any other NMI is unexpected: it is said and done
/// with.
fn nmi(frame: &mut Frame) {
    let Some(cpu) = CpuTables::current() else { return };
    let in_switch = vmx::in_world_switch(Hva::new(frame.rip));
    if let Some(rip) = vmx::abandon_entry(Hva::new(frame.rip)) {
        frame.rip = rip.get();
    }
    if cpu.take_kick() {
        #[cfg(feature = "test-hooks")]
        crate::hooks::stress::signals::kick_taken();
        return;
    }
    let cpu = cpu.number();
    if in_switch {
        console::print_urgent(format_args!(
            "unexpected NMI on CPU {cpu}, in the switch to or from a guest: its registers are not shown; going on\n"
        ));
    } else {
        console::print_urgent(format_args!(
            "unexpected NMI on CPU {cpu}; going on\n{}",
            fault_report::Registers::now(frame)
        ));
    }
}
