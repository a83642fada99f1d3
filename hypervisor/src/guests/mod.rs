//! Launching guests, running them side by side on all CPUs, taking them down.
//!
//! The [`queue`] says what to launch next, from command line and archive; [`launch`] turns a file into a [`guest`] with private memory ([`backing`]) and
//! a first [`vcpu`]; it may start others. The [`world`] is what the CPUs share: a run queue of vCPUs for each ([`list`]), and what is due.
//! Each CPU is a [`worker`]: it runs its vCPUs in place, in random order, one [`turn`] after the other, does what they ask for
//! ([`hypercalls`]), and retires those of a guest that has ended; whoever retires the last one takes the guest down. Where memory lacks,
//! the [`pressure`] takes what is kept for guests' pages. An [`operator`] may pause, resume and destroy guests ([`lifecycle`]). To look at
//! everybody, a CPU [`stop`]s all.

pub mod backing;
mod change;
#[cfg(feature = "test-hooks")]
mod control;
mod faults;
mod guest;
mod hypercalls;
mod launch;
mod lifecycle;
mod list;
mod operator;
mod pressure;
mod queue;
mod stop;
mod turn;
mod vcpu;
mod worker;
mod world;

pub use guest::{Counts, Label, Loading};
pub use worker::{Worker, work_for_ever};
pub use world::{Report, World, WorldError};
