//! `cargo xtask bench tlb`: what hidden memory costs the TLB, by policy and moment (`hypervisor/direct-map-phases`, a program of its own, because
//! it must be optimised).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tools::pressure::Results;
use tools::pressure::goals::goals;
use tools::pressure::table::Table;

use crate::process::Process;
use crate::verdict::Outcome;
use crate::{Failure, cli, workspace};

/// The package.
const PACKAGE: &str = "direct-map-phases";
/// The default took seven minutes on two busy cores, with the build nine.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Measures, prints the table, and writes JSON and page.
///
/// # Errors
/// The program can't be built or run, or what it wrote can't be read.
pub fn tlb(flags: &cli::Tlb) -> Result<Outcome, Failure> {
    let beside = |given: &Option<PathBuf>, name: &str| -> Result<PathBuf> {
        match given {
            Some(path) => Ok(path.clone()),
            None => Ok(workspace::target_folder()?.join(name)),
        }
    };
    let json = beside(&flags.json, "tlb.json")?;
    measure(flags, &json)?;
    let results = Results::read(&json)?;
    println!("\n{}", Table(&results));
    println!("json: {}", json.display());
    let missed: Vec<String> = goals(&results)
        .into_iter()
        .filter(|goal| !goal.met)
        .map(|goal| goal.text)
        .collect();
    Ok(if missed.is_empty() {
        Outcome::Pass
    } else {
        Outcome::Fail(missed.join("; "))
    })
}

fn measure(flags: &cli::Tlb, json: &Path) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", PACKAGE, "--"]);
    cargo.arg("--json").arg(json);
    cargo.args(["--ram", &format!("{}M", flags.ram >> 20)]);
    cargo.args(["--cores", &flags.cores, "--version", &version()]);
    cargo.args([
        "--lifetimes",
        &flags.lifetimes.to_string(),
        "--seed",
        &flags.seed.to_string(),
    ]);
    if let Some(policies) = &flags.policies {
        cargo.args(["--policies", policies]);
    }
    if let Some(outer) = &flags.outer {
        cargo.args(["--outer", outer]);
    }
    eprintln!("building {PACKAGE}, then measuring; progress follows");
    let status = Process::start(&mut cargo)?.wait(LIMIT).context("measure")?;
    if !status.success() {
        bail!("{PACKAGE}: {status}; what to mend is above");
    }
    Ok(())
}

/// The commit, for the file's readers; "unknown" outside of a clone.
fn version() -> String {
    let describe = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(workspace::root())
        .output();
    describe
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".into(), |text| text.trim().into())
}
