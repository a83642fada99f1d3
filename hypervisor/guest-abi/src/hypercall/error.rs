//! Why a hypercall is refused, and how that travels in RAX.

use core::fmt;

/// Why a hypercall was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HypercallError {
    /// RAX is no hypercall number.
    UnknownNumber,
    /// An argument is out of its range.
    BadArgument,
    /// The guest has as many vCPUs as it was launched with, or has ended.
    NoMoreVcpus,
    /// The host has no memory for it.
    OutOfMemory,
    /// The pages are none, not whole, or not all the guest's memory. Nothing was changed.
    BadRange,
    /// A page is in a state that the call is not for. Nothing was changed.
    WrongState,
    /// A call on another vCPU is changing the guest's memory: try again.
    Busy,
    /// More would be shared than the guest was launched for. Nothing was changed.
    ShareLimit,
    /// It would take more tables than the guest was launched for. Nothing was changed.
    TableLimit,
}

impl HypercallError {
    /// The value for RAX: negative as an `i64`.
    pub const fn code(self) -> i64 {
        match self {
            Self::UnknownNumber => -1,
            Self::BadArgument => -2,
            Self::NoMoreVcpus => -3,
            Self::OutOfMemory => -4,
            Self::BadRange => -5,
            Self::WrongState => -6,
            Self::Busy => -7,
            Self::ShareLimit => -8,
            Self::TableLimit => -9,
        }
    }

    /// The error that a result in RAX stands for; `None` for 0 and for values that no error has.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            -1 => Some(Self::UnknownNumber),
            -2 => Some(Self::BadArgument),
            -3 => Some(Self::NoMoreVcpus),
            -4 => Some(Self::OutOfMemory),
            -5 => Some(Self::BadRange),
            -6 => Some(Self::WrongState),
            -7 => Some(Self::Busy),
            -8 => Some(Self::ShareLimit),
            -9 => Some(Self::TableLimit),
            _ => None,
        }
    }
}

impl fmt::Display for HypercallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownNumber => "unknown hypercall number in RAX",
            Self::BadArgument => "hypercall argument out of range",
            Self::NoMoreVcpus => "no further vCPU: the guest has all that it was launched with",
            Self::OutOfMemory => "no memory for this hypercall",
            Self::BadRange => "pages that are none, not whole, or not all the guest's memory",
            Self::WrongState => "a page in a state that this hypercall is not for",
            Self::Busy => "another vCPU is changing the guest's memory",
            Self::ShareLimit => "more would be shared than the guest was launched for",
            Self::TableLimit => "it would take more tables than the guest was launched for",
        })
    }
}

impl core::error::Error for HypercallError {}
