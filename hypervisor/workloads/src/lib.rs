//! What the host's own work touches through the direct map: streams of addresses, seeded, the same on the developer's machine (where a
//! model of the TLB takes them) and in the hypervisor (where they are loaded and stored).
//!
//! [`Ground`] says which memory is the host's; it never gives a hidden frame. A [`Workload`] is a kind of work, and [`Stream`] its addresses
//! on some ground, one [`Access`] after the other, without end. Nothing is stored: page number i of a set is a function of the seed and
//! i, so a set can be all of RAM.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod ground;
mod random;
mod stream;

pub use ground::{Extent, Ground, Ram};
pub use random::mix;
pub use stream::{Access, Kind, LINE, PAYLOAD_LINES, Stream, TABLES, Workload};
