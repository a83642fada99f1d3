//! The tests: which of them reach a function, what each costs, and whether one of them notices a change.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::weave::{REACHED, VARIABLE};
use crate::interrupt;

/// Histories that each property test tries at first: most changes that histories notice they notice in these.
const HISTORIES: u32 = 12;
/// The same for what nothing else notices.
const MORE_HISTORIES: u32 = 120;
/// The address space of a test program. One that loops and takes memory fails.
const MOST_MEMORY: &str = "--as=8589934592";
/// Hundredths of a second of processor time that tests have together that run in one process.
const TOGETHER: u64 = 30;
/// Quotas of processor time: so many times what the tests took, and seconds besides. A change that loops is a test that fails, soon, and
/// however busy the machine is.
const TIMES: u64 = 4;
/// See [`TIMES`].
const BESIDES: u64 = 2;
/// One test that fails is enough. The variable lets the tests of a stable toolchain know it.
const STOP: [&str; 2] = ["-Zunstable-options", "--fail-fast"];

/// One test.
#[derive(Serialize, Deserialize)]
struct Test {
    /// The program, by its place in the list.
    program: usize,
    name: String,
    /// Processor time, in hundredths of a second.
    cost: u64,
    /// The functions that it comes to, by their numbers.
    reached: HashSet<usize>,
}

/// Some of the tests.
pub struct Round {
    /// What one of them costs at most or more, in hundredths of a second.
    costs: Range<u64>,
    /// Whether only histories.
    only_histories: bool,
    /// How many of them each test tries.
    histories: u32,
}

/// One after the other for what is left of all changes: so the quick tests have tried each before a slow one tries the first.
pub const ROUNDS: [Round; 3] = [
    Round {
        costs: 0..TOGETHER,
        only_histories: false,
        histories: HISTORIES,
    },
    Round {
        costs: TOGETHER..u64::MAX,
        only_histories: false,
        histories: HISTORIES,
    },
    Round {
        costs: 0..u64::MAX,
        only_histories: true,
        histories: MORE_HISTORIES,
    },
];

/// All tests, the quick ones first.
pub struct Suite {
    tests: Vec<Test>,
    folder: PathBuf,
}

impl Suite {
    /// Runs each test by itself, without any change. What came of it is kept, for the same programs.
    ///
    /// # Errors
    /// A test fails, or Ctrl-C came.
    pub fn measure(programs: &[PathBuf], folder: PathBuf, kept: &Path) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        for program in programs {
            let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
            bytes.hash(&mut hasher);
        }
        let of = hasher.finish();
        let mut suite = Self {
            tests: Vec::new(),
            folder,
        };
        if let Ok(text) = fs::read_to_string(kept)
            && let Ok((programs, tests)) = serde_json::from_str::<(u64, Vec<Test>)>(&text)
            && programs == of
        {
            suite.tests = tests;
            return Ok(suite);
        }
        let notes = kept.with_extension("reached");
        for (program, path) in programs.iter().enumerate() {
            for name in names(path)? {
                fs::write(&notes, "").with_context(|| format!("write {}", notes.display()))?;
                let before = children_time()?;
                let mut command = suite.command(path, &[&name], 600, HISTORIES);
                command.env(REACHED, &notes);
                if !succeeds(&mut command)? {
                    bail!("{name} fails without any change");
                }
                let cost = children_time()? - before;
                let text = fs::read_to_string(&notes).context("read which functions a test reaches")?;
                let reached = text.lines().filter_map(|line| line.parse().ok()).collect();
                suite.tests.push(Test {
                    program,
                    name,
                    cost,
                    reached,
                });
            }
        }
        suite.tests.sort_by_key(|test| test.cost);
        let text = serde_json::to_string(&(of, &suite.tests)).context("write what tests cost")?;
        fs::write(kept, text).with_context(|| format!("write {}", kept.display()))?;
        Ok(suite)
    }

    /// How many tests there are.
    pub fn len(&self) -> usize {
        self.tests.len()
    }

    /// Whether a test of a round and of these programs, the first ones or all, notices a change: the one with this number, or the one that
    /// they are built with. Only tests that come to the function can; `None` is any.
    ///
    /// # Errors
    /// A program cannot be started, or Ctrl-C came.
    pub fn notices(
        &self,
        round: &Round,
        programs: &[PathBuf],
        function: Option<usize>,
        change: Option<usize>,
    ) -> Result<bool> {
        let able = self.tests.iter().filter(|test| {
            test.program < programs.len()
                && function.is_none_or(|function| test.reached.contains(&function))
                && round.has(test)
        });
        for (program, names, cost) in batches(able) {
            let factor = u64::from(round.histories / HISTORIES);
            let quota = cost * factor * TIMES / 100 + BESIDES;
            let mut command = self.command(&programs[program], &names, quota, round.histories);
            if let Some(number) = change {
                command.env(VARIABLE, number.to_string());
            }
            if !succeeds(&mut command)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn command(&self, program: &Path, names: &[&str], seconds: u64, histories: u32) -> Command {
        let mut command = Command::new("prlimit");
        command
            .args([&format!("--cpu={seconds}"), MOST_MEMORY])
            .arg(program)
            .arg("--exact")
            .args(names)
            .args(STOP)
            .current_dir(&self.folder)
            .process_group(0)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUST_TEST_THREADS", "1")
            // A failure is a failure: nobody reads how it is shrunk.
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("LACUNA_HISTORIES", histories.to_string())
            .env_remove(VARIABLE)
            .env_remove(REACHED)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Round {
    fn has(&self, test: &Test) -> bool {
        self.costs.contains(&test.cost) && (!self.only_histories || test.name.starts_with("histories::"))
    }
}

/// Quick tests of one program run in one process, slower ones each in one of their own; what is cheapest comes first.
fn batches<'t>(tests: impl Iterator<Item = &'t Test>) -> Vec<(usize, Vec<&'t str>, u64)> {
    let mut done = Vec::new();
    let mut open: BTreeMap<usize, (Vec<&str>, u64)> = BTreeMap::new();
    for test in tests {
        let (names, cost) = open.entry(test.program).or_default();
        if !names.is_empty() && *cost + test.cost > TOGETHER {
            done.push((test.program, std::mem::take(names), std::mem::take(cost)));
        }
        names.push(&test.name);
        *cost += test.cost;
    }
    done.extend(
        open.into_iter()
            .map(|(program, (names, cost))| (program, names, cost)),
    );
    done.sort_by_key(|(_, _, cost)| *cost);
    done
}

fn succeeds(command: &mut Command) -> Result<bool> {
    if interrupt::asked() {
        bail!("interrupted");
    }
    Ok(command.status().context("start a test program")?.success())
}

/// The names of a program's tests.
fn names(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .args(["--list", "--format=terse"])
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let text = String::from_utf8(output.stdout).context("read the names of tests")?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Processor time of all children that have ended, in hundredths of a second: `cutime` and `cstime` of proc(5), in ticks of USER_HZ, which
/// is 100 on x86.
fn children_time() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The name is in parentheses, and may have spaces in it.
    let (_, rest) = text.rsplit_once(')').context("read /proc/self/stat")?;
    let fields: Vec<u64> = rest
        .split_whitespace()
        .skip(13)
        .take(2)
        .flat_map(str::parse)
        .collect();
    Ok(fields.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_tests_run_together_and_slow_ones_last() {
        let test = |program, name: &str, cost| Test {
            program,
            name: name.into(),
            cost,
            reached: HashSet::new(),
        };
        let tests = [
            test(0, "a", 0),
            test(1, "b", 1),
            test(0, "c", 2),
            test(1, "d", 40),
            test(1, "e", 300),
            test(0, "f", 500),
        ];
        let batches = batches(tests.iter());
        let names: Vec<_> = batches.iter().map(|(_, names, _)| names.concat()).collect();
        assert_eq!(names, ["b", "ac", "d", "e", "f"]);
    }

    #[test]
    fn the_time_of_children_grows() {
        let before = children_time().unwrap();
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", spin]).status().unwrap().success());
        assert!(children_time().unwrap() > before);
    }
}
