//! Why a guest ended.

use core::fmt;
use memory::address::{Gpa, Gva, PAGE_SIZE};
use memory::guest::{Alias, Page, PageState};
use vcpu_policy::fetch::FetchError;
use vcpu_policy::instruction::DecodeError;

/// How and where a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// What happened.
    pub cause: Cause,
    /// The instruction it happened at. After a shutdown the CPU need not say (AMD APM vol. 2, 15.14.3).
    pub rip: Gva,
}

/// What ended a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It touched guest-physical memory that it does not have.
    MemoryFault(MemoryFault),
    /// It used up its CPU time; decided by the run loop.
    TimeLimit,
    /// A triple fault.
    Shutdown,
    /// It halted, and no interrupt will ever wake it.
    Halt,
    /// It did something that no guest has a reason to do.
    Unexpected(Unexpected),
}

/// A second-stage fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFault {
    /// What it touched.
    pub gpa: Gpa,
    /// Which page that is, where the guest's memory is at hand.
    pub page: Option<Page>,
    /// How.
    pub access: Access,
    /// In which step of the translation.
    pub stage: Stage,
    /// There is a translation, but it does not permit this access.
    pub present: bool,
    /// The second stage has reserved bits set: a fault of ours.
    pub reserved_bit: bool,
}

/// The kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// The step of a nested translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Reading the guest's own page tables.
    GuestTable,
    /// The access itself.
    Final,
}

/// An access to an I/O port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub bytes: u8,
    /// IN, else OUT.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
}

/// What no guest has a reason to do, or what a CPU should not have told us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unexpected {
    /// It wanted a string from an I/O port or gave it one.
    Port(PortAccess),
    /// A hardware task switch.
    TaskSwitch,
    /// It froze on an x87 error (FERR).
    FerrFreeze,
    /// Its registers are in a state that the CPU does not run.
    InvalidState,
    /// VMX refused to enter it: its VM-instruction error (Intel SDM vol. 3C, 31.4). A fault of ours.
    EntryRefused(u32),
    /// VMX gave its entry up half-way: basic exit reason and exit qualification (Intel SDM vol. 3C, 27.8).
    EntryFailed {
        /// 33: guest state; 34: MSR loading; 41: machine check.
        reason: u16,
        /// Which rule it was, for some.
        qualification: u64,
    },
    /// An exception came up while another event was being delivered.
    FaultInDelivery {
        /// Vector of the event that was being delivered.
        delivering: u8,
        /// Vector of the exception.
        vector: u8,
    },
    /// A machine check hit while it ran.
    MachineCheck,
    /// An intercepted instruction could not be read.
    Fetch(FetchError),
    /// An intercepted instruction could not be decoded.
    Decode(DecodeError),
    /// The CPU gave an exit code that was not asked for.
    ExitCode(u64),
}

impl From<Unexpected> for Cause {
    fn from(what: Unexpected) -> Self {
        Self::Unexpected(what)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at {}", self.cause, self.rip)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemoryFault(fault) => fault.fmt(f),
            Self::TimeLimit => f.write_str("time limit reached"),
            Self::Shutdown => f.write_str("shutdown (triple fault)"),
            Self::Halt => f.write_str("halted"),
            Self::Unexpected(what) => what.fmt(f),
        }
    }
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read of",
            Access::Write => "write to",
            Access::Execute => "execution at",
        };
        let stage = match self.stage {
            Stage::GuestTable => " by the walk of its own tables",
            Stage::Final => "",
        };
        write!(f, "memory fault: {access} guest-physical {}{stage}", self.gpa)?;
        if let Some(page) = self.page {
            let alias = match page.alias {
                Alias::Private => "private",
                Alias::Shared => "shared",
            };
            write!(f, ", {} KiB at the {alias} alias", PAGE_SIZE >> 10)?;
        }
        f.write_str(match (self.reserved_bit, self.present, self.page) {
            (true, ..) => ", a reserved bit in the second stage",
            (false, true, _) => ", not permitted",
            (false, false, Some(page)) => match (page.state, page.alias) {
                (PageState::Outside, _) => ", not its memory",
                (PageState::Absent, _) => ", absent: it was given back",
                (PageState::Pending, Alias::Private) => ", pending: it was not accepted",
                (PageState::Shared, Alias::Private) => ", which is shared",
                (PageState::SharedInPlace, Alias::Private) => ", which is shared in place",
                (PageState::Accepted | PageState::Pending, Alias::Shared) => ", which is private",
                // Another vCPU has changed it since.
                (PageState::Accepted, Alias::Private)
                | (PageState::Shared | PageState::SharedInPlace, Alias::Shared) => {
                    ", which was being changed"
                }
            },
            (false, false, None) => ", not mapped",
        })
    }
}

impl fmt::Display for PortAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.input, self.string) {
            (true, false) => "in from",
            (true, true) => "ins from",
            (false, false) => "out to",
            (false, true) => "outs to",
        };
        write!(f, "{name} port {:#x}, {} bytes", self.port, self.bytes)
    }
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(access) => access.fmt(f),
            Self::TaskSwitch => f.write_str("hardware task switch"),
            Self::FerrFreeze => f.write_str("x87 error with CR0.NE clear"),
            Self::InvalidState => f.write_str("register state that the CPU refuses to run"),
            Self::EntryRefused(error) => write!(f, "VM entry refused with instruction error {error}"),
            Self::EntryFailed {
                reason,
                qualification,
            } => write!(
                f,
                "register state that the CPU refuses to run (VM-entry failure {reason}, qualification {qualification:#x})"
            ),
            Self::FaultInDelivery { delivering, vector } => {
                write!(f, "exception {vector} in the delivery of event {delivering}")
            }
            Self::MachineCheck => f.write_str("machine check"),
            Self::Fetch(error) => error.fmt(f),
            Self::Decode(error) => error.fmt(f),
            Self::ExitCode(code) => write!(f, "exit code {code:#x}, for which no intercept is set"),
        }
    }
}
