//! What each exit means for the guest.

use super::control_registers::{access, guest_control};
use super::exit_reason::{EventInfo, ExitReason};
use super::qualification::{memory_fault, misconfiguration, port_access};
use super::vcpu::LoadedVmx;
use crate::virt::debug_registers;
use crate::virt::guest_registers::{RAX, RBX, RCX, RDX};
use crate::virt::{Access, Cause, Exit, GuestAccess, Unexpected};
use raw_cpuid::CpuIdReaderNative;
use vcpu_policy::cpuid::{CR4_OSXSAVE, GuestView};
use vcpu_policy::debug_registers::{DR6_ACCESS_DETECTED, DR6_SINGLE_STEP, DR7_GENERAL_DETECT};
use vcpu_policy::{Fault, cpuid, port};
use x86::bits64::rflags::RFlags;
use x86::irq::{
    ALIGNMENT_CHECK_VECTOR, DEBUG_VECTOR, GENERAL_PROTECTION_FAULT_VECTOR, INVALID_OPCODE_VECTOR,
    MACHINE_CHECK_VECTOR,
};
use x86::vmx::vmcs::{control, guest, ro};

/// B0 to B3, in DR6 and in the qualification of a #DB (Intel SDM vol. 3C, table 28-1).
const BREAKPOINTS: u64 = 0xf;
/// Interruptibility state: the shadow of STI and of a load of SS (table 25-3).
const SHADOWS: u64 = 0b11;
/// In a segment's access rights: the privilege level of its descriptor, in SS the current one.
const PRIVILEGE: u64 = 0b11 << 5;
/// In the access rights of CS: 64-bit code.
const LONG: u64 = 1 << 13;

/// Starts an event again whose delivery the exit interrupted, unless the guest ends or an exception takes its place.
pub(super) fn deliver_again(loaded: &mut LoadedVmx<'_>) {
    let event = loaded.event(ro::IDT_VECTORING_INFO).again();
    if event.has_error_code() {
        let code = loaded.vmcs.read(ro::IDT_VECTORING_ERR_CODE);
        loaded.vmcs.set_guest(control::VMENTRY_EXCEPTION_ERR_CODE, code);
    }
    // The CPU has taken the valid bit away on an entry (SDM vol. 3C, 28.2.4): without an event nothing needs to be written.
    if event.is_valid() {
        set_event(loaded, event);
    }
}

/// Deals with an exit that is not the host's. `None`: the guest goes on at once.
pub(super) fn handle(
    loaded: &mut LoadedVmx<'_>,
    reason: ExitReason,
    memory: &mut dyn GuestAccess,
) -> Result<Option<Exit>, Cause> {
    let qualification = loaded.vmcs.read(ro::EXIT_QUALIFICATION);
    match reason {
        // As without virtualization: the instruction is not for programs (the ABI gives it to the guest's kernel).
        ExitReason::Vmcall if !is_privileged(loaded) => raise(loaded, Fault::InvalidOpcode)?,
        ExitReason::Vmcall => {
            let call = loaded.vcpu.registers.hypercall();
            advance(loaded);
            return Ok(Some(call));
        }
        ExitReason::ExceptionOrNmi => exception(loaded, qualification)?,
        ExitReason::Cpuid => answer_cpuid(loaded),
        ExitReason::Rdmsr => access_msr(loaded, false)?,
        ExitReason::Wrmsr => access_msr(loaded, true)?,
        ExitReason::ControlRegister => access(loaded, qualification, memory)?,
        ExitReason::Xsetbv => set_xcr0(loaded)?,
        // Nothing to do: the caches are the host's, and the guest's memory is write-back.
        ExitReason::InvalidateCaches => advance(loaded),
        ExitReason::HiddenInstruction => raise(loaded, Fault::InvalidOpcode)?,
        // There is no counter that a guest may read.
        ExitReason::Rdpmc => raise(loaded, Fault::GeneralProtection)?,
        ExitReason::EptViolation => {
            let gpa = loaded.vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL);
            let fault = memory_fault(qualification, gpa);
            // Where large leaves can't be executed, a fetch from one is no fault of the guest's.
            let fetch = fault.access == Access::Execute && fault.present;
            if !(fetch && memory.allow_fetch(fault.gpa)) {
                return Err(Cause::MemoryFault(fault));
            }
        }
        ExitReason::EptMisconfiguration => {
            let gpa = loaded.vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL);
            return Err(Cause::MemoryFault(misconfiguration(gpa)));
        }
        ExitReason::TripleFault => return Err(Cause::Shutdown),
        ExitReason::Hlt => return Err(Cause::Halt),
        ExitReason::Port => access_port(loaded, qualification)?,
        ExitReason::TaskSwitch => return Err(Unexpected::TaskSwitch.into()),
        // The caller has dealt with these.
        ExitReason::Interrupt | ExitReason::PreemptionTimer | ExitReason::Init => {}
        ExitReason::EntryFailed(reason) => {
            return Err(Unexpected::EntryFailed {
                reason,
                qualification,
            }
            .into());
        }
        ExitReason::Other(code) => return Err(Unexpected::ExitCode(code.into()).into()),
    }
    Ok(None)
}

fn set_event(loaded: &mut LoadedVmx<'_>, event: EventInfo) {
    loaded
        .vmcs
        .set_guest(control::VMENTRY_INTERRUPTION_INFO_FIELD, event.get().into());
}

/// Gives the guest an exception on its next entry. In the delivery of another event it would have to be merged with that by the rules
/// for double faults; no honest guest gets here, so it ends instead.
fn inject(loaded: &mut LoadedVmx<'_>, event: EventInfo) -> Result<(), Cause> {
    let interrupted = loaded.event(ro::IDT_VECTORING_INFO);
    if interrupted.is_valid() {
        let (delivering, vector) = (interrupted.vector(), event.vector());
        return Err(Unexpected::FaultInDelivery { delivering, vector }.into());
    }
    if event.has_error_code() {
        loaded.vmcs.set_guest(control::VMENTRY_EXCEPTION_ERR_CODE, 0);
    }
    set_event(loaded, event);
    Ok(())
}

/// Gives the guest a fault in place of the instruction at RIP.
pub(super) fn raise(loaded: &mut LoadedVmx<'_>, fault: Fault) -> Result<(), Cause> {
    let event = match fault {
        Fault::GeneralProtection => EventInfo::exception(GENERAL_PROTECTION_FAULT_VECTOR, true),
        Fault::InvalidOpcode => EventInfo::exception(INVALID_OPCODE_VECTOR, false),
    };
    inject(loaded, event)
}

/// An exception of the bitmap.
fn exception(loaded: &mut LoadedVmx<'_>, qualification: u64) -> Result<(), Cause> {
    let event = loaded.event(ro::VMEXIT_INTERRUPTION_INFO);
    match event.vector() {
        MACHINE_CHECK_VECTOR => return Err(Unexpected::MachineCheck.into()),
        ALIGNMENT_CHECK_VECTOR => {}
        DEBUG_VECTOR if event.is_by_instruction() => {
            // INT1: a trap. The CPU wants the instruction's length to push the RIP after it.
            let length = loaded.vmcs.read(ro::VMEXIT_INSTRUCTION_LEN);
            loaded.vmcs.set_guest(control::VMENTRY_INSTRUCTION_LEN, length);
        }
        DEBUG_VECTOR => {
            // Such an exit does not touch DR6 and DR7 (SDM vol. 3C, 28.1).
            let bits = qualification & (BREAKPOINTS | DR6_ACCESS_DETECTED | DR6_SINGLE_STEP);
            debug_registers::write_status(debug_registers::status() & !BREAKPOINTS | bits);
            let dr7 = loaded.vmcs.read(guest::DR7);
            loaded.vmcs.set_guest(guest::DR7, dr7 & !DR7_GENERAL_DETECT);
        }
        _ => return Err(Unexpected::ExitCode(event.get().into()).into()),
    }
    inject(loaded, event.for_entry())
}

/// Goes on after the intercepted instruction, whose effect is done: no shadow of STI or of a load of SS is left, the resume flag is
/// clear, and a single step traps.
pub(super) fn advance(loaded: &mut LoadedVmx<'_>) {
    let length = loaded.vmcs.read(ro::VMEXIT_INSTRUCTION_LEN);
    let next = loaded.vmcs.read(guest::RIP).wrapping_add(length);
    let next = if is_64_bit_code(loaded) {
        next
    } else {
        next & 0xffff_ffff
    };
    loaded.vmcs.set_guest(guest::RIP, next);
    let flags = loaded.vmcs.read(guest::RFLAGS);
    loaded
        .vmcs
        .set_guest(guest::RFLAGS, flags & !RFlags::FLAGS_RF.bits());
    let state = loaded.vmcs.read(guest::INTERRUPTIBILITY_STATE);
    loaded
        .vmcs
        .set_guest(guest::INTERRUPTIBILITY_STATE, state & !SHADOWS);
    if flags & RFlags::FLAGS_TF.bits() != 0 {
        debug_registers::write_status(debug_registers::status() | DR6_SINGLE_STEP);
        set_event(loaded, EventInfo::exception(DEBUG_VECTOR, false));
    }
}

/// Whether the guest's kernel runs. The CPU checks privilege before most exits; VMCALL and the VMX instructions exit at any level.
fn is_privileged(loaded: &LoadedVmx<'_>) -> bool {
    loaded.vmcs.read(guest::SS_ACCESS_RIGHTS) & PRIVILEGE == 0
}

/// Whether the guest is in 64-bit code. CS.L counts in long mode only.
pub(super) fn is_64_bit_code(loaded: &LoadedVmx<'_>) -> bool {
    let long_mode = loaded.vmcs.read(guest::IA32_EFER_FULL) & vcpu_policy::cr0::EFER_LMA != 0;
    long_mode && loaded.vmcs.read(guest::CS_ACCESS_RIGHTS) & LONG != 0
}

fn answer_cpuid(loaded: &mut LoadedVmx<'_>) {
    let view = GuestView {
        cr4: guest_control(loaded).cr4,
        xcr0: loaded.vcpu.vectors.loaded_xcr0(),
        xcr0_allowed: loaded.vcpu.vectors.xcr0_allowed(),
        measurement: loaded.vcpu.measurement,
    };
    let registers = &mut loaded.vcpu.registers;
    let (leaf, subleaf) = (registers.get(RAX) as u32, registers.get(RCX) as u32);
    let answer = cpuid::answer(&CpuIdReaderNative, &view, leaf, subleaf);
    registers.set(RAX, answer.eax.into());
    registers.set(RBX, answer.ebx.into());
    registers.set(RCX, answer.ecx.into());
    registers.set(RDX, answer.edx.into());
    advance(loaded);
}

fn access_msr(loaded: &mut LoadedVmx<'_>, write: bool) -> Result<(), Cause> {
    let before = guest_control(loaded);
    let vcpu = &mut *loaded.vcpu;
    let msr = vcpu.registers.get(RCX) as u32;
    let value = vcpu.registers.edx_eax();
    // LMA may have changed without an exit.
    vcpu.msrs.set_efer_after_cr0(before.efer);
    if write {
        if let Err(fault) = vcpu.msrs.write(msr, value, before.cr0) {
            return raise(loaded, fault);
        }
        let efer = vcpu.msrs.efer();
        loaded.vmcs.set_guest(guest::IA32_EFER_FULL, efer);
        // No-execute changes what the guest's tables mean.
        loaded.make_stale();
    } else {
        match vcpu.msrs.read(msr) {
            Err(fault) => return raise(loaded, fault),
            Ok(value) => {
                vcpu.registers.set(RAX, value & 0xffff_ffff);
                vcpu.registers.set(RDX, value >> 32);
            }
        }
    }
    advance(loaded);
    Ok(())
}

/// The CPU has checked the guest's right to the port (SDM vol. 3C, 26.1.1).
fn access_port(loaded: &mut LoadedVmx<'_>, qualification: u64) -> Result<(), Cause> {
    let access = port_access(qualification);
    if access.string {
        return Err(Unexpected::Port(access).into());
    }
    if access.input {
        let registers = &mut loaded.vcpu.registers;
        registers.set(RAX, port::after_in(registers.get(RAX), access.bytes));
    }
    advance(loaded);
    Ok(())
}

/// XSETBV exits after the CPU's checks of CR4.OSXSAVE and privilege.
fn set_xcr0(loaded: &mut LoadedVmx<'_>) -> Result<(), Cause> {
    if loaded.vcpu.vectors.xcr0_allowed() == 0 || guest_control(loaded).cr4 & CR4_OSXSAVE == 0 {
        return raise(loaded, Fault::InvalidOpcode);
    }
    let registers = &loaded.vcpu.registers;
    let (index, value) = (registers.get(RCX) as u32, registers.edx_eax());
    if !is_privileged(loaded) || index != 0 || loaded.vcpu.vectors.set_xcr0(value).is_err() {
        return raise(loaded, Fault::GeneralProtection);
    }
    advance(loaded);
    Ok(())
}
