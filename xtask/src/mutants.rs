//! `cargo xtask mutants`: changes the memory subsystem in every way that cargo-mutants knows, one at a time, and looks whether a test
//! notices.
//!
//! Building the tests anew takes far longer than to see one fail. So all changes are built at once first, each behind a switch (`weave`), and
//! the tests run once for each (`sieve`). What they do not notice, and what cannot be built like this, cargo-mutants tries by itself, one
//! build each, with as many histories as every test run has.
//!
//! No change in code that writes an entry or decides a flush may go unnoticed, and elsewhere at most 3 % may. Each that does is explained in
//! docs/testing.md (`known`); one that is not, or that is explained there and noticed after all, is an error.

mod known;
mod sieve;
mod tally;
mod weave;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Process;
use crate::{Failure, cli, workspace};

use known::Known;
use tally::Tally;
use weave::Mutant;

/// The version that the figures in docs/testing.md were made with.
const VERSION: &str = "27.1.0";
/// What is changed: the sources of `memory`, from the workspace on.
const SOURCES: &str = "hypervisor/memory/src/";
/// Files and folders there in which no change may survive.
const STRICT: [&str; 5] = [
    "paging/edit.rs",
    "direct_map/",
    "tlb/",
    "window.rs",
    "guest/second_stage/",
];
/// What no test of `memory` builds, none can notice: what other packages' tests make of the direct map (the feature `test-interface`), and what
/// stands in for atomics in loom's models.
const LEFT_OUT: [&str; 2] = ["testing.rs", "tlb/atomics.rs"];
/// Most survivors elsewhere, in percent.
const MOST: usize = 3;
/// Histories that each property test tries where a change is built by itself: those of every test run.
const HISTORIES: &str = "400";
/// What runs each test program then: it ends when it has used so many seconds of processor time, several times what it takes, or 8 GiB of
/// address space. A change that loops is a test that fails, however busy the machine is. The variable lets the tests of a stable
/// toolchain know [`STOP`].
const RUNNER: &str = "env RUSTC_BOOTSTRAP=1 prlimit --cpu=300 --as=8589934592";
/// One test that fails is enough.
const STOP: [&str; 2] = ["-Zunstable-options", "--fail-fast"];
/// All of it takes an hour or two.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

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
    // What an earlier run noticed says nothing about the tests as they are now; what it built is of use.
    for old in ["tree", "mutants.out", "mutants.out.old"] {
        match fs::remove_dir_all(folder.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::from(error)
                    .context(format!("remove an old {old}"))
                    .into());
            }
            _ => {}
        }
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mutants = list(flags, &tools)?;
    let noticed = sieve::noticed(&mutants, &folder, flags.jobs)?;
    let mut tally = Tally::default();
    let mut rest = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        if noticed.contains(&number) {
            tally.noticed(mutant);
        } else {
            rest.push(mutant);
        }
    }
    if !rest.is_empty() {
        tally.add(&singly(&rest, flags, &tools, &folder)?);
    }
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

/// Has cargo-mutants try some changes, one build each; what became of them.
fn singly(rest: &[&Mutant], flags: &cli::Mutants, tools: &Path, folder: &Path) -> Result<Value> {
    let names: Vec<_> = rest
        .iter()
        .map(|mutant| Value::from(exactly(&mutant.name)).to_string())
        .collect();
    let config = folder.join("rest.toml");
    // A text of JSON is one of TOML.
    fs::write(&config, format!("examine_re = [{}]\n", names.join(",\n")))
        .with_context(|| format!("write {}", config.display()))?;
    let mut command = command(flags, tools)?;
    command
        .arg("--config")
        .arg(&config)
        .arg("--output")
        .arg(folder)
        .arg(format!("--jobs={}", flags.jobs))
        // Unit tests, and all others in one program. Neither examples nor what is in the documentation: they show, and test nothing more.
        .args([
            "--test-package=memory",
            "--cargo-arg=--lib",
            "--cargo-arg=--test=all",
        ])
        .args(["--minimum-test-timeout=1200", "--", "--"])
        .args(STOP)
        .env("LACUNA_HISTORIES", HISTORIES)
        // A failure is a failure: nobody reads how it is shrunk.
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        // What only a debugger would read takes a third of each build.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", RUNNER)
        .env_remove("CARGO_TARGET_DIR");
    // Its status also tells of survivors, which are judged by the caller.
    Process::start(&mut command)?
        .wait(LIMIT)
        .context("cargo mutants")?;
    let file = folder.join("mutants.out/outcomes.json");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).context("read what cargo mutants found")
}

/// A regular expression for this text alone.
fn exactly(text: &str) -> String {
    let escaped = text.chars().map(|letter| match letter {
        '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => {
            format!("\\{letter}")
        }
        _ => letter.to_string(),
    });
    format!("^{}$", escaped.collect::<String>())
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
    fn a_name_stands_for_itself() {
        assert_eq!(
            exactly("a.rs:1:2: replace || with && in <impl A<'_> for B>::c"),
            r"^a\.rs:1:2: replace \|\| with && in <impl A<'_> for B>::c$"
        );
    }

    #[test]
    fn the_explanations_can_be_read() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/testing.md");
        assert!(Known::read(&page).is_ok());
    }
}
