//! What the exit qualification says, by exit reason (Intel SDM vol. 3C, 28.2.1).

use crate::virt::{Access, MemoryFault, PortAccess, Stage};
use bitfield::bitfield;
use memory::address::Gpa;
use vcpu_policy::instruction::Register;

bitfield! {
    /// Table 28-5: I/O instructions.
    struct Port(u64);
    u8;
    size, _: 2, 0;
    is_input, _: 3;
    is_string, _: 4;
    u16, port, _: 31, 16;
}

/// The port access that a qualification describes.
pub fn port_access(qualification: u64) -> PortAccess {
    let info = Port(qualification);
    PortAccess {
        port: info.port(),
        bytes: info.size() + 1,
        input: info.is_input(),
        string: info.is_string(),
    }
}

bitfield! {
    /// Table 28-7: EPT violations.
    struct Violation(u64);
    is_write, _: 1;
    is_fetch, _: 2;
    u8, allowed, _: 5, 3;
    is_linear, _: 7;
    is_final, _: 8;
}

/// The fault that an EPT violation is.
pub fn memory_fault(qualification: u64, gpa: u64) -> MemoryFault {
    let info = Violation(qualification);
    MemoryFault {
        gpa: Gpa::new(gpa),
        page: None,
        access: match (info.is_fetch(), info.is_write()) {
            (true, _) => Access::Execute,
            (false, true) => Access::Write,
            (false, false) => Access::Read,
        },
        // Without a linear address it was the load of page-directory pointers by a move to a control register.
        stage: if info.is_linear() && info.is_final() {
            Stage::Final
        } else {
            Stage::GuestTable
        },
        present: info.allowed() != 0,
        reserved_bit: false,
    }
}

/// An EPT misconfiguration, which tells nothing but the address.
pub fn misconfiguration(gpa: u64) -> MemoryFault {
    MemoryFault {
        gpa: Gpa::new(gpa),
        page: None,
        access: Access::Read,
        stage: Stage::Final,
        present: true,
        reserved_bit: true,
    }
}

bitfield! {
    /// Table 28-3: control-register accesses.
    struct ControlAccess(u64);
    u8;
    number, _: 3, 0;
    kind, _: 5, 4;
    register, _: 11, 8;
    u16, source, _: 31, 16;
}

/// An access to a control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlMove {
    /// MOV to the register with this number.
    To(u8, Register),
    /// MOV from it.
    From(u8, Register),
    /// CLTS.
    ClearTaskSwitched,
    /// LMSW with this operand.
    LoadMachineStatus(u16),
}

/// The access that a qualification describes.
pub fn control_move(qualification: u64) -> ControlMove {
    let info = ControlAccess(qualification);
    let register = Register::from_low_bits(info.register());
    match info.kind() {
        0 => ControlMove::To(info.number(), register),
        1 => ControlMove::From(info.number(), register),
        2 => ControlMove::ClearTaskSwitched,
        _ => ControlMove::LoadMachineStatus(info.source()),
    }
}
