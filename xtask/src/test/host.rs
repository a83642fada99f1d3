//! Runs a set of cargo's tests (`suites`): one line for each program of tests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::process::Process;
use crate::test::suites::Suite;
use crate::test::{Tally, Verdict};

/// How many of the last lines of cargo's output are shown when it did not even build.
const TAIL: usize = 40;

/// Runs a set of tests.
///
/// # Errors
/// cargo can't be started, or Ctrl-C came.
pub fn run(suite: &Suite, target: &Path, long: bool, tally: &mut Tally) -> Result<()> {
    if let Some(obstacle) = (suite.obstacle)() {
        Tally::begin(suite.name);
        tally.end(suite.name, 1, Verdict::Skip(obstacle));
        return Ok(());
    }
    let mut cargo = (suite.command)(target, long);
    // Both streams into one pipe: the results only make sense in their order.
    let (output, input) = std::io::pipe().context("make a pipe")?;
    cargo
        .stdout(input.try_clone().context("share a pipe")?)
        .stderr(Stdio::from(input));
    println!("{}", suite.note);
    let mut process = Process::start(&mut cargo)?;
    // The command still holds its ends of the pipe; without this the reader would never see the end.
    drop(cargo);
    let name = suite.name;
    let reader = thread::spawn(move || {
        let mut sorter = Sorter::new(name);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(result) = sorter.line(&line) {
                println!("{}", result.text());
            }
        }
        sorter
    });
    let status = process.wait(suite.limit).context("cargo test")?;
    let sorter = reader
        .join()
        .map_err(|_| anyhow!("the reader of cargo's output failed"))?;
    for result in &sorter.results {
        match &result.failures {
            failures if failures.is_empty() => tally.passed += 1,
            _ => tally.failed.push(result.name.clone()),
        }
    }
    if !status.success() && sorter.results.iter().all(|result| result.failures.is_empty()) {
        let tail = sorter
            .lines
            .get(sorter.lines.len().saturating_sub(TAIL)..)
            .unwrap_or_default()
            .join("\n");
        Tally::begin(name);
        tally.end(
            name,
            1,
            Verdict::Failed(format!("cargo test failed before its tests ended\n{tail}")),
        );
    }
    Ok(())
}

/// What one program of tests did.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    passed: u32,
    ignored: u32,
    /// Everything that it printed, when it failed.
    failures: Vec<String>,
}

impl Program {
    fn text(&self) -> String {
        let ignored = match self.ignored {
            0 => String::new(),
            ignored => format!(", {ignored} ignored"),
        };
        let head = format!("test {} ... ", self.name);
        match self.failures.as_slice() {
            [] => format!("{head}ok ({} passed{ignored})", self.passed),
            lines => format!("{head}FAILED\n    {}", lines.join("\n    ")),
        }
    }
}

/// Sorts the lines of `cargo test` by program.
struct Sorter {
    /// The name of the set.
    suite: &'static str,
    results: Vec<Program>,
    current: String,
    /// The lines since the last result.
    lines: Vec<String>,
}

impl Sorter {
    fn new(suite: &'static str) -> Self {
        Self {
            suite,
            results: Vec::new(),
            current: String::new(),
            lines: Vec::new(),
        }
    }

    /// Takes the next line; returns the program that it ends.
    fn line(&mut self, line: &str) -> Option<&Program> {
        self.lines.push(line.to_owned());
        let text = line.trim_start();
        if let Some(rest) = text.strip_prefix("Running ") {
            self.begin(program_name(self.suite, rest));
        } else if let Some(package) = text.strip_prefix("Doc-tests ") {
            self.begin(format!("{}::{package} (documentation)", self.suite));
        } else if let Some(rest) = text.strip_prefix("test result: ") {
            let count = |word: &str| {
                let part = rest
                    .split(['.', ';'])
                    .map(str::trim)
                    .find_map(|part| part.strip_suffix(word));
                part.and_then(|part| part.trim().parse().ok()).unwrap_or(0)
            };
            let (passed, ignored) = (count("passed"), count("ignored"));
            let failed = !rest.starts_with("ok");
            let failures = if failed {
                std::mem::take(&mut self.lines)
            } else {
                Vec::new()
            };
            self.lines.clear();
            if passed + ignored == 0 && !failed {
                // A program without tests is no result.
                return None;
            }
            self.results.push(Program {
                name: self.current.clone(),
                passed,
                ignored,
                failures,
            });
            return self.results.last();
        }
        None
    }

    fn begin(&mut self, name: String) {
        self.current = name;
        self.lines.clear();
    }
}

/// A name from `unittests src/lib.rs (target/debug/deps/memory-0123456789abcdef)`.
fn program_name(suite: &str, running: &str) -> String {
    let (what, path) = running.split_once(" (").unwrap_or((running, running));
    let file = path.trim_end_matches(')').rsplit('/').next().unwrap_or(path);
    let stem = file.rsplit_once('-').map_or(file, |(stem, _)| stem);
    let kind = if what.starts_with("unittests") {
        ""
    } else {
        " (integration)"
    };
    format!("{suite}::{stem}{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "   Compiling memory v0.1.0
     Running unittests src/lib.rs (target/debug/deps/memory-0123456789abcdef)

running 2 tests
test a ... ok
test b ... FAILED

failures:

---- b stdout ----
oh no

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/command_line.rs (target/debug/deps/command_line-0123456789abcdef)
test result: ok. 10 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.14s
   Doc-tests audit
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
error: 1 target failed:
";

    #[test]
    fn programs_failures_and_empty_ones() {
        let mut sorter = Sorter::new("host");
        let texts: Vec<_> = OUTPUT
            .lines()
            .filter_map(|line| sorter.line(line).map(Program::text))
            .collect();
        assert_eq!(texts.len(), 2);
        assert!(
            texts[0].starts_with("test host::memory ... FAILED\n"),
            "{}",
            texts[0]
        );
        assert!(
            texts[0].contains("oh no") && !texts[0].contains("Compiling"),
            "{}",
            texts[0]
        );
        assert_eq!(
            texts[1],
            "test host::command_line (integration) ... ok (10 passed, 2 ignored)"
        );
        assert_eq!((sorter.results[0].passed, sorter.results[1].passed), (1, 10));
        assert_eq!(sorter.lines, ["error: 1 target failed:"]);
    }
}
