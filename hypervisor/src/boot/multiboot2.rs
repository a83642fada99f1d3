//! Multiboot2: the loader's information becomes a [`BootInfo`]. The crate `multiboot-info` reads it; this file says where it is, and
//! which addresses can be used.

use core::fmt::Write as _;

use heapless::String;
use memory::address::Hpa;

use super::early_memory::EarlyMemory;
use super::info::{BootError, BootInfo, COMMAND_LINE_BYTES, LOADER_BYTES, MapTable};

/// Longest information that is believed. GRUB's with 128 ranges of memory has 6 KiB; a loader that adds the ELF sections and the
/// network's answers stays below this.
const MAX_BYTES: u32 = 1 << 20;

/// Reads what a multiboot2 loader left at `start`.
///
/// # Errors
/// A [`BootError`] that says what is wrong or missing.
///
/// # Safety
/// The early tables must be active. As long as the returned value is in use, the information must stay readable at
/// `DIRECT_MAP_BASE` and unwritten: keep the ranges in `keep` out of the allocator.
pub unsafe fn read(start: Hpa) -> Result<BootInfo, BootError> {
    // SAFETY: the caller vouches for the mapping.
    let memory = unsafe { EarlyMemory::new() };
    let beyond = |beyond| BootError::Beyond("multiboot2 information", beyond);
    let total: u32 = memory.read(start).map_err(beyond)?;
    let bytes = u64::from(total.min(MAX_BYTES).next_multiple_of(8));
    let at = memory.translate(start, bytes).map_err(beyond)?;
    let pointer = core::ptr::with_exposed_provenance::<u8>(at.get() as usize);
    // SAFETY: `translate` checked that the range is mapped; the caller vouches that nobody writes to it.
    let information = unsafe { core::slice::from_raw_parts(pointer, bytes as usize) };
    let found = multiboot_info::read(information).map_err(BootError::Information)?;
    if found.boot_services {
        return Err(BootError::BootServices);
    }

    let place = |offset: u32| Hpa::new(start.get() + u64::from(offset));
    let map = found.memory_map.ok_or(BootError::NoMemoryMap)?;
    let map = MapTable {
        start: place(map.offset),
        entries: map.entries,
        stride: map.stride,
    };
    let mut info = BootInfo::new(memory, &loader(found.loader), map)?;
    info.keep("multiboot2 information", start, bytes)?;
    // A copy, but as good as the original: the tables that it points to are the firmware's.
    info.rsdp = found.rsdp.map(place);
    info.command_line = command_line(found.command_line)?;
    if found.modules > 1 {
        return Err(BootError::Modules(found.modules));
    }
    if let Some(module) = found.module {
        info.set_module(Hpa::new(module.start.into()), (module.end - module.start).into())?;
    }
    Ok(info)
}

/// The loader's name; what is not printable becomes a question mark.
fn loader(name: &[u8]) -> String<LOADER_BYTES> {
    let mut text = String::new();
    // A name that is too long is cut: it is only printed.
    let _ = text.write_str("multiboot2");
    if !name.is_empty() {
        let _ = text.write_str(", ");
    }
    for byte in name {
        let printable = byte.is_ascii_graphic() || *byte == b' ';
        if text
            .push(if printable { char::from(*byte) } else { '?' })
            .is_err()
        {
            break;
        }
    }
    text
}

/// The command line as ASCII text.
fn command_line(bytes: &[u8]) -> Result<String<COMMAND_LINE_BYTES>, BootError> {
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii() {
            return Err(BootError::CommandLineText(place));
        }
        text.push(char::from(*byte))
            .map_err(|_| BootError::CommandLineLength)?;
    }
    Ok(text)
}
