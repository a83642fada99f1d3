//! Lacuna's memory subsystem: it owns the host's direct map, the frames behind it and the memory behind the guests.
//!
//! Data flows one way: the firmware's map ([`memory_map`]) becomes frames ([`frame`]) and, at boot, page tables
//! ([`paging`]); the direct map ([`direct_map`]) loses and regains regions ([`region`]) in batches ([`tlb`]); a guest's memory
//! ([`guest`]) is made of regions that the host reaches only through windows ([`window`]). [`host`] holds it all together,
//! [`stats`] counts, [`view`] shows, [`trace`] tells. The machine below is a trait ([`machine`]): real instructions in the hypervisor, the crate
//! `model-machine` in tests.
//!
//! For comparison, [`baseline`] hides memory the way Linux does, page by page.
//!
//! There is no privileged instruction and no `unsafe` here, so all of it runs on the host under test.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod baseline;
pub mod direct_map;
#[cfg(test)]
mod fake;
pub mod frame;
pub mod guest;
pub mod host;
pub mod layout;
pub mod machine;
pub mod memory_map;
pub mod paging;
pub mod region;
pub mod stats;
#[cfg(feature = "test-interface")]
pub mod testing;
pub mod tlb;
pub mod trace;
pub mod view;
pub mod window;

pub use host::HostMemory;

/// The code in the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
