//! What the memory subsystem costs, measured natively: in time by `benches/times.rs` (criterion), in instructions by `src/bin/counts.rs`
//! and `src/bin/ordinary.rs` (under callgrind). `cargo xtask bench native` runs all of it and prints one table.
//!
//! [`machine`] is a machine made for it: RAM in an ordinary sparse mapping, tables used in place, no caches to be told anything.
//! [`board`] boots the memory subsystem on it, [`zeroing`] has the ways to zero memory, [`ordinary`] is the sequence of host allocations
//! that is counted with and without regions, and [`counting`] the frame around what callgrind counts. [`threads`] has CPUs, a thread each, that
//! share the pool behind their magazines.

pub mod board;
pub mod counting;
pub mod machine;
pub mod ordinary;
pub mod threads;
pub mod zeroing;

pub use board::Board;
pub use machine::NativeMachine;
