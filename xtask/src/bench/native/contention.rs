//! Small private allocations by several CPUs: how often they write to what they share, and how long they take beside one alone.

use std::fmt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::times::Times;
use super::{BUILD, PACKAGE, folder, run};
use crate::workspace;

/// It takes a second.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// Operations for each atomic write to a line that CPUs share, at least.
pub const FOR_EACH_WRITE: u64 = 32;
/// The group of criterion's.
const GROUP: &str = "small-private";

/// What so many threads did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Threads, one for each CPU.
    pub threads: u64,
    /// Frames taken and given back.
    pub operations: u64,
    /// Takes of the lock.
    pub locks: u64,
    /// Atomic writes to it, attempts that failed among them.
    pub writes: u64,
}

/// Builds the program and counts.
///
/// # Errors
/// It can't be built or run, or what it says is no count.
pub fn take() -> Result<Vec<Line>> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", PACKAGE, "--bins"]);
    run("build the benchmark", &mut cargo, BUILD)?;
    let lines = folder("contention")?.join("lines");
    let file = std::fs::File::create(&lines).context("make a file for what is counted")?;
    let mut program = Command::new(workspace::target_folder()?.join("release/contention"));
    run("count writes", program.stdout(file), LIMIT)?;
    parse(&std::fs::read_to_string(&lines).context("read what was counted")?)
}

fn parse(text: &str) -> Result<Vec<Line>> {
    let line = |line: &str| -> Option<Line> {
        let mut numbers = line.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Line {
            threads: next()?,
            operations: next()?,
            locks: next()?,
            writes: next()?,
        })
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("`{text}` is no count")))
        .collect()
}

/// What the counts must be.
///
/// # Errors
/// What is missed.
pub fn goal(lines: &[Line]) -> Result<(), String> {
    if lines.len() < 2 {
        return Err("small allocations were not counted with several threads".into());
    }
    let missed = lines
        .iter()
        .find(|line| line.writes * FOR_EACH_WRITE > line.operations);
    match missed {
        None => Ok(()),
        Some(line) => Err(format!(
            "{} threads: {} writes to what they share for {} operations: more than one for {FOR_EACH_WRITE}",
            line.threads, line.writes, line.operations
        )),
    }
}

/// The counts, and the times where there are any.
pub struct Table<'t>(pub &'t [Line], pub Option<&'t Times>);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        writeln!(
            f,
            "Small private allocations, 1024 frames taken and given back in turn; this machine has {cores} CPUs\n\
             {:>8}{:>12}{:>10}{:>10}{:>22}{:>22}",
            "threads", "operations", "locks", "writes", "operations a write", "time to one thread's"
        )?;
        let Self(lines, times) = self;
        let time = |threads: u64| Some(times.as_ref()?.of(&format!("{GROUP}/{threads}"))?.median);
        for line in *lines {
            let ratio = time(line.threads).zip(time(1)).map(|(many, one)| many / one);
            let shown = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let more = if line.threads > cores as u64 { " *" } else { "" };
            writeln!(
                f,
                "{:>8}{:>12}{:>10}{:>10}{:>22.1}{shown:>22}{more}",
                line.threads,
                line.operations,
                line.locks,
                line.writes,
                line.operations as f64 / line.writes.max(1) as f64
            )?;
        }
        writeln!(
            f,
            "  * more threads than CPUs: they wait for each other whatever they do"
        )?;
        writeln!(f, "  goal: at least {FOR_EACH_WRITE} operations a write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_can_be_missed() {
        let lines = parse("1 3200 50 100\n2 6400 100 200\n").unwrap();
        assert_eq!(lines[1].threads, 2);
        assert_eq!(goal(&lines), Ok(()));
        assert!(goal(&parse("1 3200 50 100\n2 6400 100 201\n").unwrap()).is_err());
        assert!(goal(&lines[..1]).is_err());
        assert!(parse("1 3200 50\n").is_err());
    }
}
