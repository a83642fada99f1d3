//! What hypervisor and guests agree on; also used by the tools that look at a machine from outside.
//!
//! In the order in which a guest meets it:
//!
//! - [`launch_area`]: where in guest-physical memory the hypervisor puts what a guest starts with.
//! - [`LaunchInfo`]: the page that tells a guest its memory size, its own extent, its instance number and the run's seed.
//! - [`cpuid`]: the leaves by which a guest recognises Lacuna.
//! - [`Hypercall`]: numbers, arguments and errors of the calls a guest may make, with the decoder for the hypervisor and the
//!   encoder for guests.
//! - [`pattern`]: words that say which instance wrote them at which address, so that a fragment is recognised anywhere in RAM.
//!
//! Nothing here is privileged and nothing panics on input. Addresses are plain `u64`: guests and tools use this crate without
//! the `memory` package.
#![cfg_attr(not(test), no_std)]

pub mod cpuid;
mod hypercall;
pub mod launch_area;
mod launch_info;
pub mod pattern;

pub use hypercall::{
    Arguments, Hypercall, HypercallError, PRINT_MAX, PRINT_SHARED_MAX, Pages, ReportName, Text, VcpuStart,
    number,
};
pub use launch_info::{LAUNCH_MAGIC, LaunchInfo, LaunchInfoError};

/// Version of everything in this crate; in [`LaunchInfo`] and in CPUID leaf [`cpuid::LEAF_ABI`].
///
/// It grows by one when a guest built for an older version could go wrong.
pub const ABI_VERSION: u32 = 1;
