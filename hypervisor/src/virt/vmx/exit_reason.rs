//! The exit reasons (Intel SDM vol. 3D, appendix C), and the event fields of entry and exit.

use bitfield::bitfield;

/// Why the guest exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// An exception in the bitmap, or an NMI.
    ExceptionOrNmi,
    /// A physical interrupt is pending.
    Interrupt,
    /// A physical INIT or SIPI came.
    Init,
    /// A triple fault.
    TripleFault,
    /// A task switch.
    TaskSwitch,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD, WBINVD, WBNOINVD.
    InvalidateCaches,
    /// RDPMC.
    Rdpmc,
    /// VMCALL.
    Vmcall,
    /// A move to or from a control register, CLTS or LMSW.
    ControlRegister,
    /// IN, OUT, INS, OUTS.
    Port,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// XSETBV.
    Xsetbv,
    /// An instruction that guests do not have: the VMX ones, GETSEC, MONITOR, MWAIT, ENCLS, ENCLV, and those that the secondary
    /// controls leave off.
    HiddenInstruction,
    /// The second stage does not allow an access.
    EptViolation,
    /// The second stage is malformed.
    EptMisconfiguration,
    /// The preemption timer ran down.
    PreemptionTimer,
    /// The entry failed half-way, with this basic reason.
    EntryFailed(u16),
    /// Anything else.
    Other(u16),
}

/// Bit 31: the entry failed.
const ENTRY_FAILED: u32 = 1 << 31;
/// The basic reason of an entry that a machine check ended.
pub const MACHINE_CHECK_DURING_ENTRY: u16 = 41;

impl ExitReason {
    /// Reads the field.
    pub const fn new(field: u32) -> Self {
        let basic = field as u16;
        if field & ENTRY_FAILED != 0 {
            return Self::EntryFailed(basic);
        }
        match basic {
            0 => Self::ExceptionOrNmi,
            1 => Self::Interrupt,
            2 => Self::TripleFault,
            3 | 4 => Self::Init,
            9 => Self::TaskSwitch,
            10 => Self::Cpuid,
            12 => Self::Hlt,
            13 | 54 => Self::InvalidateCaches,
            15 => Self::Rdpmc,
            18 => Self::Vmcall,
            28 => Self::ControlRegister,
            30 => Self::Port,
            31 => Self::Rdmsr,
            32 => Self::Wrmsr,
            48 => Self::EptViolation,
            49 => Self::EptMisconfiguration,
            52 => Self::PreemptionTimer,
            55 => Self::Xsetbv,
            // GETSEC; VMCLEAR to VMXON; MWAIT, MONITOR; INVEPT, RDTSCP, INVVPID; INVPCID, VMFUNC, ENCLS; XSAVES, XRSTORS, PCONFIG; UMWAIT,
            // TPAUSE, LOADIWKEY, ENCLV.
            11 | 19..=27 | 36 | 39 | 50 | 51 | 53 | 58..=60 | 63..=65 | 67..=70 => Self::HiddenInstruction,
            _ => Self::Other(basic),
        }
    }
}

bitfield! {
    /// VM-exit interruption information, IDT-vectoring information, and VM-entry interruption information: one layout (SDM vol. 3C, tables
    /// 25-17, 25-18 and 25-19).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct EventInfo(u32);
    impl Debug;
    u8;
    /// The vector.
    pub vector, set_vector: 7, 0;
    kind, set_kind: 10, 8;
    /// Whether an error code comes with it.
    pub has_error_code, set_has_error_code: 11;
    bit_12, set_bit_12: 12;
    /// Whether there is an event.
    pub is_valid, set_valid: 31;
}

const NMI: u8 = 2;
const HARDWARE_EXCEPTION: u8 = 3;
const SOFTWARE_INTERRUPT: u8 = 4;
const PRIVILEGED_SOFTWARE_EXCEPTION: u8 = 5;
const SOFTWARE_EXCEPTION: u8 = 6;

impl EventInfo {
    /// No event.
    const NONE: Self = Self(0);

    /// Reads a field.
    pub const fn new(field: u32) -> Self {
        Self(field)
    }

    /// An exception.
    pub fn exception(vector: u8, has_error_code: bool) -> Self {
        let mut event = Self::NONE;
        event.set_vector(vector);
        event.set_kind(HARDWARE_EXCEPTION);
        event.set_has_error_code(has_error_code);
        event.set_valid(true);
        event
    }

    /// The field's value.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether it is an NMI.
    pub fn is_nmi(self) -> bool {
        self.is_valid() && self.kind() == NMI
    }

    /// Whether an instruction raised it: RIP is still at it.
    pub fn is_by_instruction(self) -> bool {
        matches!(
            self.kind(),
            SOFTWARE_INTERRUPT | PRIVILEGED_SOFTWARE_EXCEPTION | SOFTWARE_EXCEPTION
        )
    }

    /// The same for the next entry, on which bit 12 is reserved: on exit it says that the guest's IRET unblocked NMIs, or is undefined.
    pub fn for_entry(mut self) -> Self {
        self.set_bit_12(false);
        self
    }

    /// What to inject so that an interrupted delivery starts again. Nothing for what an instruction raised: it runs again.
    pub fn again(self) -> Self {
        if self.is_valid() && !self.is_by_instruction() {
            self.for_entry()
        } else {
            Self::NONE
        }
    }
}
