//! The guest archive: where the loader put it, and what it has.

use core::fmt;

use guest_image::{Archive, ArchiveError as Malformed, File};
use memory::address::Hpa;
use memory::layout::direct;

use super::ram::Ram;
use crate::boot::info::BootInfo;

/// Why there is no archive.
#[derive(Debug)]
pub enum ArchiveError {
    /// No module came along, or an empty one.
    Missing,
    /// It is not all in RAM that the direct map shows.
    OutOfReach {
        /// Where it begins.
        start: Hpa,
        /// Its length.
        bytes: u64,
    },
    /// It is no archive of guests.
    Malformed(Malformed),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "no guest archive came along, or an empty one: pass a tar of ELF files as the one module (QEMU -initrd)",
            ),
            Self::OutOfReach { start, bytes } => write!(
                f,
                "the loader put the guest archive ({bytes} bytes) at {start}, which is not all RAM that the direct map shows: use \
                 another loader, or give the machine more memory"
            ),
            Self::Malformed(error) => write!(f, "the guest archive: {error}"),
        }
    }
}

/// The guest archive, checked.
///
/// # Errors
/// See [`ArchiveError`].
pub fn open(info: &BootInfo, ram: &Ram) -> Result<Archive<'static>, ArchiveError> {
    let module = info.module.filter(|(_, bytes)| *bytes > 0);
    let (start, bytes) = module.ok_or(ArchiveError::Missing)?;
    let at = direct(start).filter(|_| ram.holds(start, bytes));
    let at = at.ok_or(ArchiveError::OutOfReach { start, bytes })?;
    let pointer = core::ptr::with_exposed_provenance::<u8>(at.get() as usize);
    // SAFETY: the module lies in RAM, all of which the direct map shows; `Ram` keeps it out of the allocator for good, so nobody
    // writes it.
    let archive = unsafe { core::slice::from_raw_parts(pointer, bytes as usize) };
    Archive::open(archive).map_err(ArchiveError::Malformed)
}

/// What an archive has instead of a name: the nearest, or all there is.
pub struct Instead<'a> {
    /// The name.
    pub name: &'a str,
    /// The archive without it.
    pub archive: &'a Archive<'a>,
}

impl fmt::Display for Instead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The nearest of all: each file in turn against the best so far.
        let nearest = self.archive.files().fold(None::<File<'_>>, |best, file| {
            let known = best.as_ref().map_or("", |best| best.name());
            match boot_config::nearest(self.name, &[known, file.name()]) {
                Some(name) if name == file.name() => Some(file),
                _ => best,
            }
        });
        if let Some(file) = nearest {
            return write!(f, "; did you mean `{}`?", file.name());
        }
        f.write_str(": it has")?;
        for file in self.archive.files() {
            write!(f, " {}", file.name())?;
        }
        Ok(())
    }
}
