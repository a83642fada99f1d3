//! From tags to an [`Information`].

use multiboot2::{BootInformation, BootInformationHeader, LoadError, TagType};

use crate::{Information, InformationError, MemoryMap, Module};

/// Bytes before a tag's contents: its type and its size.
const TAG_HEADER: u32 = 8;
/// Bytes before the memory map's entries: size and version of an entry.
const MAP_HEADER: u32 = 8;
/// Bytes before a module's text: first byte and end.
const MODULE_HEADER: u32 = 8;
/// Bytes of the old root pointer, and of the later ones (ACPI 6.5, 5.2.5.3, table 5.3).
const RSDP_V1: usize = 20;
const RSDP_V2: usize = 36;

/// Reads the information that starts at the first of `bytes`, which may be followed by anything.
///
/// # Errors
/// An [`InformationError`], when it contradicts itself.
pub fn read(bytes: &[u8]) -> Result<Information<'_>, InformationError> {
    let total = word(bytes, 0).ok_or(InformationError::Chain)? as usize;
    if total < size_of::<BootInformationHeader>() || total.next_multiple_of(8) > bytes.len() {
        return Err(InformationError::Chain);
    }
    // SAFETY: the size that it reports, which is all that is read, lies in `bytes`, which nobody changes while it is borrowed.
    // Alignment and the tags' own sizes are checked by `load`.
    let information =
        unsafe { BootInformation::load(bytes.as_ptr().cast()) }.map_err(|error| match error {
            LoadError::NoEndTag => InformationError::NoEnd,
            _ => InformationError::Chain,
        })?;

    let mut found = Information::default();
    let mut old_rsdp = None;
    let mut at = size_of::<BootInformationHeader>() as u32;
    for tag in information.tags() {
        let header = *tag.header();
        let place = at + TAG_HEADER;
        // `load` has checked that all tags lie within the total size, so this neither overflows nor leaves `bytes`.
        at += header.size.next_multiple_of(8);
        let start = place as usize;
        let contents = bytes.get(start..start + tag.payload().len()).unwrap_or_default();
        let kind = header.typ.get();
        match TagType::from(header.typ) {
            TagType::Cmdline => found.command_line = text(kind, contents)?,
            TagType::BootLoaderName => found.loader = text(kind, contents)?,
            TagType::Module => {
                found.modules += 1;
                let module = module(kind, contents)?;
                found.module = found.module.or(module);
            }
            TagType::Mmap => found.memory_map = Some(memory_map(kind, place, contents)?),
            TagType::AcpiV1 if contents.len() >= RSDP_V1 => old_rsdp = Some(place),
            TagType::AcpiV2 if contents.len() >= RSDP_V2 => found.rsdp = Some(place),
            TagType::AcpiV1 | TagType::AcpiV2 => return Err(InformationError::TagTooShort(kind)),
            TagType::EfiBs => found.boot_services = true,
            TagType::End => break,
            _ => {}
        }
    }
    found.rsdp = found.rsdp.or(old_rsdp);
    Ok(found)
}

/// The little-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*four))
}

/// The bytes before the first zero, which must be there.
fn text(tag: u32, contents: &[u8]) -> Result<&[u8], InformationError> {
    let end = contents.iter().position(|byte| *byte == 0);
    end.and_then(|end| contents.get(..end))
        .ok_or(InformationError::TextWithoutEnd(tag))
}

/// A module; `None` for one of no bytes.
fn module(tag: u32, contents: &[u8]) -> Result<Option<Module>, InformationError> {
    let too_short = InformationError::TagTooShort(tag);
    if contents.len() < MODULE_HEADER as usize {
        return Err(too_short);
    }
    let start = word(contents, 0).ok_or(too_short)?;
    let end = word(contents, 4).ok_or(too_short)?;
    if end < start {
        return Err(InformationError::ModuleRange(start, end));
    }
    Ok((end > start).then_some(Module { start, end }))
}

/// The memory map whose tag's contents start at `place`.
fn memory_map(tag: u32, place: u32, contents: &[u8]) -> Result<MemoryMap, InformationError> {
    let too_short = InformationError::TagTooShort(tag);
    let stride = word(contents, 0).ok_or(too_short)?;
    let bytes = (contents.len() as u32).checked_sub(MAP_HEADER).ok_or(too_short)?;
    // "It is guaranteed to be a multiple of 8": whatever isn't, isn't a memory map.
    if stride < MemoryMap::ENTRY_BYTES || !stride.is_multiple_of(8) {
        return Err(InformationError::EntrySize(stride));
    }
    Ok(MemoryMap {
        offset: place + MAP_HEADER,
        stride,
        entries: bytes / stride,
    })
}
