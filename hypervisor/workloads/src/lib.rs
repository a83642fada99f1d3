//! What the host's own work touches through the direct map: streams of addresses, seeded, the same on the developer's machine (where a
//! model of the TLB takes them) and in the hypervisor (where they are loaded and stored).
//!
//! [`Ground`] says which memory is the host's; it never gives a hidden frame. A [`Workload`] is a kind of work, and [`Stream`] its addresses
//! on some ground, one [`Access`] after the other, without end. Nothing is stored: page number i of a set is a function of the seed and
//! i, so a set can be all of RAM.
//!
//! What the hypervisor needs besides to time them: [`Near`] finds the memory next to what is hidden, [`Quantiles`] and [`Probe`] say what times mean, and
//! [`why_no_time`] where they mean nothing.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod ground;
mod latency;
mod near;
mod random;
mod stream;

pub use ground::{Extent, Ground, Ram};
pub use latency::{Entries, PROBED, Probe, Quantiles, why_no_time};
pub use near::{Block, Near};
pub use random::mix;
pub use stream::{Access, Kind, LINE, PAYLOAD_LINES, Stream, TABLES, Workload};
