//! Builds the hypervisor's image and the guests.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::archive::Guest;
use crate::process::Process;
use crate::workspace::{self, DISK_BOOT, GUESTS, HYPERVISOR, TARGET};

/// A build takes a minute or two on two slow cores, and fetching what it needs about as long; a network that is stuck takes for ever.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// The name of the image that is booted, beside cargo's own file.
pub const IMAGE: &str = "lacuna";
/// The boot sector's file, beside the image.
pub const BOOT_SECTOR: &str = DISK_BOOT;

/// Which hypervisor to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// The one that is used.
    Plain,
    /// One that makes deliberate mistakes when asked (`test=`).
    TestHooks,
}

/// What was built.
pub struct Built {
    /// The hypervisor's ELF file: the image that boots, with its symbols.
    pub hypervisor: PathBuf,
    /// The bundled guests in alphabetical order.
    pub guests: Vec<Guest>,
}

/// Builds hypervisor and guests in the release profile; cargo's progress is shown.
///
/// # Errors
/// cargo fails (its messages are on the terminal already), or Ctrl-C came.
pub fn build(flavor: Flavor) -> Result<Built> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--release",
        "--target",
        TARGET,
        "--package",
        HYPERVISOR,
        "--package",
        GUESTS,
        "--package",
        DISK_BOOT,
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    if flavor == Flavor::TestHooks {
        cargo.args(["--features", "hypervisor/test-hooks"]);
    }
    // Flags from the environment would replace those of .cargo/config.toml, without which the image can't boot.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        if env::var_os(variable).is_some_and(|flags| !flags.is_empty()) {
            eprintln!("build: {variable} is not used for hypervisor and guests");
        }
        cargo.env_remove(variable);
    }
    let mut process = Process::start(cargo.stdout(Stdio::piped()))?;
    let output = process.child().stdout.take().context("cargo's output")?;
    // Read beside, so that Ctrl-C is seen while cargo is silent.
    let reader = thread::spawn(move || {
        BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .collect::<Vec<_>>()
    });
    if !process.wait(LIMIT).context("build with cargo")?.success() {
        bail!("the build failed; what to mend is above");
    }
    let lines = reader
        .join()
        .map_err(|_| anyhow!("the reader of cargo's output failed"))?;
    let mut hypervisor = None;
    let mut guests = Vec::new();
    for (package, path) in lines.iter().filter_map(|line| executable(line)) {
        match package {
            HYPERVISOR => hypervisor = Some(path),
            _ => guests.push(path),
        }
    }
    guests.sort();
    let guests = guests.into_iter().map(Guest::open).collect::<Result<_>>()?;
    let path = hypervisor.context("cargo built no image of the hypervisor")?;
    // Both flavors have the same name at cargo's; a copy of ours stays what it is when the other one is built.
    let copy = path.with_file_name(match flavor {
        Flavor::Plain => IMAGE,
        Flavor::TestHooks => "lacuna-test-hooks",
    });
    fs::copy(&path, &copy).with_context(|| format!("copy {} to {}", path.display(), copy.display()))?;
    Ok(Built {
        hypervisor: copy,
        guests,
    })
}

/// The package and path of the binary that this line of cargo's announces, if it is one of ours.
fn executable(line: &str) -> Option<(&'static str, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?.into();
    let id = message["package_id"].as_str()?;
    // "path+file:///…/guest-tests#0.1.0" or "path+file:///…/tests#guest-tests@0.1.0"
    let package = [HYPERVISOR, GUESTS]
        .into_iter()
        .find(|name| id.contains(&format!("/{name}#")) || id.contains(&format!("#{name}@")))?;
    Some((package, path))
}
