//! The folder of one run: what was run and what came out. It goes when the run went well and stays when it did not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// Where the folders of runs are, below the workspace.
pub const RUNS: &str = "lacuna-runs";

/// The folder of one run. Dropping it removes it, unless [`Folder::keep`] was called.
pub struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// The path that the next folder would have: time, process, and a number for this program's second and later runs.
    pub fn next_path(workspace: &Path) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let time = humantime::format_rfc3339_seconds(SystemTime::now())
            .to_string()
            .replace([':', '-'], "");
        let mut name = format!("{time}-{}", std::process::id());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count > 0 {
            name = format!("{name}-{count}");
        }
        workspace.join(RUNS).join(name)
    }

    /// Makes a new folder.
    ///
    /// # Errors
    /// The workspace can't be written to.
    pub fn create(workspace: &Path) -> Result<Self> {
        let path = Self::next_path(workspace);
        fs::create_dir_all(&path).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of this name in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// The disk is full, or the folder was removed meanwhile.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The folder stays.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Nothing depends on it; a folder that can't be removed is only untidy.
        let _ = fs::remove_dir_all(&self.path);
        if let Some(runs) = self.path.parent() {
            // Succeeds when no other run has a folder there.
            let _ = fs::remove_dir(runs);
        }
    }
}
