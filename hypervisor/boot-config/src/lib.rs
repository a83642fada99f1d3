//! The hypervisor's command line, parsed the same way by the hypervisor and by `cargo xtask`.
//!
//! Data passes through in this order: [`Config::from_bytes`] cuts the line into words (`config`); each word is looked up in
//! the table of parameters (`parameter`); a `guest=` word becomes a [`GuestSpec`] (`guest`), made of a name and a
//! [`Launch`] whose fields are read by `value` (sizes, times, numbers) and `ending` (how a guest is expected to end).
//! What is wrong becomes an [`Error`] (`error`) that says which parameter, where, and what would be accepted;
//! a misspelled word names its nearest neighbour (`nearest`). What is typed while guests run is a [`Command`] (`command`).
//!
//! No allocation and no panic on any input. `docs/command-line.md` lists every parameter; a test compares it with the tables.
#![no_std]

mod command;
mod config;
mod ending;
mod error;
mod guest;
mod nearest;
mod parameter;
mod value;

pub use command::{COMMANDS, COMMANDS_ARE_TAKEN, Command, CommandError, MAX_COMMAND, Named};
pub use config::{
    ACTIONS, Config, Hook, MAX_COMMAND_LINE, MAX_GUESTS, Pauses, Phase, Policy, Stress, Traces,
};
pub use ending::{Ending, Expected};
pub use error::{Error, Problem};
pub use guest::{
    GuestSpec, Launch, MAX_COUNT, MAX_LIMIT, MAX_MEMORY, MAX_NAME, MAX_VCPUS, MEMORY_STEP, MIN_MEMORY,
};
pub use nearest::nearest;
pub use parameter::{FIELDS, PARAMETERS, Parameter};
pub use value::size as parse_size;
