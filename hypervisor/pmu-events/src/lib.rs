//! Performance events about translations, and whether they count.
//!
//! Data passes in this order: [`Unit::detect`] asks CPUID which counters there should be and looks up the core's events ([`tables`], each with its
//! source; [`select`] encodes one for its register). A PMU that CPUID advertises need not count: an emulator may fault on its registers or swallow
//! writes, and a hypervisor may deny an event, or lose it to someone else, without any sign but a counter that stays 0. So
//! [`Pmu::open`] takes the counters that nobody uses, [`Pmu::survey`] tries each event ([`liveness`]) before its figures are believed, and
//! [`Pmu::count`] counts up to four live ones over a window. Dropping the [`Pmu`] puts all registers back.
//!
//! Registers are reached through the trait [`Registers`], each access of which may fault; nothing here is privileged.
//!
//! **No table has been tried on hardware** by this project.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod driver;
pub mod liveness;
pub mod select;
pub mod tables;
mod unit;

pub use driver::{MOST_AT_ONCE, MOST_EVENTS, Pmu, Registers, State, passes};
pub use liveness::{Counter, Death, Fault, Liveness, Work, try_event};
pub use select::{Select, Vendor};
pub use tables::{Event, Events, Metric, events_of};
pub use unit::{Absence, Interface, Unit};
