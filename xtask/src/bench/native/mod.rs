//! `cargo xtask bench native`: what the memory subsystem costs on this machine itself (`hypervisor/memory-benches`).
//!
//! [`counts`] takes instructions, by callgrind, which are the same in every run; [`times`] takes times, by criterion, of which only the ratios
//! within one run say something; [`contention`] what several CPUs do to each other. [`goals`] says what they must be, [`table`] shows them, and [`picture`] draws the counts.

pub mod contention;
pub mod counts;
pub mod goals;
mod picture;
mod table;
mod times;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::verdict::Outcome;
use crate::{Failure, cli, workspace};

/// The package.
const PACKAGE: &str = "memory-benches";
/// Building takes about a minute on two busy cores.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// Measures and prints the table.
///
/// # Errors
/// Set-up or build failed, or what was built can't be run.
pub fn native(flags: &cli::Native) -> Result<Outcome, Failure> {
    if let Err(reason) = counts::set_up()
        && flags.counts
    {
        return Err(Failure::Other(reason));
    }
    let counted = match counts::obstacle() {
        None => {
            eprintln!("counting instructions");
            Some(counts::take()?)
        }
        Some(obstacle) => {
            println!("instructions: SKIP ({obstacle})");
            None
        }
    };
    let contention = contention::take()?;
    let timed = if flags.counts { None } else { Some(times::take()?) };
    let mut missed = Vec::new();
    if let Some(counts) = &counted {
        println!("{}", table::Counted(counts));
        missed.extend(goals::counts(counts).err());
        if let Some(path) = &flags.picture {
            let svg = picture::draw(counts)?;
            fs::write(path, svg).with_context(|| format!("write {}", path.display()))?;
        }
    }
    if let Some(times) = &timed {
        println!("{}", table::Timed(times));
        missed.extend(goals::times(times).err());
    }
    println!("{}", contention::Table(&contention, timed.as_ref()));
    missed.extend(contention::goal(&contention).err());
    if missed.is_empty() {
        println!("All goals are met.");
        Ok(Outcome::Pass)
    } else {
        let missed = missed.join("; ");
        println!("Missed: {missed}");
        Ok(Outcome::Fail(missed))
    }
}

/// Where results are kept between programs.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = workspace::target_folder()?.join("native").join(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("empty {}", folder.display()));
        }
        _ => {}
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// Runs a command to its end, which must be a good one.
fn run(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let status = Process::start(command)?
        .wait(limit)
        .with_context(|| what.to_owned())?;
    if !status.success() {
        bail!("{what}: {status}; what to mend is above");
    }
    Ok(())
}
