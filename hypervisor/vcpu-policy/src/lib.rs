//! What a guest may see of the CPU, and how its intercepted instructions are decoded.
//!
//! No privileged instruction, no vendor's control block: values in, values out, so that everything here is tested on the
//! developer's machine. `virt` in the hypervisor calls it, in this order at an exit:
//!
//! - [`fetch`] finds the bytes at RIP through the guest's own tables ([`paging_walk`]), where the CPU does not hand them over.
//! - [`instruction`] decodes them: length, and the source register of a move to CR0 or CR4.
//! - [`cpuid`], [`msr`], [`port`], [`cr0`], [`cr4`], [`xcr0`] and [`debug_registers`] say what the instruction gives the guest: a value or a
//!   [`Fault`].
//!
//! Before an entry, [`asid`] says under which tag the TLB keeps the guest's translations and what must be flushed. [`vmx`] is what only
//! Intel's virtualization needs.
//!
//! Design rule: guest RAM is write-back whatever the guest asks. So PAT is a number that the guest may keep, CR0.CD and CR0.NW
//! read as zero, and there are no MTRRs.
#![cfg_attr(not(test), no_std)]

pub mod asid;
pub mod cpuid;
pub mod cr0;
pub mod cr4;
pub mod debug_registers;
pub mod fetch;
pub mod instruction;
pub mod msr;
pub mod paging_walk;
pub mod port;
pub mod vmx;
pub mod xcr0;

/// The exception that a guest gets in place of an instruction's effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// #GP with error code 0.
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
}
