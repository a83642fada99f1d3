//! From the loader to Rust: the entry code and what the loader and the firmware said.
//!
//! In the order of use:
//! - `entry`: 32-bit PVH entry; checks the CPU, zeroes .bss, builds the early tables, calls `rust_entry` in the high half.
//! - `image`: where the sections of the image are.
//! - `early_memory`: reading physical memory below 4 GiB through the early tables.
//! - `pvh`: `hvm_start_info` becomes a `BootInfo`.
//! - `info`: `BootInfo`, the same for every loader, and the firmware's memory map.
//! - `acpi`: the RSDP leads to the MADT, and that to a `Platform`: the CPUs and the local APIC.

pub mod acpi;
pub mod early_memory;
mod entry;
pub mod image;
pub mod info;
pub mod pvh;
