//! The model machine: a machine for tests on which every failure to flush, every early reuse and every leak shows.
//!
//! No emulator keeps what real hardware may keep. Here every store to a table is noted (`journal`), and what a CPU may still use of
//! the old values is worked out exactly: any mix of entries that a walk could have read since that CPU's last flush (`reach`).
//!
//! [`ram`] is the memory, [`cpu`] one CPU's caches, [`tags`] who wrote each frame last, [`guests`] the second stages, `places` where each
//! table stands, `state` all of these. [`machine`] and [`hardware`] put them behind `memory`'s traits; [`board`] boots the way the
//! hypervisor does. Each store is judged when it happens (`watch`) and counted (`tally`); the whole state is judged, rule by rule, after each operation ([`check`]), and compared whole
//! ([`snapshot`]). [`world`] drives it: operations on several guests and CPUs, the state judged after each. [`mod@bench`] is for tests written by hand, of
//! one machine; [`scripted`] for those of the shootdown protocol alone, without a machine.
//!
//! The walker is that of `audit`, which is written from the manuals and shares nothing with `memory`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this crate is a test: a failed unwrap is a failed test"
)]

pub mod bench;
pub mod board;
pub mod check;
pub mod cpu;
pub mod guests;
pub mod hardware;
mod journal;
pub mod machine;
pub mod op;
mod places;
pub mod ram;
mod reach;
pub mod scripted;
pub mod snapshot;
mod state;
pub mod tags;
mod tally;
#[cfg(test)]
mod tests;
mod watch;
pub mod world;

pub use bench::Bench;
pub use board::{Board, Booted};
pub use check::{Rule, Violation};
pub use cpu::Fault;
pub use guests::TableKind;
pub use hardware::ModelCpu;
pub use machine::ModelMachine;
pub use op::Op;
pub use scripted::Scripted;
pub use snapshot::Snapshot;
pub use tags::Writer;
pub use world::World;
