//! Every SVM instruction of the project, and the switch between host and guest (AMD APM vol. 2, 15.5; vol. 3, chapter 4).

use crate::cpu::registers::{mask_interrupts, rdmsr, read_efer, wrmsr};
use crate::virt::GuestModeHooks;
use crate::virt::guest_registers::GuestRegisters;
use core::arch::naked_asm;
use memory::address::Hpa;
use x86::msr::IA32_EFER;

/// EFER.SVME: the SVM instructions are on (AMD APM vol. 2, 3.1.7).
pub const EFER_SVME: u64 = 1 << 12;
/// VM_CR (AMD APM vol. 2, 15.30.1). The crate `x86` has Intel's registers only.
const VM_CR: u32 = 0xc001_0114;
/// VM_CR.LOCK: SVMDIS can't be changed.
const VM_CR_LOCK: u64 = 1 << 3;
/// VM_CR.SVMDIS: EFER.SVME can't be set.
const VM_CR_SVMDIS: u64 = 1 << 4;
/// VM_HSAVE_PA: where VMRUN keeps the host's state (AMD APM vol. 2, 15.30.4).
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Whether the firmware has disabled SVM, and if so, whether it has locked that.
///
/// # Safety
/// The CPU must have SVM.
pub unsafe fn disabled_by_firmware() -> Option<bool> {
    // SAFETY: every CPU with SVM has VM_CR.
    let vm_cr = unsafe { rdmsr(VM_CR) };
    (vm_cr & VM_CR_SVMDIS != 0).then_some(vm_cr & VM_CR_LOCK != 0)
}

/// Switches SVM on for this CPU, with a frame for the host's state.
///
/// # Safety
/// The CPU must have SVM, not disabled; the frame must be the CPU's alone from now on, for as long as it runs guests.
pub unsafe fn enable(host_save_area: Hpa) {
    // SAFETY: the CPU has these registers, by contract; SVME changes nothing until an SVM instruction runs.
    unsafe {
        wrmsr(IA32_EFER, read_efer() | EFER_SVME);
        wrmsr(VM_HSAVE_PA, host_save_area.get());
    }
}

/// Runs the guest of the VMCB at `guest` until its next exit. Interrupts are masked before and after; a physical interrupt that comes up
/// ends guest mode and stays pending.
///
/// False: it was not entered, because the request word was not 0.
///
/// Takes and returns the registers by value and is never inlined: nothing that the caller has in memory is reachable from here, so
/// nothing of it can be touched before `after_guest_mode`.
///
/// # Safety
/// `guest` must be a VMCB whose second stage and permission maps are sound, and not in use elsewhere; `host` a frame of this CPU for
/// VMSAVE. SVM must be enabled on this CPU. `hooks` keeps the promise of [`GuestModeHooks`] about its data.
#[inline(never)]
pub unsafe fn run_guest(
    guest: Hpa,
    host: Hpa,
    mut registers: GuestRegisters,
    hooks: &dyn GuestModeHooks,
) -> (GuestRegisters, bool) {
    mask_interrupts();
    hooks.before_guest_mode();
    let request = hooks.request_word();
    // SAFETY: `registers` is on this stack, and the caller vouches for the rest.
    let entered = unsafe { world_switch(guest.get(), &raw mut registers, host.get(), request) };
    hooks.after_guest_mode();
    (registers, entered != 0)
}

/// Host to guest and back; 0 when the request word was not 0 and the guest was not entered. Between CLGI and STGI nothing interrupts the host, not even an NMI. STI is for VMRUN: with V_INTR_MASKING the
/// host's flag decides whether a physical interrupt ends guest mode (AMD APM vol. 2, 15.21.1). The request word is looked at after CLGI: an
/// NMI that comes later waits for VMRUN, and ends guest mode at once.
///
/// VMLOAD and VMSAVE swap what VMRUN does not: FS, GS, TR, LDTR and the system-call registers (AMD APM vol. 2, 15.5.2). Their operands are
/// physical addresses, so the swap goes past the host's translations.
///
/// # Safety
/// As [`run_guest`]; `registers` must be on the stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn world_switch(
    guest: u64,
    registers: *mut GuestRegisters,
    host: u64,
    request: *const u32,
) -> u64 {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "clgi",
        "cmp dword ptr [rcx], 0",
        "jne 2f",
        "mov rax, rdx",
        "vmsave rax",
        "push rax",
        "push rsi",
        "sti",
        "mov rax, rdi",
        "vmload rax",
        "mov rcx, [rsi + 1*8]",
        "mov rdx, [rsi + 2*8]",
        "mov rbx, [rsi + 3*8]",
        "mov rbp, [rsi + 5*8]",
        "mov rdi, [rsi + 7*8]",
        "mov r8, [rsi + 8*8]",
        "mov r9, [rsi + 9*8]",
        "mov r10, [rsi + 10*8]",
        "mov r11, [rsi + 11*8]",
        "mov r12, [rsi + 12*8]",
        "mov r13, [rsi + 13*8]",
        "mov r14, [rsi + 14*8]",
        "mov r15, [rsi + 15*8]",
        "mov rsi, [rsi + 6*8]",
        "vmrun rax",
        // RAX and RSP are the host's again; all others are still the guest's.
        "push rsi",
        "mov rsi, [rsp + 8]",
        "mov [rsi + 1*8], rcx",
        "mov [rsi + 2*8], rdx",
        "mov [rsi + 3*8], rbx",
        "mov [rsi + 5*8], rbp",
        "mov [rsi + 7*8], rdi",
        "mov [rsi + 8*8], r8",
        "mov [rsi + 9*8], r9",
        "mov [rsi + 10*8], r10",
        "mov [rsi + 11*8], r11",
        "mov [rsi + 12*8], r12",
        "mov [rsi + 13*8], r13",
        "mov [rsi + 14*8], r14",
        "mov [rsi + 15*8], r15",
        "pop rbx",
        "mov [rsi + 6*8], rbx",
        "vmsave rax",
        "pop rsi",
        "pop rax",
        "vmload rax",
        // No value of the guest stays in a register: the host could use it by mistake, and an NMI that waits for STGI would report it.
        "xor ecx, ecx",
        "xor edx, edx",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "mov eax, 1",
        "jmp 3f",
        "2:",
        "xor eax, eax",
        "3:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "cli",
        "stgi",
        "ret",
    )
}
