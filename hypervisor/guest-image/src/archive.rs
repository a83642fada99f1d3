//! The archive of guests: an uncompressed tar, read in place.
//!
//! `tar-no-std` walks the headers. It checks the chain of headers (checksums, types, sizes) when it is opened and relies on that
//! later; what it does not look at (names, a usable number of files) is checked here, also at opening.

use core::fmt;

use tar_no_std::{ArchiveEntry, CorruptDataError, TarArchiveRef, TarFormatString};

/// Most files that an archive may hold. It bounds the search for duplicate names, which is quadratic; a guest that runs many
/// times is one file.
pub const FILES_MAX: usize = 256;

/// Size of a tar block (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;
/// Room for a name: prefix (155), a slash and name (100) of a ustar header.
const NAME_BYTES: usize = 256;

/// An archive whose headers are sound, with at least one file and no name twice.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    tar: TarArchiveRef<'a>,
}

impl<'a> Archive<'a> {
    /// Checks the whole archive.
    ///
    /// # Errors
    /// [`ArchiveError`] says what is wrong with it and what to do.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        if bytes.is_empty() {
            return Err(ArchiveError::Empty);
        }
        if let Some(format) = other_format(bytes) {
            return Err(ArchiveError::OtherFormat { format });
        }
        if bytes.len() < BLOCK {
            return Err(ArchiveError::NotTar);
        }
        // The first block decides whether this is a tar at all; after that, faults are faults of a tar.
        let tar = TarArchiveRef::new(bytes).map_err(|error| match error {
            CorruptDataError::EmptyArchive => ArchiveError::Empty,
            CorruptDataError::InvalidChecksum { block_index: 0 } => ArchiveError::NotTar,
            CorruptDataError::InvalidBlockSize | CorruptDataError::TooShort { .. } => {
                ArchiveError::Truncated { bytes: bytes.len() }
            }
            CorruptDataError::InvalidChecksum { block_index } => {
                ArchiveError::Checksum { block: block_index }
            }
            CorruptDataError::InvalidTypeFlag { block_index } => {
                ArchiveError::EntryType { block: block_index }
            }
            CorruptDataError::InvalidPayloadSize { block_index } => ArchiveError::Size { block: block_index },
            CorruptDataError::PayloadExtendsBeyondArchive { block_index } => {
                ArchiveError::ContentsTruncated { block: block_index }
            }
            CorruptDataError::MissingTerminator => ArchiveError::NoTerminator,
        })?;
        let archive = Self { tar };
        archive.check_names()?;
        Ok(archive)
    }

    /// The files in the order of the archive.
    pub fn files(&self) -> impl Iterator<Item = File<'a>> + use<'a> {
        self.tar.entries().map(File::new)
    }

    /// The file with this name.
    pub fn file(&self, name: &str) -> Option<File<'a>> {
        self.files().find(|file| file.name() == name)
    }

    fn check_names(&self) -> Result<(), ArchiveError> {
        let mut count = 0;
        for file in self.files() {
            if count == FILES_MAX {
                return Err(ArchiveError::TooManyFiles);
            }
            let printable = |c: char| !c.is_control() && !c.is_whitespace() && c != ',';
            if file.name().is_empty() || !file.name().chars().all(printable) {
                return Err(ArchiveError::Name { position: count });
            }
            if let Some(first) = self
                .files()
                .take(count)
                .position(|earlier| earlier.name() == file.name())
            {
                return Err(ArchiveError::DuplicateName { first, second: count });
            }
            count += 1;
        }
        if count == 0 {
            Err(ArchiveError::NoFiles)
        } else {
            Ok(())
        }
    }
}

/// One file of an [`Archive`].
#[derive(Clone, Copy)]
pub struct File<'a> {
    name: TarFormatString<NAME_BYTES>,
    contents: &'a [u8],
}

impl<'a> File<'a> {
    fn new(entry: ArchiveEntry<'a>) -> Self {
        Self {
            name: entry.filename(),
            contents: entry.data(),
        }
    }

    /// The name, directories included, without a leading `./` (which `tar -C folder .` writes).
    pub fn name(&self) -> &str {
        // Names that are not UTF-8 read as empty, and no archive with an empty name opens.
        let name = self.name.as_str().unwrap_or_default();
        name.strip_prefix("./").unwrap_or(name)
    }

    /// What the file holds.
    pub const fn contents(&self) -> &'a [u8] {
        self.contents
    }
}

impl fmt::Debug for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?}, {} bytes)", self.name(), self.contents.len())
    }
}

/// The name of a format that people try instead of a plain tar, if the bytes start like it.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 9] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"070701", "cpio"),
        (b"070702", "cpio"),
        (b"070707", "cpio"),
        (b"\xc7\x71", "cpio"),
        (b"\x7fELF", "bare ELF"),
    ];
    STARTS
        .iter()
        .find(|(start, _)| bytes.starts_with(start))
        .map(|(_, format)| *format)
}

/// Why an archive of guests can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveError {
    /// No bytes at all.
    Empty,
    /// Known to be something else than a tar.
    OtherFormat {
        /// What it is.
        format: &'static str,
    },
    /// The first block is no tar header.
    NotTar,
    /// The length is no number of whole blocks, or too short for any file.
    Truncated {
        /// The length in bytes.
        bytes: usize,
    },
    /// A header's checksum is wrong.
    Checksum {
        /// Number of the header's 512-byte block.
        block: usize,
    },
    /// A header of a type that is not read, such as the long names of GNU tar.
    EntryType {
        /// Number of the header's 512-byte block.
        block: usize,
    },
    /// A header's size field is no number.
    Size {
        /// Number of the header's 512-byte block.
        block: usize,
    },
    /// A file's contents go on beyond the end of the archive.
    ContentsTruncated {
        /// Number of the header's 512-byte block.
        block: usize,
    },
    /// The two blocks of zeros at the end are missing.
    NoTerminator,
    /// There is no regular file in the archive.
    NoFiles,
    /// More than [`FILES_MAX`] files.
    TooManyFiles,
    /// A name that is empty, not UTF-8, or has a character that the command line can't name: space, comma, control character.
    Name {
        /// Position among the files, from 0.
        position: usize,
    },
    /// Two files have the same name.
    DuplicateName {
        /// Position of the first among the files, from 0.
        first: usize,
        /// Position of the second.
        second: usize,
    },
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => {
                f.write_str("the guest archive is empty; give a tar of ELF files as the boot module")
            }
            Self::OtherFormat { format: "bare ELF" } => {
                f.write_str("the boot module is a bare ELF file; put it into a tar: tar -cf guests.tar FILE")
            }
            Self::OtherFormat { format } => write!(
                f,
                "the guest archive is {format}; an uncompressed tar is needed: tar --format=ustar -cf guests.tar FILES"
            ),
            Self::NotTar => {
                f.write_str("the boot module is not a tar; make one: tar --format=ustar -cf guests.tar FILES")
            }
            Self::Truncated { bytes } => write!(
                f,
                "the guest archive is cut short: {bytes} bytes is not a whole tar (blocks of {BLOCK} bytes, at least three); copy it again"
            ),
            Self::Checksum { block } => write!(
                f,
                "the guest archive is damaged: the header in block {block} has a wrong checksum; make it again"
            ),
            Self::EntryType { block } => write!(
                f,
                "the guest archive has an entry in block {block} of a type that is not read; make it with tar --format=ustar"
            ),
            Self::Size { block } => write!(
                f,
                "the guest archive is damaged: the header in block {block} has a size that is no octal number"
            ),
            Self::ContentsTruncated { block } => write!(
                f,
                "the guest archive is cut short: the file of block {block} ends beyond the archive; copy it again"
            ),
            Self::NoTerminator => f.write_str(
                "the guest archive is cut short: the two zero blocks at its end are missing; copy it again",
            ),
            Self::NoFiles => f.write_str("the guest archive holds no regular file; add at least one guest"),
            Self::TooManyFiles => {
                write!(
                    f,
                    "the guest archive holds more than {FILES_MAX} files; leave out what does not run"
                )
            }
            Self::Name { position } => write!(
                f,
                "file number {position} of the guest archive (from 0) has a name that is empty, not UTF-8, or has a space, comma or control character; rename it"
            ),
            Self::DuplicateName { first, second } => write!(
                f,
                "files number {first} and {second} of the guest archive (from 0) have the same name; rename one"
            ),
        }
    }
}

impl core::error::Error for ArchiveError {}

#[cfg(test)]
mod tests;
