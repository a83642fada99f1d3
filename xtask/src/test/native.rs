//! What runs on the host beside cargo's own tests: the examples of the memory subsystem, which fail when something does not hold, and its
//! instruction counts.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::native::{counts, goals};
use crate::process::Process;
use crate::test::Verdict;
use crate::{interrupt, workspace};

/// What needs no machine beside cargo's own tests.
pub struct Test {
    /// Its name.
    pub name: String,
    /// What it shows, in a few words.
    pub about: &'static str,
    kind: Kind,
}

enum Kind {
    /// An example of the package `memory`.
    Example(String),
    Counts,
}

/// The folder of the examples.
const EXAMPLES: &str = "hypervisor/memory/examples";
/// Building one takes a minute on two busy cores, running it a second.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// All of it.
///
/// # Errors
/// The examples can't be listed.
pub fn tests() -> Result<Vec<Test>> {
    let folder = workspace::root().join(EXAMPLES);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("look into {}", folder.display()))? {
        let path = entry.context("look into a folder")?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    let examples = names.into_iter().map(|name| Test {
        name: format!("host::example-{name}"),
        about: "an example of the package memory holds what it says",
        kind: Kind::Example(name),
    });
    Ok(examples
        .chain([Test {
            name: "host::instruction-counts".into(),
            about: "a private frame takes at most 60 instructions, host memory none more with regions, one more region as many on any machine",
            kind: Kind::Counts,
        }])
        .collect())
}

/// Runs one of them.
///
/// # Errors
/// Ctrl-C came.
pub fn run(test: &Test) -> Result<Verdict> {
    let start = Instant::now();
    let held = match &test.kind {
        Kind::Example(name) => example(name),
        Kind::Counts => {
            // What can't be brought is a reason to skip.
            let missing = counts::set_up().err().map(|error| format!("{error:#}"));
            if let Some(reason) = missing.or_else(counts::obstacle) {
                return Ok(Verdict::Skip(reason));
            }
            let counts = counts::take();
            counts
                .map_err(|error| format!("{error:#}"))
                .and_then(|counts| goals::counts(&counts))
        }
    };
    if interrupt::asked() {
        anyhow::bail!("interrupted");
    }
    Ok(match held {
        Ok(()) => Verdict::Ok(format!("{:.1} s", start.elapsed().as_secs_f64())),
        Err(reason) => Verdict::Failed(reason),
    })
}

fn example(name: &str) -> Result<(), String> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--package", "memory", "--example", name]);
    let (mut output, input) = std::io::pipe().map_err(|error| error.to_string())?;
    let shared = input.try_clone().map_err(|error| error.to_string())?;
    cargo.stdout(shared).stderr(Stdio::from(input));
    let status = Process::start(&mut cargo).and_then(|mut process| process.wait(EXAMPLE_LIMIT));
    // Or the end of what it printed would never be seen. An example prints less than a pipe holds.
    drop(cargo);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut output, &mut text).map_err(|error| error.to_string())?;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}\n{}", text.trim_end())),
        Err(error) => Err(format!("{error:#}\n{}", text.trim_end())),
    }
}
