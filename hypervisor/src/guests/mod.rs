//! Launching guests, running them side by side, taking them down.
//!
//! The [`queue`] says what to launch next, from command line and archive; [`launch`] turns a file into a [`live`] guest with
//! private memory and a vCPU; the [`scheduler`] runs the live ones in place, in random order, slice by slice, answers their
//! hypercalls, prints what they say ([`report::GuestText`]), and takes each down when it ends, while the others live on.

pub mod launch;
mod live;
mod queue;
mod scheduler;

pub use live::{Label, Loading};
pub use scheduler::{Scheduler, Setup};
