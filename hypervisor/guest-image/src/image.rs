//! One guest program: an ELF file, checked before anything of it is loaded.

use core::fmt;

use elf::ElfBytes;
use elf::abi::{EI_NIDENT, EM_X86_64, ET_DYN, ET_EXEC, PF_X, PT_INTERP, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::{Class, parse_ident};
use elf::parse::ParseError;
use elf::segment::ProgramHeader;
use guest_abi::launch_area::IMAGE_START;
use memory::address::{Gpa, PAGE_SIZE};

/// Most segments that are loaded from one file. Linkers make four to six.
pub const SEGMENTS_MAX: usize = 16;

/// A program that may be loaded into a guest of the memory size it was checked against.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    segments: [Segment<'a>; SEGMENTS_MAX],
    count: usize,
    entry: Gpa,
    memory_bytes: u64,
}

/// A part of the file and where it goes. What lies between the end of `contents` and `bytes` stays zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Address of the first byte.
    pub start: Gpa,
    /// What the file holds for it, at most `bytes` long.
    pub contents: &'a [u8],
    /// Length in memory, more than zero.
    pub bytes: u64,
    /// Whether the file marks it as code.
    pub executable: bool,
}

impl Segment<'_> {
    const NONE: Self = Self {
        start: Gpa::new(0),
        contents: &[],
        bytes: 0,
        executable: false,
    };

    /// First address beyond the segment. It does not overflow: it lies within the guest's memory.
    pub const fn end(&self) -> Gpa {
        Gpa::new(self.start.get().saturating_add(self.bytes))
    }
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.executable { ", code" } else { "" };
        write!(
            f,
            "Segment({}..{}, {} bytes in the file{code})",
            self.start,
            self.end(),
            self.contents.len()
        )
    }
}

impl<'a> Image<'a> {
    /// Checks that `file` is a program for a guest with `memory_bytes` of memory: ELF64, little-endian, x86-64, linked at a fixed
    /// address without dynamic linking, all loaded segments above the launch area, inside memory and disjoint, the entry point in code.
    ///
    /// Segments go to their physical addresses (`p_paddr`); the entry point is taken as such an address too, because guests start with
    /// an identity map.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong with the file and what to do.
    pub fn parse(file: &'a [u8], memory_bytes: u64) -> Result<Self, ImageError> {
        // Class first: the tables of a 32-bit file would only look damaged.
        let ident = file.get(..EI_NIDENT).ok_or(ImageError::NotElf)?;
        let (_, class, ..) = parse_ident::<LittleEndian>(ident).map_err(ImageError::from_parse)?;
        if class != Class::ELF64 {
            return Err(ImageError::Class);
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(ImageError::from_parse)?;
        if elf.ehdr.e_machine != EM_X86_64 {
            return Err(ImageError::Machine {
                found: elf.ehdr.e_machine,
            });
        }
        match elf.ehdr.e_type {
            ET_EXEC => {}
            ET_DYN => return Err(ImageError::PositionIndependent),
            found => return Err(ImageError::NotExecutable { found }),
        }
        let mut image = Self {
            segments: [Segment::NONE; SEGMENTS_MAX],
            count: 0,
            entry: Gpa::new(elf.ehdr.e_entry),
            memory_bytes,
        };
        for (number, header) in elf
            .segments()
            .into_iter()
            .flat_map(|table| table.iter())
            .enumerate()
        {
            match header.p_type {
                PT_INTERP => return Err(ImageError::Dynamic),
                PT_LOAD if header.p_memsz != 0 || header.p_filesz != 0 => image.add(file, number, &header)?,
                _ => {}
            }
        }
        if image.count == 0 {
            return Err(ImageError::NoSegments);
        }
        let entered = |segment: &Segment<'_>| {
            let offset = image.entry.get().checked_sub(segment.start.get());
            segment.executable && offset.is_some_and(|offset| offset < segment.contents.len() as u64)
        };
        if !image.segments().iter().any(entered) {
            return Err(ImageError::Entry { entry: image.entry });
        }
        Ok(image)
    }

    fn add(&mut self, file: &'a [u8], number: usize, header: &ProgramHeader) -> Result<(), ImageError> {
        if header.p_filesz > header.p_memsz {
            return Err(ImageError::SizeInFile { number });
        }
        let contents = (|| {
            let start = usize::try_from(header.p_offset).ok()?;
            let end = start.checked_add(usize::try_from(header.p_filesz).ok()?)?;
            file.get(start..end)
        })()
        .ok_or(ImageError::OutsideFile { number })?;
        let start = Gpa::new(header.p_paddr);
        if start.get() < IMAGE_START {
            return Err(ImageError::InLaunchArea { number, start });
        }
        let end = start
            .checked_add(header.p_memsz)
            .ok_or(ImageError::Overflow { number })?;
        if end.get() > self.memory_bytes {
            return Err(ImageError::OutsideMemory {
                number,
                end,
                memory_bytes: self.memory_bytes,
            });
        }
        if self
            .segments()
            .iter()
            .any(|other| start < other.end() && other.start < end)
        {
            return Err(ImageError::Overlap { number });
        }
        let slot = self
            .segments
            .get_mut(self.count)
            .ok_or(ImageError::TooManySegments)?;
        let executable = header.p_flags & PF_X != 0;
        *slot = Segment {
            start,
            contents,
            bytes: header.p_memsz,
            executable,
        };
        self.count += 1;
        Ok(())
    }

    /// What to load, in the order of the file.
    pub fn segments(&self) -> &[Segment<'a>] {
        self.segments.get(..self.count).unwrap_or_default()
    }

    /// Addresses of the pages that hold bytes of the file, ascending. All others are zero.
    pub fn loaded_pages(&self) -> impl Iterator<Item = Gpa> + use<'_, 'a> {
        let mut from = Gpa::new(0);
        core::iter::from_fn(move || {
            let pages = self.segments().iter().filter_map(|segment| {
                let end = segment.start.get().saturating_add(segment.contents.len() as u64);
                let page = segment.start.align_down(PAGE_SIZE).max(from);
                (page.get() < end && !segment.contents.is_empty()).then_some(page)
            });
            let page = pages.min()?;
            from = page.checked_add(PAGE_SIZE)?;
            Some(page)
        })
    }

    /// Where the program starts.
    pub const fn entry(&self) -> Gpa {
        self.entry
    }

    /// Start of the page of the lowest byte.
    pub fn start(&self) -> Gpa {
        let lowest = self.segments().iter().map(|segment| segment.start).min();
        lowest.unwrap_or_default().align_down(PAGE_SIZE)
    }

    /// End of the page of the highest byte.
    pub fn end(&self) -> Gpa {
        let highest = self.segments().iter().map(Segment::end).max().unwrap_or_default();
        // Memory sizes are multiples of a page, so there is a next page boundary; if not, the end is exact.
        highest.checked_align_up(PAGE_SIZE).unwrap_or(highest)
    }

    /// The memory size that the image was checked against, in bytes.
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// Why a file can't run as a guest. Numbers of segments count from 0 in the program header table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// It does not start like an ELF file.
    NotElf,
    /// An ELF file, but header or tables are not there or contradict each other.
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// Not 64 bits.
    Class,
    /// Not little-endian.
    ByteOrder,
    /// For another kind of CPU.
    Machine {
        /// `e_machine` of the file.
        found: u16,
    },
    /// A position-independent executable or a shared library.
    PositionIndependent,
    /// An object file, a core dump or something else that does not run.
    NotExecutable {
        /// `e_type` of the file.
        found: u16,
    },
    /// It wants a dynamic linker.
    Dynamic,
    /// Nothing to load.
    NoSegments,
    /// More than [`SEGMENTS_MAX`] segments to load.
    TooManySegments,
    /// A segment has more bytes in the file than in memory.
    SizeInFile {
        /// Number of the segment.
        number: usize,
    },
    /// A segment's bytes lie beyond the end of the file.
    OutsideFile {
        /// Number of the segment.
        number: usize,
    },
    /// A segment lies below 1 MiB, where the hypervisor puts the launch information.
    InLaunchArea {
        /// Number of the segment.
        number: usize,
        /// Where it starts.
        start: Gpa,
    },
    /// The end of a segment does not fit in 64 bits.
    Overflow {
        /// Number of the segment.
        number: usize,
    },
    /// A segment ends beyond the guest's memory.
    OutsideMemory {
        /// Number of the segment.
        number: usize,
        /// Where it ends.
        end: Gpa,
        /// Size of the guest's memory.
        memory_bytes: u64,
    },
    /// A segment shares bytes with an earlier one.
    Overlap {
        /// Number of the later segment.
        number: usize,
    },
    /// The entry point is not in the bytes of an executable segment.
    Entry {
        /// The entry point.
        entry: Gpa,
    },
}

impl ImageError {
    fn from_parse(error: ParseError) -> Self {
        match error {
            ParseError::BadMagic(_) => Self::NotElf,
            ParseError::UnsupportedElfClass(_) => Self::Class,
            ParseError::UnsupportedElfEndianness(_) => Self::ByteOrder,
            ParseError::UnsupportedVersion(_) => Self::Damaged {
                what: "the version is not 1",
            },
            ParseError::BadEntsize(_) => Self::Damaged {
                what: "a table has entries of a wrong size",
            },
            ParseError::IntegerOverflow => Self::Damaged {
                what: "a table's offset overflows",
            },
            // What is left are reads beyond the end of the file.
            _ => Self::Damaged {
                what: "header or tables lie beyond the end of the file",
            },
        }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("not an ELF file; a guest is a static x86-64 ELF executable"),
            Self::Damaged { what } => write!(f, "damaged ELF file: {what}; build or copy it again"),
            Self::Class => f.write_str("ELF file is not 64-bit; build it for x86-64"),
            Self::ByteOrder => f.write_str("ELF file is not little-endian; build it for x86-64"),
            Self::Machine { found } => {
                write!(f, "ELF file is for machine {found}, not x86-64 ({EM_X86_64}); build it for x86-64")
            }
            Self::PositionIndependent => f.write_str(
                "position-independent executable; link it at a fixed address (rustc: -C relocation-model=static, cc: -static -no-pie)",
            ),
            Self::NotExecutable { found } => {
                write!(f, "ELF file is of type {found}, not an executable ({ET_EXEC}); link it")
            }
            Self::Dynamic => f.write_str("the program wants a dynamic linker; link it statically"),
            Self::NoSegments => f.write_str("ELF file has nothing to load; look at its linker script"),
            Self::TooManySegments => {
                write!(f, "more than {SEGMENTS_MAX} segments to load; merge sections in the linker script")
            }
            Self::SizeInFile { number } => {
                write!(f, "segment {number} has more bytes in the file than in memory; build the file again")
            }
            Self::OutsideFile { number } => {
                write!(f, "segment {number} lies beyond the end of the file; build or copy it again")
            }
            Self::InLaunchArea { number, start } => write!(
                f,
                "segment {number} starts at {start}; memory below {IMAGE_START:#x} is for launch information, link above it"
            ),
            Self::Overflow { number } => {
                write!(f, "the end of segment {number} does not fit in 64 bits; look at its linker script")
            }
            Self::OutsideMemory { number, end, memory_bytes } => write!(
                f,
                "segment {number} ends at {end}, the guest's memory at {memory_bytes:#x}; give it more memory (memory=SIZE) or link it lower"
            ),
            Self::Overlap { number } => {
                write!(f, "segment {number} overlaps an earlier one; look at its linker script")
            }
            Self::Entry { entry } => write!(
                f,
                "entry point {entry} is not in an executable segment; it must be a physical address (ENTRY in the linker script)"
            ),
        }
    }
}

impl core::error::Error for ImageError {}

#[cfg(test)]
mod tests;
