//! Archives as Linux unpacks them into its first file system: cpio's `newc` format.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::NewcBuilder;
use cpio::newc::ModeFileType;

/// An archive that grows. Folders come by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    /// Inode numbers: different ones for different files, or they would be hard links.
    inode: u32,
}

impl Archive {
    /// Adds a file, at an absolute path.
    ///
    /// # Errors
    /// It is larger than 4 GiB.
    pub fn file(&mut self, path: &Path, contents: &[u8], executable: bool) -> Result<()> {
        self.parents(path)?;
        let permissions = if executable { 0o755 } else { 0o644 };
        self.add(path, ModeFileType::Regular, permissions, contents)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As for [`Archive::file`].
    pub fn link(&mut self, path: &Path, to: &str) -> Result<()> {
        self.parents(path)?;
        self.add(path, ModeFileType::Symlink, 0o777, to.as_bytes())
    }

    /// Adds a folder and those that it is in.
    ///
    /// # Errors
    /// As for [`Archive::file`].
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        self.parents(&path.join("x"))
    }

    /// The whole archive.
    ///
    /// # Errors
    /// None that can happen with an archive in memory.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        cpio::newc::trailer(&mut self.bytes).context("end an archive")?;
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        let mut folders: Vec<_> = path.ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders.into_iter().filter(|folder| folder.parent().is_some()) {
            if self.folders.insert(name(folder)) {
                self.add(folder, ModeFileType::Directory, 0o755, &[])?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, kind: ModeFileType, permissions: u32, contents: &[u8]) -> Result<()> {
        let too_large = || format!("{} is too large for an archive", path.display());
        let size = u32::try_from(contents.len()).with_context(too_large)?;
        self.inode += 1;
        let entry = NewcBuilder::new(&name(path))
            .ino(self.inode)
            .mode(permissions)
            .set_mode_file_type(kind);
        let mut writer = entry.write(&mut self.bytes, size);
        std::io::Write::write_all(&mut writer, contents).context("write an archive")?;
        writer.finish().context("write an archive")?;
        Ok(())
    }
}

/// Names in an archive have no slash at the front.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}
