//! What level 1 gets for one run: the hypervisor, what it loads, and the command that starts it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::{RUN, level_2, run_sources};
use crate::machine::Machine;

/// Level 1's second serial port, which carries the report.
const REPORT_PORT: &str = "/dev/ttyS1";

/// The archive's bytes.
///
/// # Errors
/// A file can't be read.
pub fn pack(machine: &Machine) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (from, to) in run_sources(machine) {
        let bytes = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        archive.file(&to, &bytes, false)?;
    }
    let inner = level_2(machine);
    archive.link(&inner.json, REPORT_PORT)?;
    if machine.counted {
        archive.file(&Path::new(RUN).join("count"), b"", false)?;
    }
    let start = format!("exec {}\n", inner.shell_line());
    archive.file(&Path::new(RUN).join("start"), start.as_bytes(), false)?;
    archive.finish()
}
