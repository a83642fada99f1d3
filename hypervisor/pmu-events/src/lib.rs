//! Performance events about translations, and whether they count.
//!
//! [`tables`] has the events of each core as data, each table with its source; [`select`] encodes one for its register. A PMU that CPUID
//! advertises need not count: an emulator may fault on its registers or swallow writes, and a hypervisor may deny an event, or lose it to someone else,
//! without any sign but a counter that stays 0. So [`liveness`] tries each event before its figures are believed, through the trait
//! [`Counter`], which the hypervisor implements with its registers. Nothing here is privileged.
//!
//! **No table has been tried on hardware** by this project.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod liveness;
pub mod select;
pub mod tables;

pub use liveness::{Counter, Fault, Liveness, Work, try_event};
pub use select::{Select, Vendor};
pub use tables::{Event, Events, Metric, events_of};
