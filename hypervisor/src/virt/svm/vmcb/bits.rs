//! The fields of the control block that have bits inside. The setters that `bitfield` makes cut values off silently, so they stay
//! private here behind constructors whose arguments always fit.

use crate::virt::{Access, MemoryFault, PortAccess, Stage};
use bitfield::bitfield;
use memory::address::Gpa;

bitfield! {
    /// EVENTINJ and EXITINTINFO (AMD APM vol. 2, 15.20).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Event(u64);
    impl Debug;
    u8;
    /// The vector.
    pub vector, set_vector: 7, 0;
    kind, set_kind: 10, 8;
    has_error_code, set_has_error_code: 11;
    /// Whether there is an event.
    pub is_valid, set_valid: 31;
    u32, error_code, set_error_code: 63, 32;
}

/// A fault or trap.
const EXCEPTION: u8 = 3;
/// INT n.
const SOFTWARE_INTERRUPT: u8 = 4;
/// Vectors of INT3 and INTO, which come as exceptions.
const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;

impl Event {
    /// No event.
    pub const NONE: Self = Self(0);

    /// An exception without an error code.
    pub fn exception(vector: u8) -> Self {
        let mut event = Self::NONE;
        event.set_vector(vector);
        event.set_kind(EXCEPTION);
        event.set_valid(true);
        event
    }

    /// An exception with an error code.
    pub fn exception_with_code(vector: u8, code: u32) -> Self {
        let mut event = Self::exception(vector);
        event.set_has_error_code(true);
        event.set_error_code(code);
        event
    }

    /// What to inject so that an interrupted delivery starts again. Nothing for what an instruction raised: RIP is still at it, and it
    /// runs again.
    pub fn again(self) -> Self {
        let by_instruction = self.kind() == SOFTWARE_INTERRUPT
            || (self.kind() == EXCEPTION && matches!(self.vector(), BREAKPOINT | OVERFLOW));
        if self.is_valid() && !by_instruction {
            self
        } else {
            Self::NONE
        }
    }
}

bitfield! {
    /// Virtual interrupts (AMD APM vol. 2, 15.21 and table B-1, offset 060H).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct VirtualInterruptControl(u64);
    impl Debug;
    masking, set_masking: 24;
}

impl VirtualInterruptControl {
    /// The guest's interrupt flag and task priority hold for virtual interrupts only, of which there are none; physical interrupts
    /// are the host's.
    pub fn physical_interrupts_are_the_hosts() -> Self {
        let mut control = Self(0);
        control.set_masking(true);
        control
    }
}

bitfield! {
    /// Attributes of a segment: bits 55:52 and 47:40 of its descriptor, put together (AMD APM vol. 2, 15.5.1).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct SegmentAttributes(u16);
    impl Debug;
    u8;
    kind, set_kind: 3, 0;
    is_code_or_data, set_code_or_data: 4;
    is_present, set_present: 7;
    /// CS.L: 64-bit code, in long mode.
    pub is_long, set_long: 9;
    /// CS.D: 32-bit operands and addresses.
    pub is_default_32, set_default_32: 10;
    is_in_pages, set_in_pages: 11;
}

impl SegmentAttributes {
    /// A register without a segment, or GDTR and IDTR.
    pub const NONE: Self = Self(0);

    /// 64-bit code: execute and read, accessed, privilege level 0.
    pub fn code_64() -> Self {
        let mut attributes = Self::memory(0xb);
        attributes.set_long(true);
        attributes
    }

    /// Data: read and write, accessed, privilege level 0.
    pub fn data() -> Self {
        let mut attributes = Self::memory(0x3);
        attributes.set_default_32(true);
        attributes
    }

    /// A busy 64-bit task-state segment.
    pub fn busy_task() -> Self {
        let mut attributes = Self::NONE;
        attributes.set_kind(0xb);
        attributes.set_present(true);
        attributes
    }

    fn memory(kind: u8) -> Self {
        let mut attributes = Self::NONE;
        attributes.set_kind(kind);
        attributes.set_code_or_data(true);
        attributes.set_present(true);
        attributes.set_in_pages(true);
        attributes
    }
}

bitfield! {
    /// EXITINFO1 of a port access (AMD APM vol. 2, 15.10.2).
    struct PortInfo(u64);
    is_input, _: 0;
    is_string, _: 2;
    is_16, _: 5;
    is_32, _: 6;
    u16, port, _: 31, 16;
}

/// The port access that EXITINFO1 describes.
pub fn port_access(exit_info_1: u64) -> PortAccess {
    let info = PortInfo(exit_info_1);
    PortAccess {
        port: info.port(),
        bytes: match (info.is_32(), info.is_16()) {
            (true, _) => 4,
            (false, true) => 2,
            (false, false) => 1,
        },
        input: info.is_input(),
        string: info.is_string(),
    }
}

bitfield! {
    /// EXITINFO1 of a nested page fault (AMD APM vol. 2, 15.25.6).
    struct NestedFaultInfo(u64);
    is_present, _: 0;
    is_write, _: 1;
    is_reserved, _: 3;
    is_fetch, _: 4;
    is_in_guest_table, _: 33;
}

/// The nested page fault that EXITINFO1 and EXITINFO2 describe.
pub fn memory_fault(exit_info_1: u64, exit_info_2: u64) -> MemoryFault {
    let info = NestedFaultInfo(exit_info_1);
    MemoryFault {
        gpa: Gpa::new(exit_info_2),
        page: None,
        access: match (info.is_fetch(), info.is_write()) {
            (true, _) => Access::Execute,
            (false, true) => Access::Write,
            (false, false) => Access::Read,
        },
        stage: if info.is_in_guest_table() {
            Stage::GuestTable
        } else {
            Stage::Final
        },
        present: info.is_present(),
        reserved_bit: info.is_reserved(),
    }
}

bitfield! {
    /// EXITINFO1 of a MOV to a control or debug register, where CPUID offers decode assists (AMD APM vol. 2, 15.33.1 and 15.33.2).
    struct MoveInfo(u64);
    u8;
    register, _: 3, 0;
    is_move, _: 63;
}

/// The number of the source register of a MOV to a control register; `None` for LMSW.
pub fn control_move_source(exit_info_1: u64) -> Option<u8> {
    let info = MoveInfo(exit_info_1);
    info.is_move().then(|| info.register())
}

/// The number of the source register of a MOV to a debug register.
pub fn debug_move_source(exit_info_1: u64) -> u8 {
    MoveInfo(exit_info_1).register()
}
