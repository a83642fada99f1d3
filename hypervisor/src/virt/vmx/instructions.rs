//! Every VMX instruction of the project, and the switch between host and guest (Intel SDM vol. 3C, chapter 31, and 27 and 28 for entry and
//! exit).

use crate::cpu::registers::mask_interrupts;
use crate::virt::GuestModeHooks;
use crate::virt::guest_registers::GuestRegisters;
use core::arch::{asm, naked_asm};
use memory::address::{Hpa, Hva};
use x86::vmx::vmcs::host;

/// Switches VMX operation on. False when the CPU refuses.
///
/// # Safety
/// CPUID must show VMX; CR0, CR4 and IA32_FEATURE_CONTROL must be as VMXON wants them; the region must start with the CPU's revision
/// identifier and be the CPU's alone for as long as it is in VMX operation.
pub unsafe fn vmxon(region: Hpa) -> bool {
    let pointer = region.get();
    let failed: u8;
    // SAFETY: the caller vouches for the region; the operand is a word of this stack.
    unsafe {
        asm!("vmxon [{}]", "setna {}", in(reg) &raw const pointer, out(reg_byte) failed, options(nostack))
    };
    failed == 0
}

/// Writes a VMCS back to its region, makes it inactive, and its next entry a VMLAUNCH. False when the CPU refuses.
///
/// # Safety
/// The CPU must be in VMX operation; the region must be a VMCS of ours, in use on no other CPU.
pub unsafe fn vmclear(region: Hpa) -> bool {
    let pointer = region.get();
    let failed: u8;
    // SAFETY: the caller vouches for the region; the operand is a word of this stack.
    unsafe {
        asm!("vmclear [{}]", "setna {}", in(reg) &raw const pointer, out(reg_byte) failed, options(nostack))
    };
    failed == 0
}

/// Makes a VMCS the current one. False when the CPU refuses.
///
/// # Safety
/// As [`vmclear`]; the region must start with the CPU's revision identifier.
pub unsafe fn vmptrld(region: Hpa) -> bool {
    let pointer = region.get();
    let failed: u8;
    // SAFETY: the caller vouches for the region; the operand is a word of this stack.
    unsafe {
        asm!("vmptrld [{}]", "setna {}", in(reg) &raw const pointer, out(reg_byte) failed, options(nostack))
    };
    failed == 0
}

/// Reads a field of the current VMCS; `None` when there is no such field.
///
/// # Safety
/// A VMCS must be current on this CPU.
pub unsafe fn vmread(field: u32) -> Option<u64> {
    let (value, failed): (u64, u8);
    // SAFETY: reading a field has no effect.
    unsafe {
        asm!("vmread {}, {}", "setna {}", out(reg) value, in(reg) u64::from(field), out(reg_byte) failed, options(nostack));
    }
    (failed == 0).then_some(value)
}

/// Writes a field of the current VMCS; false when there is no such field, or it is read-only.
///
/// # Safety
/// A VMCS must be current on this CPU, and must be one with which entering the guest keeps the host whole.
pub unsafe fn vmwrite(field: u32, value: u64) -> bool {
    let failed: u8;
    // SAFETY: the caller vouches for the value.
    unsafe {
        asm!("vmwrite {}, {}", "setna {}", in(reg) u64::from(field), in(reg) value, out(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// What INVEPT and INVVPID drop: the translations of one context, or of all (SDM vol. 3C, 31.3; the kinds have the same numbers).
const SINGLE_CONTEXT: u64 = 1;
const ALL_CONTEXTS: u64 = 2;

/// Drops this CPU's translations that come from the tables of this EPT pointer, or where `None`, from any.
///
/// # Panics
/// When the CPU does not have this kind.
///
/// # Safety
/// The CPU must be in VMX operation and have INVEPT.
pub unsafe fn invept(pointer: Option<u64>) {
    let descriptor = [pointer.unwrap_or(0), 0];
    let failed: u8;
    // SAFETY: losing a translation never makes an access wrong; the operand is two words of this stack.
    unsafe {
        asm!("invept {}, [{}]", "setna {}", in(reg) kind(pointer), in(reg) &raw const descriptor, out(reg_byte) failed, options(nostack));
    }
    assert!(failed == 0, "broken invariant: INVEPT refused {descriptor:#x?}");
}

/// Drops this CPU's translations with this tag, or where `None`, with any tag but the host's.
///
/// # Panics
/// When the CPU does not have this kind, or the tag is 0, which is the host's.
///
/// # Safety
/// The CPU must be in VMX operation and have INVVPID.
pub unsafe fn invvpid(tag: Option<u16>) {
    let descriptor = [u64::from(tag.unwrap_or(0)), 0];
    let failed: u8;
    // SAFETY: as for INVEPT.
    unsafe {
        asm!("invvpid {}, [{}]", "setna {}", in(reg) kind(tag), in(reg) &raw const descriptor, out(reg_byte) failed, options(nostack));
    }
    assert!(failed == 0, "broken invariant: INVVPID refused {descriptor:#x?}");
}

/// One context, or all of them.
const fn kind<T: Copy>(context: Option<T>) -> u64 {
    match context {
        Some(_) => SINGLE_CONTEXT,
        None => ALL_CONTEXTS,
    }
}

/// How a switch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switched {
    /// By a VM exit.
    Exit,
    /// The guest was not entered; VM_INSTRUCTION_ERROR says why.
    Refused,
    /// The guest was not entered, because there was a request or an NMI.
    Abandoned,
}

/// Runs the guest of the current VMCS until its next exit. Interrupts are masked before and after; a physical interrupt that comes up
/// ends guest mode and stays pending.
///
/// Takes and returns the registers by value and is never inlined: nothing that the caller has in memory is reachable from here, so
/// nothing of it can be touched before `after_guest_mode`.
///
/// # Safety
/// The current VMCS must hold this CPU's host state, a second stage and an MSR bitmap that are sound, and controls under which the
/// guest can change nothing of the host's. `launched`: it was entered since its last VMCLEAR. `hooks` keeps the promise of
/// [`GuestModeHooks`] about its data.
#[inline(never)]
pub unsafe fn run_guest(
    mut registers: GuestRegisters,
    launched: bool,
    hooks: &dyn GuestModeHooks,
) -> (GuestRegisters, Switched) {
    mask_interrupts();
    hooks.before_guest_mode();
    // SAFETY: `registers` is on this stack, and the caller vouches for the rest.
    let ended = unsafe { world_switch(&raw mut registers, u64::from(launched), hooks.request_word()) };
    hooks.after_guest_mode();
    let switched = match ended {
        EXIT => Switched::Exit,
        REFUSED => Switched::Refused,
        _ => Switched::Abandoned,
    };
    (registers, switched)
}

/// What the switch returns.
const EXIT: u64 = 0;
const REFUSED: u64 = 1;
const ABANDONED: u64 = 2;

/// Host to guest and back: [`EXIT`], [`REFUSED`], or [`ABANDONED`] when the request word was not 0.
///
/// An exit leaves RFLAGS with interrupts masked (SDM vol. 3C, 28.5.3). Where the exit leads is written anew for each entry: it is this
/// stack. An NMI between here and the entry, or after the exit, runs on a stack of its own, flushes first, and does not report registers
/// ([`in_world_switch`]). One that comes between the look at the request word and the entry, or at the entry, goes on where the entry
/// is abandoned ([`abandon_entry`]): no request is missed.
///
/// # Safety
/// As [`run_guest`]; `registers` must be on the stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn world_switch(
    registers: *mut GuestRegisters,
    launched: u64,
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
        "push rdi",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "lea rcx, [rip + 3f]",
        "mov eax, {host_rip}",
        "vmwrite rax, rcx",
        ".globl vmx_entry_start",
        "vmx_entry_start:",
        "cmp dword ptr [rdx], 0",
        "jne vmx_entry_abandoned",
        // No instruction from here to the entry changes the flags.
        "test rsi, rsi",
        "mov rax, [rdi + 0*8]",
        "mov rcx, [rdi + 1*8]",
        "mov rdx, [rdi + 2*8]",
        "mov rbx, [rdi + 3*8]",
        "mov rbp, [rdi + 5*8]",
        "mov rsi, [rdi + 6*8]",
        "mov r8, [rdi + 8*8]",
        "mov r9, [rdi + 9*8]",
        "mov r10, [rdi + 10*8]",
        "mov r11, [rdi + 11*8]",
        "mov r12, [rdi + 12*8]",
        "mov r13, [rdi + 13*8]",
        "mov r14, [rdi + 14*8]",
        "mov r15, [rdi + 15*8]",
        "mov rdi, [rdi + 7*8]",
        "jnz 2f",
        "vmlaunch",
        "jmp 4f",
        "2:",
        "vmresume",
        ".globl vmx_entry_end",
        "vmx_entry_end:",
        // Refused. The guest's registers did not change.
        "4:",
        "pop rdi",
        "mov eax, {refused}",
        "jmp 5f",
        // The stack is as at the entry, whatever the other registers are.
        ".globl vmx_entry_abandoned",
        "vmx_entry_abandoned:",
        "pop rdi",
        "mov eax, {abandoned}",
        "jmp 5f",
        // The exit. RSP is the host's again; all other general registers are still the guest's.
        "3:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + 0*8], rax",
        "mov [rdi + 1*8], rcx",
        "mov [rdi + 2*8], rdx",
        "mov [rdi + 3*8], rbx",
        "mov [rdi + 5*8], rbp",
        "mov [rdi + 6*8], rsi",
        "mov [rdi + 8*8], r8",
        "mov [rdi + 9*8], r9",
        "mov [rdi + 10*8], r10",
        "mov [rdi + 11*8], r11",
        "mov [rdi + 12*8], r12",
        "mov [rdi + 13*8], r13",
        "mov [rdi + 14*8], r14",
        "mov [rdi + 15*8], r15",
        "pop rax",
        "mov [rdi + 7*8], rax",
        "pop rdi",
        "xor eax, eax",
        // No value of the guest stays in a register that the host could use by mistake.
        "5:",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        ".globl vmx_world_switch_end",
        "vmx_world_switch_end:",
        refused = const REFUSED,
        abandoned = const ABANDONED,
        host_rsp = const host::RSP,
        host_rip = const host::RIP,
    )
}

// SAFETY: `world_switch` defines the symbol; only its address is used.
unsafe extern "C" {
    static vmx_world_switch_end: core::ffi::c_void;
    static vmx_entry_start: core::ffi::c_void;
    static vmx_entry_end: core::ffi::c_void;
    static vmx_entry_abandoned: core::ffi::c_void;
}

/// Where code at `rip` must go on after an NMI, if it is on its way into a guest: where the switch gives up. The jump behind VMLAUNCH lies
/// in the range, too; there the entry was refused, and abandoning it comes to the same but for its reason.
pub fn abandon_entry(rip: Hva) -> Option<Hva> {
    let address = |symbol: *const core::ffi::c_void| symbol.addr() as u64;
    let (start, end) = (
        address(&raw const vmx_entry_start),
        address(&raw const vmx_entry_end),
    );
    let abandoned = Hva::new(address(&raw const vmx_entry_abandoned));
    (start..end).contains(&rip.get()).then_some(abandoned)
}

/// Whether code at `rip` may have a guest's general registers on the CPU: it lies in the world switch. VMX holds no NMI back there; under
/// SVM the global interrupt flag does.
pub fn in_world_switch(rip: Hva) -> bool {
    let start = (world_switch as *const ()).addr() as u64;
    let end = (&raw const vmx_world_switch_end).addr() as u64;
    (start..end).contains(&rip.get())
}
