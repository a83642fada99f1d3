//! Where the sections of the image are, from the symbols of `linker.ld`.

use core::ffi::c_void;

use memory::address::{Hpa, Hva};
use memory::layout::IMAGE_BASE;

use crate::cpu::stack::Stack;

/// Bytes of the stack on which `rust_entry` starts. Bring-up was measured to use 33 KiB in a release build and more than 64 KiB in an
/// unoptimised one, and below it are the early tables, without a guard page.
pub const BOOT_STACK_BYTES: u64 = 256 * 1024;

// SAFETY: `linker.ld` and `entry` define these symbols; only their addresses are used, never what is stored there.
unsafe extern "C" {
    static __text_start: c_void;
    static __text_end: c_void;
    static __rodata_start: c_void;
    static __rodata_end: c_void;
    static __data_start: c_void;
    static __data_end: c_void;
    static __bss_start: c_void;
    static __bss_end: c_void;
    static boot_stack_bottom: c_void;
    static boot_stack_top: c_void;
    static boot_gdt: c_void;
}

/// One page-aligned run of the image with the same access rights.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The linker's name for it.
    pub name: &'static str,
    /// First byte.
    pub start: Hva,
    /// One past the last byte; a page boundary.
    pub end: Hva,
    /// Whether code writes to it.
    pub writable: bool,
    /// Whether code runs from it.
    pub executable: bool,
}

impl Section {
    /// Host-physical address of the first byte.
    pub const fn hpa(&self) -> Hpa {
        Hpa::new(self.start.get() - IMAGE_BASE.get())
    }

    /// Bytes from start to end.
    pub const fn bytes(&self) -> u64 {
        self.end.get() - self.start.get()
    }
}

fn address(symbol: *const c_void) -> Hva {
    Hva::new(symbol.addr() as u64)
}

/// The sections in ascending order, without gaps between them beyond page alignment: code, constants, data, zeroed data.
pub fn sections() -> [Section; 4] {
    let section = |name, start, end, writable, executable| Section {
        name,
        start: address(start),
        end: address(end),
        writable,
        executable,
    };
    [
        section(
            "text",
            &raw const __text_start,
            &raw const __text_end,
            false,
            true,
        ),
        section(
            "rodata",
            &raw const __rodata_start,
            &raw const __rodata_end,
            false,
            false,
        ),
        section(
            "data",
            &raw const __data_start,
            &raw const __data_end,
            true,
            false,
        ),
        section("bss", &raw const __bss_start, &raw const __bss_end, true, false),
    ]
}

/// Whether an address lies in the image's code.
pub fn is_code(hva: Hva) -> bool {
    address(&raw const __text_start) <= hva && hva < address(&raw const __text_end)
}

/// The stack on which `rust_entry` starts; part of .bss.
pub fn boot_stack() -> Stack {
    // SAFETY: the symbols bound a part of .bss that nothing else uses, and the image stays mapped.
    unsafe {
        Stack::new(
            address(&raw const boot_stack_bottom),
            address(&raw const boot_stack_top),
        )
    }
}

/// The address of the descriptor table that the entry code loads.
pub fn boot_gdt_address() -> Hva {
    address(&raw const boot_gdt)
}
