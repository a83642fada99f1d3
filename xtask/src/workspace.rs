//! Where things are: the workspace, its targets, the tools that cargo told us about.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The target of hypervisor and guests.
pub const TARGET: &str = "x86_64-unknown-none";
/// The package of the image, and the name of its binary.
pub const HYPERVISOR: &str = "hypervisor";
/// The package of the boot sector, and the name of its binary.
pub const DISK_BOOT: &str = "disk-boot";
/// The package of the bundled guests.
pub const GUESTS: &str = "guest-tests";

/// The workspace's root folder.
pub fn root() -> PathBuf {
    // cargo sets the variable for the program it runs; a copied binary still finds the tree it was built from.
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_owned)
}

/// The cargo that started this program, so that the toolchain is the same.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// What can be known without building.
pub struct Outline {
    /// Cargo's folder for everything it builds.
    pub target: PathBuf,
    /// Where in it is what is built for the bare machine.
    pub built: PathBuf,
    /// The names of the bundled guests: the binaries of the package, in alphabetical order.
    pub guests: Vec<String>,
}

/// The folder of everything that cargo builds.
///
/// # Errors
/// As for [`outline`].
pub fn target_folder() -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder.clone());
    }
    let built = outline()?.built;
    let folder = built.ancestors().nth(2).context("cargo's target folder")?;
    Ok(FOLDER.get_or_init(|| folder.to_owned()).clone())
}

/// Asks cargo for the outline of the workspace.
///
/// # Errors
/// cargo fails, or the package of the guests is missing.
pub fn outline() -> Result<Outline> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed");
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read what cargo metadata says")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == GUESTS)
        .with_context(|| format!("no package {GUESTS} in this workspace"))?;
    let mut guests: Vec<String> = package["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|target| {
            target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
        })
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    guests.sort();
    Ok(Outline {
        target: target.into(),
        built: Path::new(target).join(TARGET).join("release"),
        guests,
    })
}
