//! `cargo xtask mutants`: changes the memory subsystem in every way that cargo-mutants knows, one at a time, and looks whether a test
//! notices.
//!
//! No change in code that writes an entry or decides a flush may go unnoticed; elsewhere at most 3 % may, each explained in
//! docs/testing.md.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Process;
use crate::{Failure, cli, workspace};

/// The version that the figures in docs/testing.md were made with.
const VERSION: &str = "27.1.0";
/// Files and folders, below `hypervisor/memory/src`, in which none may survive.
const STRICT: [&str; 5] = [
    "paging/edit.rs",
    "direct_map/",
    "tlb/",
    "window.rs",
    "guest/second_stage/",
];
/// Most survivors elsewhere, in percent.
const MOST: usize = 3;
/// Histories that each property test tries for one mutant: a choice, so that a mutant takes some ten seconds.
const HISTORIES: &str = "40";
/// One run; all of `memory` takes hours.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs it and returns the exit status.
///
/// # Errors
/// Set-up failed, the tests fail without any change, or Ctrl-C came.
pub fn mutants(flags: &cli::Mutants) -> Result<u8, Failure> {
    let target = workspace::outline()?.target;
    let tools = target.join("tools");
    bring(&tools)?;
    let output = target.join("mutants");
    let mut command = workspace::cargo();
    command.env("PATH", path_with(&tools.join("bin"))?);
    command
        .args([
            "mutants",
            "--package=memory",
            "--test-package=memory",
            "--no-shuffle",
        ])
        .args(["--minimum-test-timeout=120", "--colors=never", "--jobs"])
        .arg(flags.jobs.to_string())
        .arg("--output")
        .arg(&output)
        .env("LACUNA_HISTORIES", HISTORIES)
        // What only a debugger would read takes a third of each build.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR");
    for file in &flags.files {
        command.args(["--file", &format!("**/memory/src/{file}")]);
    }
    // Its status also tells of survivors, which are judged here.
    Process::start(&mut command)?
        .wait(LIMIT)
        .context("cargo mutants")?;
    judge(&output.join("mutants.out/outcomes.json"))
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

/// Prints what survived, and judges it.
fn judge(outcomes: &Path) -> Result<u8, Failure> {
    let text = fs::read_to_string(outcomes).with_context(|| format!("read {}", outcomes.display()))?;
    let outcomes: Value = serde_json::from_str(&text).context("read what cargo mutants found")?;
    let tally = Tally::of(&outcomes);
    tally
        .survivors
        .iter()
        .for_each(|(_, name)| println!("survived: {name}"));
    println!(
        "mutants: {} tried, {} survived, {} of them where none may; at most {MOST} % may elsewhere",
        tally.tried,
        tally.survivors.len(),
        tally.strict()
    );
    Ok(u8::from(!tally.holds()))
}

/// What became of the mutants that could be built.
struct Tally {
    /// All but those that do not build.
    tried: usize,
    /// Whether the file is a strict one, and what was changed.
    survivors: Vec<(bool, String)>,
}

impl Tally {
    fn of(outcomes: &Value) -> Self {
        let mut tally = Self {
            tried: 0,
            survivors: Vec::new(),
        };
        for outcome in outcomes["outcomes"].as_array().into_iter().flatten() {
            let mutant = &outcome["scenario"]["Mutant"];
            let Some(name) = mutant["name"].as_str() else {
                // The tests without any change.
                continue;
            };
            match outcome["summary"].as_str() {
                Some("Unviable") | None => continue,
                Some("MissedMutant") => {
                    let file = mutant["file"].as_str().unwrap_or_default();
                    let file = file.strip_prefix("hypervisor/memory/src/").unwrap_or(file);
                    let strict = STRICT.iter().any(|start| file.starts_with(start));
                    tally.survivors.push((strict, name.to_owned()));
                }
                Some(_) => {}
            }
            tally.tried += 1;
        }
        tally
    }

    fn strict(&self) -> usize {
        self.survivors.iter().filter(|(strict, _)| *strict).count()
    }

    fn holds(&self) -> bool {
        self.tried > 0 && self.strict() == 0 && self.survivors.len() * 100 <= MOST * self.tried
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(file: &str, summary: &str) -> Value {
        json!({"scenario": {"Mutant": {"name": file, "file": format!("hypervisor/memory/src/{file}")}}, "summary": summary})
    }

    #[test]
    fn survivors_are_judged_by_their_file() {
        let judge = |list: &[(&str, &str)]| {
            let mut outcomes = vec![json!({"scenario": "Baseline", "summary": "Success"})];
            outcomes.extend(list.iter().map(|(file, summary)| outcome(file, summary)));
            outcomes.extend((0..97).map(|_| outcome("stats.rs", "CaughtMutant")));
            let tally = Tally::of(&json!({ "outcomes": outcomes }));
            (tally.tried, tally.strict(), tally.holds())
        };
        assert_eq!(judge(&[("stats.rs", "MissedMutant"); 3]), (100, 0, true));
        assert_eq!(judge(&[("stats.rs", "MissedMutant"); 4]), (101, 0, false));
        assert_eq!(judge(&[("tlb/shootdown/mod.rs", "MissedMutant")]), (98, 1, false));
        assert_eq!(judge(&[("direct_map/hide.rs", "MissedMutant")]), (98, 1, false));
        assert_eq!(judge(&[("paging/edit.rs", "Timeout")]), (98, 0, true));
        assert_eq!(judge(&[("paging/edit.rs", "Unviable")]), (97, 0, true));
        assert!(!Tally::of(&json!({})).holds(), "nothing was tried");
    }

    /// A file that has become a folder would no longer be looked at strictly, and nobody would notice.
    #[test]
    fn every_strict_place_exists() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hypervisor/memory/src");
        for place in STRICT {
            let path = sources.join(place);
            assert!(path.exists(), "{place} is not there");
            assert_eq!(path.is_dir(), place.ends_with('/'), "{place}");
        }
    }
}
