//! What Intel's virtualization offers and what a guest gets of it, as far as it is numbers (Intel SDM vol. 3C and 3D; sections as
//! numbered since 2023, when chapter 25 became the one of the VMCS).
//!
//! - [`capabilities`] reads the capability MSRs and says which of the things that guests need is missing.
//! - [`controls`] makes the values of the VMCS's control fields from them.
//! - [`control_registers`] says which bits of CR0 and CR4 a guest writes itself.
//! - [`quirks`] knows the CPUs that must not see certain tables.

pub mod capabilities;
pub mod control_registers;
pub mod controls;
pub mod quirks;
