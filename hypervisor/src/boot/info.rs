//! What a loader hands over, in a form that does not depend on the loader.

use core::fmt;

use heapless::{String, Vec};
use memory::address::Hpa;
use multiboot_info::InformationError;

use super::early_memory::{BeyondEarlyMap, EARLY_BYTES, EarlyMemory};

/// Longest command line, in bytes, that is accepted. Twice what QEMU's loader takes without damage (measured: 5000 bytes
/// overwrote its start_info, 1500 did not).
pub const COMMAND_LINE_BYTES: usize = 2047;
/// Longest description of the loader, in bytes; the rest is cut.
pub const LOADER_BYTES: usize = 64;
/// Physical ranges a loader can ask to keep: start info, memory map, command line, module, and room for more kinds.
pub const KEEP_RANGES: usize = 8;

/// What the firmware says a range is for (ACPI 6.5, 15.3, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram,
    /// In use by the firmware or devices.
    Reserved,
    /// ACPI tables; RAM once they have been read.
    AcpiReclaim,
    /// Kept by the firmware across sleep.
    AcpiNvs,
    /// RAM with errors.
    Unusable,
    /// Another type number.
    Other(u32),
}

impl From<u32> for MemoryKind {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            2 => Self::Reserved,
            3 => Self::AcpiReclaim,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            other => Self::Other(other),
        }
    }
}

/// One entry of the firmware's memory map as it stands there: unsorted, maybe overlapping, maybe not page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareRange {
    /// First byte.
    pub start: Hpa,
    /// Bytes; the end may wrap past 64 bits in a broken map.
    pub bytes: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// Where a loader left the firmware's memory map.
///
/// PVH's and multiboot2's entries begin alike: first byte (u64), bytes (u64), kind (u32). They differ in what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapTable {
    /// The first entry.
    pub start: Hpa,
    /// Number of entries.
    pub entries: u32,
    /// Bytes from one entry to the next, at least [`ENTRY_BYTES`].
    pub stride: u32,
}

/// Bytes of an entry of the memory map that are read.
const ENTRY_BYTES: u64 = 20;

/// Iterates over the firmware's memory map where the loader left it.
#[derive(Clone, Debug)]
pub struct FirmwareMap<'a> {
    info: &'a BootInfo,
    next: u32,
}

impl Iterator for FirmwareMap<'_> {
    type Item = FirmwareRange;

    fn next(&mut self) -> Option<FirmwareRange> {
        let table = self.info.map;
        if self.next >= table.entries {
            return None;
        }
        let entry = u64::from(self.next) * u64::from(table.stride);
        let at = |offset| table.start.checked_add(entry + offset);
        // `BootInfo::new` has checked that the whole table is readable, so no step ends the walk early.
        let memory = self.info.memory;
        let start: u64 = memory.read(at(0)?).ok()?;
        let bytes: u64 = memory.read(at(8)?).ok()?;
        let kind: u32 = memory.read(at(16)?).ok()?;
        self.next += 1;
        Some(FirmwareRange {
            start: Hpa::new(start),
            bytes,
            kind: kind.into(),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.info.map.entries - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for FirmwareMap<'_> {}

/// A physical range that must not be reused before what it holds has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepRange {
    /// What it holds, for messages.
    pub what: &'static str,
    /// First byte.
    pub start: Hpa,
    /// Bytes, not zero.
    pub bytes: u64,
}

/// What the loader handed over.
#[derive(Debug)]
pub struct BootInfo {
    /// How we were started, for the report: printable ASCII.
    pub loader: String<LOADER_BYTES>,
    /// The command line; empty when there is none.
    pub command_line: String<COMMAND_LINE_BYTES>,
    /// The guest archive: first byte and bytes. It may lie anywhere in RAM.
    pub module: Option<(Hpa, u64)>,
    /// ACPI's root pointer, when the loader knows it.
    pub rsdp: Option<Hpa>,
    /// What must not be reused.
    pub keep: Vec<KeepRange, KEEP_RANGES>,
    memory: EarlyMemory,
    map: MapTable,
}

impl BootInfo {
    /// An empty record around a memory map table.
    ///
    /// # Errors
    /// [`BootError::NoMemoryMap`] when the table is empty, [`BootError::Beyond`] when it is not readable now.
    pub(super) fn new(memory: EarlyMemory, loader: &str, map: MapTable) -> Result<Self, BootError> {
        if map.start.get() == 0 || map.entries == 0 {
            return Err(BootError::NoMemoryMap);
        }
        // The last entry need not be followed by the gap to a next one.
        let bytes = u64::from(map.entries - 1) * u64::from(map.stride) + ENTRY_BYTES;
        memory
            .translate(map.start, bytes)
            .map_err(|beyond| BootError::Beyond("memory map", beyond))?;
        let mut name = String::new();
        for character in loader.chars() {
            // A longer name is cut; it is only printed.
            if name.push(character).is_err() {
                break;
            }
        }
        let mut info = Self {
            loader: name,
            command_line: String::new(),
            module: None,
            rsdp: None,
            keep: Vec::new(),
            memory,
            map,
        };
        info.keep("memory map", map.start, bytes)?;
        Ok(info)
    }

    /// Notes the module, which may lie anywhere; one of no bytes is none.
    pub(super) fn set_module(&mut self, start: Hpa, bytes: u64) -> Result<(), BootError> {
        if bytes == 0 {
            return Ok(());
        }
        start
            .checked_add(bytes)
            .ok_or(BootError::ModuleRange(start, bytes))?;
        self.module = Some((start, bytes));
        self.keep("module", start, bytes)
    }

    /// Adds a range to `keep`; one of no bytes is nothing to keep.
    pub(super) fn keep(&mut self, what: &'static str, start: Hpa, bytes: u64) -> Result<(), BootError> {
        if bytes == 0 {
            return Ok(());
        }
        self.keep
            .push(KeepRange { what, start, bytes })
            .map_err(|_| BootError::TooManyRanges)
    }

    /// The right to read the first 4 GiB with which this was read.
    pub fn early_memory(&self) -> EarlyMemory {
        self.memory
    }

    /// The firmware's memory map, entry by entry, as it stands in low memory.
    pub fn firmware_map(&self) -> FirmwareMap<'_> {
        FirmwareMap { info: self, next: 0 }
    }
}

/// Why the loader's hand-over cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The entry code was reached by something that is neither a PVH nor a multiboot2 loader; EAX.
    Loader(u32),
    /// The start info's first word is not PVH's magic.
    Magic(u32),
    /// The multiboot2 information contradicts itself.
    Information(InformationError),
    /// The multiboot2 loader left UEFI's boot services running.
    BootServices,
    /// No memory map came along.
    NoMemoryMap,
    /// More than one module.
    Modules(u32),
    /// The module's end does not fit in 64 bits; first byte and bytes.
    ModuleRange(Hpa, u64),
    /// The command line does not end within [`COMMAND_LINE_BYTES`].
    CommandLineLength,
    /// The command line is not ASCII; the byte's place.
    CommandLineText(usize),
    /// The named thing cannot be read yet.
    Beyond(&'static str, BeyondEarlyMap),
    /// More ranges to keep than [`KEEP_RANGES`].
    TooManyRanges,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(found) => write!(
                f,
                "the loader left {found:#x} in EAX, not multiboot2's {:#x}; load this file with `multiboot2` (GRUB), or with a \
                 PVH loader (QEMU -kernel)",
                multiboot_info::MAGIC
            ),
            Self::Information(error) => write!(f, "{error}; use another loader, such as GRUB 2.06"),
            Self::BootServices => write!(
                f,
                "the loader left UEFI's boot services running, which own the memory; use one that ends them, such as GRUB"
            ),
            Self::Magic(found) => write!(
                f,
                "the loader's start info begins with {found:#x}, not with PVH's {:#x}; load this file with a PVH loader \
                 (QEMU -kernel), and keep its command line below 2000 bytes, since QEMU lets a longer one overwrite the start \
                 info",
                pvh::start_info::START_MAGIC_VALUE
            ),
            Self::NoMemoryMap => write!(
                f,
                "the loader gave no memory map; use one that passes PVH start info version 1 (QEMU 4.0 or newer) or a \
                 multiboot2 memory map (GRUB 2)"
            ),
            Self::Modules(count) => {
                write!(
                    f,
                    "the loader passed {count} modules; pack the guests into one archive and pass that"
                )
            }
            Self::ModuleRange(start, bytes) => {
                write!(
                    f,
                    "the loader says the module has {bytes} bytes at {start}, which no address space holds"
                )
            }
            Self::CommandLineLength => {
                write!(
                    f,
                    "the command line is longer than {COMMAND_LINE_BYTES} bytes; shorten it"
                )
            }
            Self::CommandLineText(place) => {
                write!(
                    f,
                    "byte {place} of the command line is not ASCII; use plain ASCII"
                )
            }
            Self::Beyond(what, beyond) => write!(
                f,
                "the loader put the {what} at {} ({} bytes), beyond the first {} GiB that can be read at this point; use a \
                 loader that keeps it below",
                beyond.start,
                beyond.bytes,
                EARLY_BYTES >> 30
            ),
            Self::TooManyRanges => write!(f, "the loader passed more than {KEEP_RANGES} things to keep"),
        }
    }
}
