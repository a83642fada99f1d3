//! `cargo xtask fuzz`: libFuzzer on each target of the package `fuzz`, for a bounded time.
//!
//! The targets are built by the project's own toolchain: LLVM's coverage pass and libFuzzer's run-time library, which `libfuzzer-sys`
//! compiles, are all it takes. No address sanitizer: what is fuzzed is safe Rust, and the build has every check of arithmetic and bounds.
//! New inputs go into cargo's target folder; the committed ones in `fuzz/corpus` are only read, unless `--merge` is given.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;
use crate::{Failure, cli, interrupt, setup, workspace};

/// The targets: name, and the longest input in bytes. Each is a binary of the package `fuzz` and has a folder in `fuzz/corpus`.
const TARGETS: [(&str, u32); 5] = [
    ("memory-map", 17 * 64),
    ("operations", 5 * 64),
    ("guest-image", 64 << 10),
    ("hypercall", 56),
    ("command-line", 2048),
];

/// The machine that this runs on. Named, so that build scripts are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer needs of the compiler: where the code went, and what it compared.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What a target may take beyond its time, for the committed inputs and the one input that it is at.
const GRACE: Duration = Duration::from_secs(300);
/// How many of the last lines of a failed target are shown.
const TAIL: usize = 30;

/// The folders of one target.
struct Folders {
    /// What is committed.
    corpus: PathBuf,
    /// What runs on this machine have found.
    found: PathBuf,
    /// Inputs that failed.
    failed: PathBuf,
}

impl Folders {
    fn make(target: &Path, name: &str) -> Result<Self> {
        let folders = Self {
            corpus: workspace::root().join("fuzz/corpus").join(name),
            found: target.join("fuzz-corpus").join(name),
            failed: target.join("fuzz-failed").join(name),
        };
        for folder in [&folders.corpus, &folders.found, &folders.failed] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(folders)
    }
}

/// Runs the targets and returns the exit status.
///
/// # Errors
/// Set-up or build failed, or Ctrl-C came.
pub fn fuzz(flags: &cli::Fuzz) -> Result<u8, Failure> {
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|(name, _)| flags.targets.is_empty() || flags.targets.iter().any(|wanted| wanted == name))
        .collect();
    if chosen.is_empty() || chosen.len() < flags.targets.len() {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::Usage(anyhow::anyhow!(
            "the targets are {}",
            names.join(", ")
        )));
    }
    setup::cxx()?;
    let target = workspace::outline()?.target;
    let built = target.join("fuzz");
    let mut cargo = workspace::cargo();
    cargo
        .args([
            "build",
            "--package=fuzz",
            "--profile=fuzz",
            "--target",
            HOST,
            "--target-dir",
        ])
        .arg(&built)
        .env("RUSTFLAGS", FLAGS);
    let status = Process::start(&mut cargo)?
        .wait(Duration::from_secs(45 * 60))
        .context("build the fuzz targets")?;
    if !status.success() {
        return Err(Failure::Other(anyhow::anyhow!("the fuzz targets do not build")));
    }
    let mut failures = 0;
    for (name, longest) in chosen {
        let folders = Folders::make(&target, name)?;
        let program = built.join(HOST).join("fuzz").join(name);
        let fine = run(&program, name, *longest, &folders, flags)?;
        failures += u32::from(!fine);
    }
    println!("\nfuzz result: {failures} of the targets failed");
    Ok(u8::from(failures > 0))
}

/// Runs one target; whether nothing failed.
fn run(
    program: &Path,
    name: &str,
    longest: u32,
    folders: &Folders,
    flags: &cli::Fuzz,
) -> Result<bool, Failure> {
    let log = folders.failed.join("log.txt");
    let output = fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut command = std::process::Command::new(program);
    command
        .arg(format!("-max_len={longest}"))
        .arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", folders.failed.display()));
    if flags.merge {
        command
            .args(["-merge=1", "-reduce_inputs=1"])
            .arg(&folders.corpus);
        command.arg(&folders.found);
    } else {
        command
            .arg(format!("-max_total_time={}", flags.seconds))
            .arg("-timeout=20");
        command.arg(&folders.found).arg(&folders.corpus);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    print!("fuzz {name} ... ");
    // A closed terminal does not stop it.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    let status = Process::start(&mut command)?.wait(Duration::from_secs(flags.seconds) + GRACE);
    if interrupt::asked() {
        println!("stopped");
        return Err(Failure::Other(anyhow::anyhow!("interrupted")));
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let stat = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("stat::{key}:")));
        line.map_or("?", str::trim).to_owned()
    };
    match status {
        Ok(status) if status.success() => {
            println!(
                "ok ({} inputs tried, {} of them new)",
                stat("number_of_executed_units"),
                stat("new_units_added")
            );
            Ok(true)
        }
        Ok(_) | Err(_) => {
            println!("FAILED; the input is in {}", folders.failed.display());
            let lines: Vec<_> = text.lines().collect();
            for line in lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default() {
                println!("    {line}");
            }
            Ok(false)
        }
    }
}
