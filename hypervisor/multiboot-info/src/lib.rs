//! What a multiboot2 loader hands over: from the bytes of its information to the few things that are used.
//!
//! The crate `multiboot2` checks the chain of tags: every tag lies inside the information, and the last one ends it. Its typed
//! accessors then panic on tags with odd sizes, so [`read`] takes the tags' bytes and does the rest here. The formats are those of
//! the Multiboot2 Specification 2.0, section 3.4 "Boot information format".
//!
//! [`read`] is the one way in; it returns an [`Information`] or an [`InformationError`] and never panics. Addresses in the result
//! are the loader's word: whoever uses them checks them. Places inside the information are offsets from its first byte, since the
//! memory map and the ACPI root pointer are used where they lie.
#![cfg_attr(not(test), no_std)]

mod tags;

use core::fmt;

pub use multiboot2::MAGIC;
pub use tags::read;

/// What the loader hands over, as far as it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Information<'a> {
    /// Command line without its final zero; empty when there is none. Any bytes but zero.
    pub command_line: &'a [u8],
    /// Name of the loader, for people; empty when it does not say. Any bytes but zero.
    pub loader: &'a [u8],
    /// The first module.
    pub module: Option<Module>,
    /// Number of modules.
    pub modules: u32,
    /// The firmware's memory map.
    pub memory_map: Option<MemoryMap>,
    /// Offset of a copy of ACPI's root pointer; the newer kind (tag 15) where there are both. Its contents are not checked.
    pub rsdp: Option<u32>,
    /// UEFI's boot services still run, and own the memory.
    pub boot_services: bool,
}

/// One module, at least one byte long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Physical address of its first byte.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// Where the entries of the memory map lie: all of them inside the information.
///
/// An entry begins with first byte (u64), bytes (u64) and kind (u32, the numbers of ACPI 6.5, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// Offset of the first entry.
    pub offset: u32,
    /// Bytes from one entry to the next, at least [`MemoryMap::ENTRY_BYTES`].
    pub stride: u32,
    /// Number of entries.
    pub entries: u32,
}

impl MemoryMap {
    /// Bytes of an entry that are used; the specification pads them to 24 and lets later versions append more.
    pub const ENTRY_BYTES: u32 = 20;
}

/// Why the information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InformationError {
    /// It does not begin on a multiple of 8, its length is impossible, or a tag reaches beyond its end.
    Chain,
    /// No tag ends it.
    NoEnd,
    /// The tag of this type is too short for what it must hold.
    TagTooShort(u32),
    /// A text in the tag of this type has no final zero.
    TextWithoutEnd(u32),
    /// The memory map's entries are said to have this size.
    EntrySize(u32),
    /// A module ends before it begins: first byte and end.
    ModuleRange(u32, u32),
}

impl fmt::Display for InformationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the loader's multiboot2 information is damaged: ")?;
        match self {
            Self::Chain => f.write_str("its tags do not fit into it"),
            Self::NoEnd => f.write_str("it has no end tag"),
            Self::TagTooShort(tag) => write!(f, "tag {tag} is too short"),
            Self::TextWithoutEnd(tag) => write!(f, "the text of tag {tag} has no end"),
            Self::EntrySize(bytes) => write!(f, "an entry of its memory map is said to have {bytes} bytes"),
            Self::ModuleRange(start, end) => {
                write!(f, "a module is said to lie from {start:#x} to {end:#x}")
            }
        }
    }
}
