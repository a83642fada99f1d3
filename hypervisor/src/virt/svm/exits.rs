//! What each exit means for the guest.

use super::exit_code::ExitCode;
use super::intercepts::{ALIGNMENT_CHECK, DEBUG, GENERAL_PROTECTION, INVALID_OPCODE};
use super::vcpu::SvmVcpu;
use super::vmcb::bits::{Event, control_move_source, debug_move_source, memory_fault, port_access};
use crate::virt::guest_registers::{RAX, RBX, RCX, RDX};
use crate::virt::{Cause, Ending, Exit, GuestAccess, Unexpected};
use memory::address::Gva;
use raw_cpuid::CpuIdReaderNative;
use vcpu_policy::cpuid::{CR4_OSXSAVE, GuestView};
use vcpu_policy::debug_registers::{self, DR6_ACCESS_DETECTED, DR6_SINGLE_STEP, DR7_GENERAL_DETECT, Write};
use vcpu_policy::fetch::{CodeState, instruction_bytes};
use vcpu_policy::instruction::{CodeSize, DecodeError, Expected, Operand, Register, decode};
use vcpu_policy::{Fault, cpuid, cr0, cr4, port};
use x86::bits64::rflags::RFlags;

/// EXITINFO1 of an MSR access: a write (AMD APM vol. 2, 15.11).
const MSR_WRITE: u64 = 1;

/// Deals with an exit. `None`: the guest goes on at once.
pub(super) fn handle(vcpu: &mut SvmVcpu, exit: ExitCode, memory: &mut dyn GuestAccess) -> Option<Exit> {
    match step(vcpu, exit, memory) {
        Ok(next) => next,
        Err(cause) => {
            let rip = Gva::new(vcpu.vmcb().save.rip);
            Some(Exit::Ended(Ending { cause, rip }))
        }
    }
}

fn step(vcpu: &mut SvmVcpu, exit: ExitCode, memory: &mut dyn GuestAccess) -> Result<Option<Exit>, Cause> {
    if exit == ExitCode::Invalid {
        // The rest of the block need not mean anything.
        return Err(Unexpected::InvalidState.into());
    }
    // An event whose delivery was interrupted starts again, unless the guest ends or an exception takes its place.
    let interrupted = vcpu.vmcb().control.interrupted_event;
    vcpu.vmcb().control.inject = interrupted.again();
    let info_1 = vcpu.vmcb().control.exit_info_1;
    let info_2 = vcpu.vmcb().control.exit_info_2;
    match exit {
        ExitCode::Nmi => return Ok(Some(Exit::Kicked { in_guest: true })),
        ExitCode::Interrupt | ExitCode::Smi | ExitCode::Init => return Ok(Some(Exit::Interrupted)),
        // As without virtualization: the instruction is not for programs (the ABI gives it to the guest's kernel).
        ExitCode::Vmmcall if !is_privileged(vcpu) => raise(vcpu, Fault::InvalidOpcode)?,
        ExitCode::Vmmcall => return hypercall(vcpu, memory).map(Some),
        ExitCode::Cpuid => answer_cpuid(vcpu, memory)?,
        ExitCode::Msr => access_msr(vcpu, info_1 & MSR_WRITE != 0, memory)?,
        ExitCode::WriteCr0 => write_cr0(vcpu, info_1, memory)?,
        ExitCode::WriteCr4 => write_cr4(vcpu, info_1, memory)?,
        ExitCode::WriteDebug(number) => write_debug(vcpu, number, info_1, memory)?,
        ExitCode::Xsetbv => set_xcr0(vcpu, memory)?,
        // Nothing to do: the caches are the host's, and the guest's memory is write-back.
        ExitCode::InvalidateCaches => advance(vcpu, Expected::InvalidateCaches, memory)?,
        ExitCode::HiddenInstruction => raise(vcpu, Fault::InvalidOpcode)?,
        // There is no counter that a guest may read.
        ExitCode::Rdpmc => raise(vcpu, Fault::GeneralProtection)?,
        ExitCode::Debug => debug_exception(vcpu)?,
        ExitCode::AlignmentCheck => inject(vcpu, Event::exception_with_code(ALIGNMENT_CHECK, 0))?,
        ExitCode::NestedPageFault => return Err(Cause::MemoryFault(memory_fault(info_1, info_2))),
        ExitCode::Shutdown => return Err(Cause::Shutdown),
        ExitCode::Hlt => return Err(Cause::Halt),
        ExitCode::Port => access_port(vcpu, info_1, info_2)?,
        ExitCode::TaskSwitch => return Err(Unexpected::TaskSwitch.into()),
        ExitCode::FerrFreeze => return Err(Unexpected::FerrFreeze.into()),
        ExitCode::MachineCheck => return Err(Unexpected::MachineCheck.into()),
        ExitCode::Invalid => return Err(Unexpected::InvalidState.into()),
        ExitCode::Other(code) => return Err(Unexpected::ExitCode(code).into()),
    }
    Ok(None)
}

/// Gives the guest an exception on its next entry. In the delivery of another event it would have to be merged with that by the rules
/// for double faults; no honest guest gets here, so it ends instead.
fn inject(vcpu: &mut SvmVcpu, event: Event) -> Result<(), Cause> {
    let control = &mut vcpu.vmcb().control;
    if control.interrupted_event.is_valid() {
        let delivering = control.interrupted_event.vector();
        let vector = event.vector();
        return Err(Unexpected::FaultInDelivery { delivering, vector }.into());
    }
    control.inject = event;
    Ok(())
}

/// Gives the guest a fault in place of the instruction at RIP.
fn raise(vcpu: &mut SvmVcpu, fault: Fault) -> Result<(), Cause> {
    let event = match fault {
        Fault::GeneralProtection => Event::exception_with_code(GENERAL_PROTECTION, 0),
        Fault::InvalidOpcode => Event::exception(INVALID_OPCODE),
    };
    inject(vcpu, event)
}

/// Gives the guest a #DB, for which DR6 has been set.
fn debug_exception(vcpu: &mut SvmVcpu) -> Result<(), Cause> {
    vcpu.vmcb().save.dr7 &= !DR7_GENERAL_DETECT;
    inject(vcpu, Event::exception(DEBUG))
}

/// Where the guest's next instruction is.
fn code_state(vcpu: &mut SvmVcpu) -> CodeState {
    let save = &vcpu.vmcb().save;
    CodeState {
        rip: save.rip,
        cs_base: save.cs.base,
        cs_long: save.cs.attributes.is_long(),
        cs_default_32: save.cs.attributes.is_default_32(),
        cr0: save.cr0,
        cr3: save.cr3,
        cr4: save.cr4,
        efer: save.efer,
    }
}

/// An intercepted instruction: the RIP after it, and its operand.
struct Intercepted {
    next_rip: u64,
    operand: Operand,
}

/// Reads and decodes the instruction at RIP.
fn decode_at_rip(
    vcpu: &mut SvmVcpu,
    expected: Expected,
    memory: &mut dyn GuestAccess,
) -> Result<Intercepted, Cause> {
    let state = code_state(vcpu);
    let bytes = instruction_bytes(&state, &mut |gpa| memory.read_word(gpa)).map_err(Unexpected::Fetch)?;
    let instruction = decode(bytes.as_slice(), state.code_size(), expected).map_err(Unexpected::Decode)?;
    Ok(Intercepted {
        next_rip: state.next_rip(instruction.length),
        operand: instruction.operand,
    })
}

/// The RIP after the intercepted instruction: reported by the CPU, or by decoding.
fn next_rip(vcpu: &mut SvmVcpu, expected: Expected, memory: &mut dyn GuestAccess) -> Result<u64, Cause> {
    if vcpu.found.next_rip() {
        return Ok(vcpu.vmcb().control.next_rip);
    }
    Ok(decode_at_rip(vcpu, expected, memory)?.next_rip)
}

/// Goes on after the intercepted instruction, whose effect is done.
fn advance(vcpu: &mut SvmVcpu, expected: Expected, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    let next = next_rip(vcpu, expected, memory)?;
    go_on_at(vcpu, next);
    Ok(())
}

/// Sets RIP as after an instruction: no shadow of STI or of a load of SS is left, the resume flag is clear, and a single step traps.
fn go_on_at(vcpu: &mut SvmVcpu, rip: u64) {
    let block = vcpu.vmcb();
    block.save.rip = rip;
    block.save.rflags &= !RFlags::FLAGS_RF.bits();
    block.control.interrupt_shadow = 0;
    if block.save.rflags & RFlags::FLAGS_TF.bits() != 0 {
        block.save.dr6 |= DR6_SINGLE_STEP;
        block.control.inject = Event::exception(DEBUG);
    }
}

/// Whether the guest's kernel runs. The CPU checks privilege before most intercepts; where a manual leaves that open, this decides.
fn is_privileged(vcpu: &mut SvmVcpu) -> bool {
    vcpu.vmcb().save.cpl == 0
}

fn hypercall(vcpu: &mut SvmVcpu, memory: &mut dyn GuestAccess) -> Result<Exit, Cause> {
    advance(vcpu, Expected::Vmmcall, memory)?;
    Ok(vcpu.registers.hypercall())
}

fn answer_cpuid(vcpu: &mut SvmVcpu, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    let next = next_rip(vcpu, Expected::Cpuid, memory)?;
    let view = GuestView {
        cr4: vcpu.vmcb().save.cr4,
        xcr0: vcpu.vectors.loaded_xcr0(),
        xcr0_allowed: vcpu.vectors.xcr0_allowed(),
        measurement: vcpu.measurement,
    };
    let leaf = vcpu.registers.get(RAX) as u32;
    let subleaf = vcpu.registers.get(RCX) as u32;
    let answer = cpuid::answer(&CpuIdReaderNative, &view, leaf, subleaf);
    set_rax(vcpu, u64::from(answer.eax));
    vcpu.registers.set(RBX, u64::from(answer.ebx));
    vcpu.registers.set(RCX, u64::from(answer.ecx));
    vcpu.registers.set(RDX, u64::from(answer.edx));
    go_on_at(vcpu, next);
    Ok(())
}

fn access_msr(vcpu: &mut SvmVcpu, write: bool, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    if !is_privileged(vcpu) {
        return raise(vcpu, Fault::GeneralProtection);
    }
    let msr = vcpu.registers.get(RCX) as u32;
    let value = vcpu.registers.edx_eax();
    if write {
        let cr0 = vcpu.vmcb().save.cr0;
        if let Err(fault) = vcpu.msrs.write(msr, value, cr0) {
            return raise(vcpu, fault);
        }
        let efer = vcpu.msrs.efer();
        vcpu.set_efer(efer);
        // No-execute and long mode change what the guest's tables mean.
        vcpu.make_stale();
        return advance(vcpu, Expected::Wrmsr, memory);
    }
    match vcpu.msrs.read(msr) {
        Err(fault) => raise(vcpu, fault),
        Ok(value) => {
            set_rax(vcpu, value & 0xffff_ffff);
            vcpu.registers.set(RDX, value >> 32);
            advance(vcpu, Expected::Rdmsr, memory)
        }
    }
}

/// The CPU has checked the guest's right to the port (APM vol. 2, 15.10.1), and says where the next instruction is (15.10.2).
fn access_port(vcpu: &mut SvmVcpu, info_1: u64, next_rip: u64) -> Result<(), Cause> {
    let access = port_access(info_1);
    if access.string {
        return Err(Unexpected::Port(access).into());
    }
    if access.input {
        let rax = vcpu.vmcb().save.rax;
        set_rax(vcpu, port::after_in(rax, access.bytes));
    }
    go_on_at(vcpu, next_rip);
    Ok(())
}

/// A write to a control register: as the CPU reports it, or decoded.
fn control_write(
    vcpu: &mut SvmVcpu,
    expected: Expected,
    info_1: u64,
    memory: &mut dyn GuestAccess,
) -> Result<Intercepted, Cause> {
    if vcpu.found.reports_moves()
        && let Some(number) = control_move_source(info_1)
    {
        return Ok(Intercepted {
            next_rip: vcpu.vmcb().control.next_rip,
            operand: Operand::MoveToControl(Register::from_low_bits(number)),
        });
    }
    decode_at_rip(vcpu, expected, memory)
}

fn write_cr4(vcpu: &mut SvmVcpu, info_1: u64, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    if !is_privileged(vcpu) {
        return raise(vcpu, Fault::GeneralProtection);
    }
    let write = control_write(vcpu, Expected::WriteCr4, info_1, memory)?;
    let Operand::MoveToControl(source) = write.operand else {
        return Err(Unexpected::Decode(DecodeError::OtherInstruction(Expected::WriteCr4)).into());
    };
    let value = operand(vcpu, source);
    let (before, efer) = (vcpu.vmcb().save.cr4, vcpu.msrs.efer());
    match cr4::write(before, efer, value, vcpu.cr4_offered) {
        Err(fault) => raise(vcpu, fault),
        Ok(after) => {
            vcpu.vmcb().save.cr4 = after.cr4;
            if after.flush {
                vcpu.make_stale();
            }
            go_on_at(vcpu, write.next_rip);
            Ok(())
        }
    }
}

fn write_cr0(vcpu: &mut SvmVcpu, info_1: u64, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    if !is_privileged(vcpu) {
        return raise(vcpu, Fault::GeneralProtection);
    }
    let write = control_write(vcpu, Expected::WriteCr0, info_1, memory)?;
    let efer = vcpu.msrs.efer();
    let save = &vcpu.vmcb().save;
    let before = cr0::Before {
        cr0: save.cr0,
        cr4: save.cr4,
        efer,
        code_is_64_bit: save.cs.attributes.is_long(),
    };
    let result = match write.operand {
        Operand::MoveToControl(source) => cr0::write(before, operand(vcpu, source)),
        Operand::LoadMachineStatus(source) => {
            cr0::load_machine_status(before, vcpu.registers.get(source) as u16)
        }
        Operand::None | Operand::MoveToDebug { .. } => Err(Fault::InvalidOpcode),
    };
    match result {
        Err(fault) => raise(vcpu, fault),
        Ok(after) => {
            vcpu.msrs.set_efer_after_cr0(after.efer);
            vcpu.set_efer(after.efer);
            vcpu.vmcb().save.cr0 = after.cr0;
            if after.flush {
                vcpu.make_stale();
            }
            go_on_at(vcpu, write.next_rip);
            Ok(())
        }
    }
}

fn write_debug(
    vcpu: &mut SvmVcpu,
    number: u8,
    info_1: u64,
    memory: &mut dyn GuestAccess,
) -> Result<(), Cause> {
    if !is_privileged(vcpu) {
        return raise(vcpu, Fault::GeneralProtection);
    }
    if vcpu.vmcb().save.dr7 & DR7_GENERAL_DETECT != 0 {
        vcpu.vmcb().save.dr6 |= DR6_ACCESS_DETECTED;
        return debug_exception(vcpu);
    }
    let (next_rip, source) = if vcpu.found.reports_moves() {
        let source = Register::from_low_bits(debug_move_source(info_1));
        (vcpu.vmcb().control.next_rip, source)
    } else {
        let decoded = decode_at_rip(vcpu, Expected::WriteDebug, memory)?;
        match decoded.operand {
            Operand::MoveToDebug {
                number: decoded_number,
                source,
            } if decoded_number == number => (decoded.next_rip, source),
            _ => return Err(Unexpected::Decode(DecodeError::OtherInstruction(Expected::WriteDebug)).into()),
        }
    };
    let value = operand(vcpu, source);
    let cr4 = vcpu.vmcb().save.cr4;
    match debug_registers::write(number, value, cr4) {
        Err(fault) => return raise(vcpu, fault),
        Ok(Write::Address { index, value }) => vcpu.debug.set(index, value),
        Ok(Write::Status(dr6)) => vcpu.vmcb().save.dr6 = dr6,
        Ok(Write::Control(dr7)) => vcpu.vmcb().save.dr7 = dr7,
    }
    go_on_at(vcpu, next_rip);
    Ok(())
}

fn set_xcr0(vcpu: &mut SvmVcpu, memory: &mut dyn GuestAccess) -> Result<(), Cause> {
    let cr4 = vcpu.vmcb().save.cr4;
    if vcpu.vectors.xcr0_allowed() == 0 || cr4 & CR4_OSXSAVE == 0 {
        return raise(vcpu, Fault::InvalidOpcode);
    }
    let index = vcpu.registers.get(RCX) as u32;
    if !is_privileged(vcpu) || index != 0 {
        return raise(vcpu, Fault::GeneralProtection);
    }
    let next = next_rip(vcpu, Expected::Xsetbv, memory)?;
    let value = vcpu.registers.edx_eax();
    match vcpu.vectors.set_xcr0(value) {
        Ok(()) => {
            go_on_at(vcpu, next);
            Ok(())
        }
        Err(_) => raise(vcpu, Fault::GeneralProtection),
    }
}

/// The source of a move to a control or debug register: 64 bits wide in 64-bit code, else 32.
fn operand(vcpu: &mut SvmVcpu, source: Register) -> u64 {
    let value = vcpu.registers.get(source);
    match code_state(vcpu).code_size() {
        CodeSize::Bits64 => value,
        CodeSize::Bits32 | CodeSize::Bits16 => value & 0xffff_ffff,
    }
}

/// RAX is the one register that VMRUN loads from the control block.
fn set_rax(vcpu: &mut SvmVcpu, value: u64) {
    vcpu.vmcb().save.rax = value;
}
