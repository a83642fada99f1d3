//! From the loader to Rust: the entry code and what the loader and the firmware said.
//!
//! In the order of use:
//! - `entry`: the headers that loaders look for, and their 32-bit entries; checks the CPU, zeroes .bss, builds the early tables,
//!   calls `rust_entry` in the high half.
//! - `image`: where the sections of the image are.
//! - `early_memory`: reading physical memory below 4 GiB through the early tables.
//! - `pvh`: `hvm_start_info` becomes a `BootInfo`. It comes from QEMU's `-kernel`, or from our boot disk (package `disk-boot`).
//! - `multiboot2`: a multiboot2 loader's information becomes a `BootInfo`. It comes from GRUB.
//! - `info`: `BootInfo`, the same for every loader, and the firmware's memory map.
//! - `trampoline`: the first instructions of every other CPU, and the hand-over to it.
//! - `acpi`: the RSDP leads to the MADT, and that to a `Platform`: the CPUs and the local APIC.

pub mod acpi;
pub mod early_memory;
mod entry;
pub mod image;
pub mod info;
mod multiboot2;
mod pvh;
pub mod trampoline;

use memory::address::Hpa;

use info::{BootError, BootInfo};

/// Reads what the loader left at `at`; `magic` is how the entry code knows it.
///
/// # Errors
/// A [`BootError`] that says what is wrong or missing.
///
/// # Safety
/// The early tables must be active. As long as the returned value is in use, keep the ranges in its `keep` out of the allocator.
pub unsafe fn read(magic: u32, at: Hpa) -> Result<BootInfo, BootError> {
    match magic {
        ::pvh::start_info::START_MAGIC_VALUE => {
            // SAFETY: the caller vouches for it.
            unsafe { pvh::read(at) }
        }
        multiboot_info::MAGIC => {
            // SAFETY: the caller vouches for it.
            unsafe { multiboot2::read(at) }
        }
        other => Err(BootError::Loader(other)),
    }
}
