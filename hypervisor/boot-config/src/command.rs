//! What can be typed on the console while guests run, one command a line.

use core::fmt;

use crate::nearest::nearest;
use crate::value;

/// The longest command, in bytes: what a terminal shows on one line.
pub const MAX_COMMAND: usize = 80;

/// What the hypervisor says on the console when it begins to take commands: what is typed earlier can be lost.
pub const COMMANDS_ARE_TAKEN: &str = "commands are taken here";

/// Every command, as it is written, and what it does.
pub const COMMANDS: &[(&str, &str)] = &[
    ("list", "all guests, and what they do"),
    ("pause GUEST", "no vCPU of the guest runs until it is resumed"),
    ("resume GUEST", "the guest goes on"),
    (
        "destroy GUEST",
        "ends the guest, whatever it does, and takes its memory back",
    ),
    ("help", "this list"),
];

/// Their first words.
const NAMES: [&str; COMMANDS.len()] = ["list", "pause", "resume", "destroy", "help"];

/// A guest that somebody names: `3`, `#3`, or `hello#3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// Its name, if that was written.
    pub name: Option<&'a str>,
    /// Its number in this boot, from 1.
    pub instance: u32,
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Say what there is to type.
    Help,
    /// Say which guests there are.
    List,
    /// Let no vCPU of a guest run.
    Pause(Named<'a>),
    /// Let a guest go on.
    Resume(Named<'a>),
    /// End a guest.
    Destroy(Named<'a>),
}

/// Why a line is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// No command has this name.
    Unknown {
        /// The word as it was written.
        word: &'a str,
        /// The command that it most likely meant.
        nearest: Option<&'static str>,
    },
    /// The command needs a guest.
    NoGuest(&'static str),
    /// This names no guest.
    BadGuest(&'a str),
    /// This is more than the command takes.
    TooMuch(&'a str),
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word, nearest } => {
                write!(f, "there is no command `{word}`; ")?;
                match nearest {
                    Some(nearest) => write!(f, "did you mean `{nearest}`?"),
                    None => f.write_str("`help` lists them"),
                }
            }
            Self::NoGuest(command) => {
                write!(
                    f,
                    "`{command}` needs a guest's number, such as `{command} 1`; `list` has them"
                )
            }
            Self::BadGuest(word) => write!(
                f,
                "`{word}` names no guest; give its number, such as `1`, or `hello#1`; `list` has them"
            ),
            Self::TooMuch(word) => write!(f, "`{word}` is too much: one command a line, for one guest"),
        }
    }
}

impl core::error::Error for CommandError<'_> {}

impl<'a> Command<'a> {
    /// Reads a line; `None` when there is nothing on it.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn parse(line: &'a str) -> Result<Option<Self>, CommandError<'a>> {
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else {
            return Ok(None);
        };
        let mut guest = |command| {
            let word = words.next().ok_or(CommandError::NoGuest(command))?;
            Named::parse(word).ok_or(CommandError::BadGuest(word))
        };
        let command = match word {
            "help" => Self::Help,
            "list" => Self::List,
            "pause" => Self::Pause(guest("pause")?),
            "resume" => Self::Resume(guest("resume")?),
            "destroy" => Self::Destroy(guest("destroy")?),
            _ => {
                let nearest = nearest(word, NAMES);
                return Err(CommandError::Unknown { word, nearest });
            }
        };
        match words.next() {
            Some(word) => Err(CommandError::TooMuch(word)),
            None => Ok(Some(command)),
        }
    }
}

impl<'a> Named<'a> {
    fn parse(word: &'a str) -> Option<Self> {
        let (name, number) = match word.split_once('#') {
            Some(("", number)) => (None, number),
            Some((name, number)) => (Some(name), number),
            None => (None, word),
        };
        let instance = u32::try_from(value::number(number)?).ok()?;
        Some(Self { name, instance })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    const fn named(name: Option<&str>, instance: u32) -> Named<'_> {
        Named { name, instance }
    }

    #[test]
    fn commands() {
        for (line, command) in [
            ("", None),
            (" \t ", None),
            ("help", Some(Command::Help)),
            ("  list ", Some(Command::List)),
            ("pause 3", Some(Command::Pause(named(None, 3)))),
            ("resume #3", Some(Command::Resume(named(None, 3)))),
            (
                "destroy\thello#12",
                Some(Command::Destroy(named(Some("hello"), 12))),
            ),
        ] {
            assert_eq!(Command::parse(line), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn what_is_none_says_what_to_type() {
        for (line, says) in [
            ("pasue 3", "did you mean `pause`?"),
            ("reboot", "`help` lists them"),
            ("Destroy 1", "did you mean `destroy`?"),
            ("pause", "such as `pause 1`"),
            ("destroy hello", "`hello` names no guest"),
            ("destroy hello#", "`hello#` names no guest"),
            ("destroy -1", "`-1` names no guest"),
            ("resume 4294967296", "`4294967296` names no guest"),
            ("list 1", "`1` is too much"),
            ("pause 1 2", "`2` is too much"),
        ] {
            let text = Command::parse(line).map_err(|error| error.to_string());
            assert!(
                text.as_ref().is_err_and(|text| text.contains(says)),
                "{line:?}: {text:?}"
            );
        }
    }

    #[test]
    fn each_command_of_the_list_is_one() {
        for (name, (form, _)) in NAMES.iter().zip(COMMANDS) {
            assert_eq!(form.split(' ').next(), Some(*name));
            let line = form.replace("GUEST", "1");
            assert!(matches!(Command::parse(&line), Ok(Some(_))), "{line}");
            assert!(line.len() < MAX_COMMAND);
        }
    }
}
