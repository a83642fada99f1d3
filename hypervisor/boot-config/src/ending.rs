//! How a guest ends, and how it is expected to.

use core::fmt;

use crate::value;

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest asked to exit, with this code.
    Exit(u64),
    /// It touched guest-physical memory that it does not own.
    MemoryFault,
    /// It used up the CPU time it may use.
    TimeLimit,
    /// Triple fault, the machine's way to shut down.
    Shutdown,
    /// It halted with nothing that could wake it.
    Halt,
    /// It did something that no guest has a reason to do (a string of bytes for a port, a hardware task switch, ...).
    Unexpected,
    /// It was not launched: bad image, or larger than the memory there is.
    Refused,
    /// It was destroyed from outside.
    Destroyed,
}

/// How a guest is expected to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Exactly so.
    Exactly(Ending),
    /// In any way at all.
    Any,
}

/// Endings that are a bare word, with the word.
const WORDS: &[(&str, Ending)] = &[
    ("memory-fault", Ending::MemoryFault),
    ("time-limit", Ending::TimeLimit),
    ("shutdown", Ending::Shutdown),
    ("halt", Ending::Halt),
    ("unexpected", Ending::Unexpected),
    ("refused", Ending::Refused),
    ("destroyed", Ending::Destroyed),
];

/// Every word an ending can start with, for the search of the nearest one.
pub(crate) const NAMES: &[&str] = &[
    "exit",
    "memory-fault",
    "time-limit",
    "shutdown",
    "halt",
    "unexpected",
    "refused",
    "destroyed",
    "any",
];

impl Expected {
    /// Whether `ending` is what was expected.
    pub fn holds(self, ending: Ending) -> bool {
        match self {
            Self::Exactly(expected) => expected == ending,
            Self::Any => true,
        }
    }

    /// Reads `exit:CODE`, a bare word, or `any`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "any" {
            return Some(Self::Any);
        }
        if let Some(code) = text.strip_prefix("exit:") {
            return value::number(code).map(|code| Self::Exactly(Ending::Exit(code)));
        }
        WORDS
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, ending)| Self::Exactly(*ending))
    }
}

impl Default for Expected {
    /// A guest that went well: `exit:0`.
    fn default() -> Self {
        Self::Exactly(Ending::Exit(0))
    }
}

impl fmt::Display for Ending {
    /// Writes the ending as the command line and the report do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Exit(code) = self {
            return write!(f, "exit:{code}");
        }
        f.write_str(
            WORDS
                .iter()
                .find(|(_, ending)| ending == self)
                .map_or("", |(word, _)| word),
        )
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(ending) => ending.fmt(f),
            Self::Any => f.write_str("any"),
        }
    }
}
