//! What was wrong with a command line, and what to write instead.

use core::fmt;

use crate::config::{MAX_COMMAND_LINE, MAX_GUESTS};

/// Longest piece of the input that an error repeats, in characters; the rest is replaced by dots.
const SHOWN: usize = 48;

/// A command line (or the launch text of one guest) that is not accepted.
///
/// Its `Display` text names the parameter, the position, the problem, and what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error<'a> {
    /// The parameter (`guest`, `seed`, ...) or the field of a guest (`memory`, ...) that was being read; empty for the
    /// line as a whole.
    pub parameter: &'a str,
    /// Where the problem starts: bytes from the start of the text that was parsed, counted from 0.
    pub position: usize,
    /// What is wrong there.
    pub problem: Problem<'a>,
}

/// What is wrong at one place of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem<'a> {
    /// The whole line is longer than [`MAX_COMMAND_LINE`]; it has this many bytes.
    TooLong(usize),
    /// The bytes are not UTF-8 text.
    NotText,
    /// More `guest=` words than [`MAX_GUESTS`].
    TooManyGuests,
    /// No parameter or field has this name.
    UnknownName {
        /// The word as it was written.
        word: &'a str,
        /// The known name it most likely meant.
        nearest: Option<&'static str>,
        /// All names that are known here.
        known: &'static [&'static str],
    },
    /// A name that needs `=VALUE` stands alone.
    MissingValue {
        /// What the value looks like.
        accepted: &'static str,
    },
    /// A name that takes no value has one.
    UnwantedValue,
    /// The value is not accepted.
    BadValue {
        /// The value as it was written.
        value: &'a str,
        /// The known value it most likely meant.
        nearest: Option<&'static str>,
        /// What the value looks like.
        accepted: &'static str,
    },
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parameter.is_empty() {
            write!(f, "command line, byte {}: ", self.position)?;
        } else {
            write!(
                f,
                "parameter `{}`, byte {}: ",
                Shown(self.parameter),
                self.position
            )?;
        }
        match self.problem {
            Problem::TooLong(length) => {
                write!(
                    f,
                    "the line has {length} bytes; at most {MAX_COMMAND_LINE} are accepted"
                )
            }
            Problem::NotText => f.write_str("this byte is not text; write the line in ASCII"),
            Problem::TooManyGuests => write!(
                f,
                "more than {MAX_GUESTS} `guest=` words; use `count=` to launch the same guest several times"
            ),
            Problem::UnknownName { word, nearest, known } => {
                write!(f, "`{}` is not known", Shown(word))?;
                if let Some(name) = nearest {
                    return write!(f, "; did you mean `{name}`?");
                }
                f.write_str("; known are ")?;
                for (row, name) in known.iter().enumerate() {
                    let comma = if row == 0 { "" } else { ", " };
                    write!(f, "{comma}{name}")?;
                }
                Ok(())
            }
            Problem::MissingValue { accepted } => write!(f, "a value is missing; accepted is {accepted}"),
            Problem::UnwantedValue => f.write_str("it takes no value; write the name alone"),
            Problem::BadValue {
                value,
                nearest,
                accepted,
            } => {
                write!(f, "`{}` is not accepted", Shown(value))?;
                if let Some(name) = nearest {
                    write!(f, "; did you mean `{name}`?")?;
                }
                write!(f, "; accepted is {accepted}")
            }
        }
    }
}

impl core::error::Error for Error<'_> {}

/// A piece of foreign text: control characters escaped, and not too much of it.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, character) in self.0.chars().enumerate() {
            if count == SHOWN {
                return f.write_str("...");
            }
            write!(f, "{}", character.escape_debug())?;
        }
        Ok(())
    }
}
