//! Passes the linker script to the linker and the commit to the code.
//!
//! `LACUNA_COMMIT` is what `git describe --always` says, or "unknown" outside a checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a git command prints, without the newline; `None` when there is no git or no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Asks cargo to run this again when one of git's own files changes. A file that does not exist is left out: cargo would
/// take it as always changed.
fn watch(name: &str) {
    if let Some(path) = git(&["rev-parse", "--git-path", name]).map(PathBuf::from)
        && path.exists()
    {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

fn main() {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let script = Path::new(&package).join("../linker.ld");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", script.display());
    // On any other target nothing of this package is linked as an image.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{}", script.display());
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }

    let commit = git(&["describe", "--always"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=LACUNA_COMMIT={commit}");
    watch("HEAD");
    watch("packed-refs");
    if let Some(branch) = git(&["symbolic-ref", "-q", "HEAD"]) {
        watch(&branch);
    }
}
