//! Launching guests, running them side by side on all CPUs, taking them down.
//!
//! The [`queue`] says what to launch next, from command line and archive; [`launch`] turns a file into a [`live`] guest with
//! private memory and a vCPU. The [`world`] is what the CPUs share: a run queue for each, and what is due. Each CPU is a [`worker`]: it runs
//! its guests in place, in random order, one [`turn`] after the other, answers their hypercalls, prints what they say
//! ([`report::GuestText`]), and takes each down when it ends, while the others live on. To look at everybody, it [`stop`]s all CPUs.

pub mod launch;
mod live;
mod queue;
mod stop;
mod turn;
mod worker;
mod world;

pub use live::{Label, Loading};
pub use worker::{Worker, work_for_ever};
pub use world::{Report, World, WorldError};
