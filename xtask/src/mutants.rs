//! `cargo xtask mutants`: changes the memory subsystem in every way that cargo-mutants knows, one at a time, and looks whether a test
//! notices.
//!
//! Building the tests anew takes far longer than to see one fail. So all changes are built at once, each behind a switch (`weave`, `tree`), and
//! each is tried with the tests that come to its function, the quick ones first (`suite`, `sieve`). What cannot be behind a switch has a build of
//! its own. cargo-mutants makes the list of changes, and no more.
//!
//! No change in code that writes an entry or decides a flush may go unnoticed, and elsewhere at most 3 % may. Each that does is explained in
//! docs/testing.md (`known`); one that is not, or that is explained there and noticed after all, is an error.

mod found;
mod known;
mod sieve;
mod suite;
mod tally;
mod tree;
mod weave;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Process;
use crate::{Failure, cli, workspace};

use found::Found;
use known::Known;
use weave::Mutant;

/// The version that the figures in docs/testing.md were made with.
const VERSION: &str = "27.1.0";
/// What is changed: the sources of `memory`, from the workspace on.
const SOURCES: &str = "hypervisor/memory/src/";
/// Files and folders there in which no change may survive.
const STRICT: [&str; 6] = [
    "paging/",
    "direct_map/",
    "tlb/",
    "window.rs",
    "guest/change/",
    "guest/second_stage/",
];
/// What no test builds, none can notice: what stands in for atomics in loom's models.
const LEFT_OUT: [&str; 1] = ["tlb/atomics.rs"];
/// Most survivors elsewhere, in percent.
const MOST: usize = 3;
/// Runs it and returns the exit status.
///
/// # Errors
/// Set-up failed, the tests fail without any change, or Ctrl-C came.
pub fn mutants(flags: &cli::Mutants) -> Result<u8, Failure> {
    let target = workspace::outline()?.target;
    let tools = target.join("tools");
    let known = Known::read(&workspace::root().join("docs/testing.md"))?;
    bring(&tools)?;
    let folder = target.join("mutants");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let found = Found::open(&folder.join("found.jsonl"), flags.go_on)?;
    let mutants = list(flags, &tools)?;
    let tally = sieve::try_all(&mutants, &folder, flags.jobs, found)?;
    let verdict = known.judge(&tally);
    print!("{tally}");
    verdict.iter().for_each(|line| println!("{line}"));
    Ok(u8::from(!verdict.is_empty()))
}

/// cargo-mutants, for the sources that were asked for.
fn command(flags: &cli::Mutants, tools: &Path) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        .args(["mutants", "--package=memory", "--no-shuffle", "--colors=never"])
        .env("PATH", path_with(&tools.join("bin"))?);
    for file in LEFT_OUT {
        command.args(["--exclude", &format!("{SOURCES}{file}")]);
    }
    for file in &flags.files {
        command.args(["--file", &format!("{SOURCES}{file}")]);
    }
    Ok(command)
}

/// All changes that there are.
fn list(flags: &cli::Mutants, tools: &Path) -> Result<Vec<Mutant>> {
    let output = command(flags, tools)?
        .args(["--list", "--json"])
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo mutants")?;
    let list: Value = serde_json::from_slice(&output.stdout).context("read the list of cargo mutants")?;
    let list = list.as_array().context("cargo mutants lists nothing")?;
    list.iter().map(Mutant::read).collect()
}

/// Installs cargo-mutants into cargo's target folder, unless it is there.
fn bring(tools: &Path) -> Result<()> {
    if tools.join("bin/cargo-mutants").is_file() {
        return Ok(());
    }
    let mut cargo = workspace::cargo();
    cargo
        .args([
            "install",
            "cargo-mutants",
            "--locked",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(tools);
    eprintln!("set-up: cargo install cargo-mutants --locked --version {VERSION}");
    let status = Process::start(&mut cargo)?.wait(Duration::from_secs(45 * 60))?;
    if !status.success() {
        bail!("cargo-mutants could not be installed (see above)");
    }
    Ok(())
}

fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("put a folder into PATH")
}

/// Whether none may survive in a file, named from `hypervisor/memory/src` on.
fn is_strict(file: &str) -> bool {
    STRICT.iter().any(|start| file.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that has become a folder would no longer be looked at strictly, and nobody would notice.
    #[test]
    fn every_place_that_is_named_exists() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hypervisor/memory/src");
        for place in STRICT.into_iter().chain(LEFT_OUT) {
            let path = sources.join(place);
            assert!(path.exists(), "{place} is not there");
            assert_eq!(path.is_dir(), place.ends_with('/'), "{place}");
        }
    }

    /// A file of tests that the one program lacks would notice nothing.
    #[test]
    fn all_tests_are_in_the_one_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hypervisor/memory/tests");
        let all = fs::read_to_string(folder.join("all.rs")).unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                name == "all" || all.contains(&format!("\nmod {name};\n")),
                "{name} is missing"
            );
        }
    }

    #[test]
    fn the_explanations_can_be_read() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/testing.md");
        assert!(Known::read(&page).is_ok());
    }
}
