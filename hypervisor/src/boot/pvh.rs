//! PVH: `hvm_start_info` becomes a [`BootInfo`].
//!
//! The structures are those of Xen's `xen/include/public/arch-x86/hvm/start_info.h`, here as the crate `pvh` has them. Its reader
//! trusts the addresses in them; this one checks each.

use memory::address::Hpa;
use pvh::start_info::{MemmapTableEntry, ModlistEntry, START_MAGIC_VALUE, StartInfo};

use super::early_memory::{EarlyMemory, Plain};
use super::info::{BootError, BootInfo, COMMAND_LINE_BYTES, MapTable};

// SAFETY: integers and a bit set over u32, whose bits are all allowed.
unsafe impl Plain for StartInfo {}
// SAFETY: integers only.
unsafe impl Plain for ModlistEntry {}

/// Reads what a PVH loader left at `start_info`.
///
/// # Errors
/// A [`BootError`] that says what is wrong or missing.
///
/// # Safety
/// The early tables must be active. As long as the returned value is in use, the memory map table must stay readable at
/// `DIRECT_MAP_BASE` and unwritten: keep the ranges in `keep` out of the allocator.
pub unsafe fn read(start_info: Hpa) -> Result<BootInfo, BootError> {
    // SAFETY: the caller vouches for the mapping.
    let memory = unsafe { EarlyMemory::new() };
    let beyond = |what| move |beyond| BootError::Beyond(what, beyond);

    let magic: u32 = memory.read(start_info).map_err(beyond("start info"))?;
    if magic != START_MAGIC_VALUE {
        return Err(BootError::Magic(magic));
    }
    let start: StartInfo = memory.read(start_info).map_err(beyond("start info"))?;
    // The memory map came with version 1; before, the structure ends where these two fields are.
    let (map, entries) = if start.version >= 1 {
        (start.memmap_paddr, start.memmap_entries)
    } else {
        (0, 0)
    };
    let map = MapTable {
        start: Hpa::new(map),
        entries,
        stride: size_of::<MemmapTableEntry>() as u32,
    };
    let mut info = BootInfo::new(memory, "PVH", map)?;
    info.keep("start info", start_info, size_of::<StartInfo>() as u64)?;
    info.rsdp = (start.rsdp_paddr != 0).then_some(Hpa::new(start.rsdp_paddr));

    if start.cmdline_paddr != 0 {
        let text = Hpa::new(start.cmdline_paddr);
        copy_command_line(memory, text, &mut info)?;
        info.keep("command line", text, info.command_line.len() as u64 + 1)?;
    }

    if start.nr_modules > 1 {
        return Err(BootError::Modules(start.nr_modules));
    }
    if start.nr_modules == 1 && start.modlist_paddr != 0 {
        let module: ModlistEntry = memory
            .read(Hpa::new(start.modlist_paddr))
            .map_err(beyond("module list"))?;
        info.set_module(Hpa::new(module.paddr), module.size)?;
    }
    Ok(info)
}

/// Copies the zero-terminated ASCII text at `text`.
fn copy_command_line(memory: EarlyMemory, text: Hpa, info: &mut BootInfo) -> Result<(), BootError> {
    for place in 0..=COMMAND_LINE_BYTES {
        let hpa = Hpa::new(text.get().saturating_add(place as u64));
        let byte: u8 = memory
            .read(hpa)
            .map_err(|beyond| BootError::Beyond("command line", beyond))?;
        if byte == 0 {
            return Ok(());
        }
        if !byte.is_ascii() {
            return Err(BootError::CommandLineText(place));
        }
        info.command_line
            .push(char::from(byte))
            .map_err(|_| BootError::CommandLineLength)?;
    }
    Err(BootError::CommandLineLength)
}
