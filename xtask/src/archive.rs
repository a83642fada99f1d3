//! The guest archive: one tar file that the emulator hands to the hypervisor, and the launch text that guests carry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use boot_config::{GuestSpec, Launch, MAX_NAME};
use object::{Object, ObjectSection};

/// The section of a guest's ELF file that holds its launch text.
const SECTION: &str = ".lacuna.launch";

/// A guest's file.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name in the archive and on the command line.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How it is launched.
    pub launch: Launch,
}

impl Guest {
    /// Takes a file as a guest: its name without the extension, its launch text from its own section.
    ///
    /// # Errors
    /// The file can't be read, or its launch text is wrong. A file that is no ELF file is none of these: the hypervisor
    /// is the one to judge it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-+".contains(c), "-");
        let name: String = name.chars().take(MAX_NAME).collect();
        let bytes = fs::read(&path).with_context(|| format!("read the guest {}", path.display()))?;
        let text = launch_text(&bytes);
        let launch = Launch::default().parse_over(&text).map_err(|error| {
            anyhow!(
                "the section {SECTION} of {} holds `{text}`: {error}",
                path.display()
            )
        })?;
        Ok(Self { name, path, launch })
    }

    /// What `guest=` says for it.
    pub fn spec(&self) -> GuestSpec<'_> {
        GuestSpec {
            name: &self.name,
            launch: self.launch,
        }
    }
}

/// The launch text in an ELF file; empty when there is none.
fn launch_text(elf: &[u8]) -> String {
    let Ok(file) = object::File::parse(elf) else {
        return String::new();
    };
    let Some(Ok(bytes)) = file.section_by_name(SECTION).map(|section| section.data()) else {
        return String::new();
    };
    String::from_utf8_lossy(bytes)
        .trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

/// Writes the archive. Owners and times are left out, so that equal guests make equal archives.
///
/// # Errors
/// A guest can't be read or the archive not be written.
pub fn write(path: &Path, guests: &[Guest]) -> Result<()> {
    let pack = || -> std::io::Result<()> {
        let mut archive = tar::Builder::new(File::create(path)?);
        for guest in guests {
            let bytes = fs::read(&guest.path)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, &guest.name, bytes.as_slice())?;
        }
        archive.finish()
    };
    pack().with_context(|| format!("write the guest archive {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_that_is_no_elf_file_has_the_defaults() {
        let folder = std::env::temp_dir().join(format!("lacuna-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("my guest,1.elf");
        fs::write(&path, "no ELF file").unwrap();
        let guest = Guest::open(path).unwrap();
        assert_eq!(guest.spec().to_string(), "my-guest-1");
        let tar = folder.join("a.tar");
        write(&tar, std::slice::from_ref(&guest)).unwrap();
        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("my-guest-1"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "no ELF file");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Guest::open("no/such/guest.elf".into()).err().unwrap();
        assert!(format!("{error:#}").starts_with("read the guest no/such/guest.elf: "));
    }
}
