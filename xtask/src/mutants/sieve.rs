//! The first look at all changes: one build with each behind a switch, and the tests once for each. Who is noticed here is done with.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::weave::{Mutant, VARIABLE, weave, with_switch};
use super::{SOURCES, STOP};
use crate::process::Process;
use crate::{interrupt, workspace};

/// Tests that take seconds, each of these by itself after all others. Most changes are noticed before.
const SLOW: [&str; 5] = [
    "histories::",
    "metadata::",
    "gigablocks::few_gigablocks_are_broken_at_every_peak",
    "pool::any_order_of_requests_leaves_no_trace",
    "no_memory::",
];
/// Histories that each property test tries: most changes that histories notice they notice in these.
const HISTORIES: &str = "12";
/// What each run of a test program may use, several times what it takes: seconds of processor time, and bytes of address space. A change that
/// loops is a test that fails, soon, and however busy the machine is.
const LIMITS: [&str; 3] = ["prlimit", "--cpu=20", "--as=8589934592"];
/// How often changes that do not build are taken out: type by type, then what they borrow. A choice; it takes three.
const ROUNDS: usize = 12;
/// One build.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Tries the changes; the numbers of those that a test noticed. What cannot be behind a switch, or does not build, is not among them.
///
/// # Errors
/// The copy cannot be made, the changes cannot be built together, the tests fail without any, or Ctrl-C came.
pub fn noticed(mutants: &[Mutant], folder: &Path, jobs: usize) -> Result<HashSet<usize>> {
    let tree = folder.join("tree");
    copy(&workspace::root(), &tree)?;
    let left_out = weave_all(mutants, folder, &tree)?;
    let programs = build(folder, &tree)?;
    if run(&programs, &tree, None)? {
        bail!("the tests fail without any change");
    }
    let rest: Vec<usize> = (0..mutants.len())
        .filter(|number| !left_out.contains(number))
        .collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(HashSet::new())));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(number) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(&programs, &tree, Some(*number));
                    let Ok(mut found) = found.lock() else { return };
                    match (&mut *found, result) {
                        (Ok(found), Ok(true)) => {
                            found.insert(*number);
                        }
                        (Ok(_), Ok(false)) => {}
                        (Ok(_), Err(error)) => *found = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    let found = found
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())?;
    eprintln!("mutants: {} of {} noticed in one build", found.len(), rest.len());
    Ok(found)
}

/// Copies the workspace, without what git and cargo keep in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.context("read a folder")?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().context("look at a file")?;
        if kind.is_dir()
            && !["target", ".git", crate::folder::RUNS]
                .iter()
                .any(|skipped| name == *skipped)
        {
            copy(&path, &to.join(&name))?;
        } else if kind.is_file() {
            fs::copy(&path, to.join(&name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Writes the sources with all changes into the copy; the numbers of those that are not in it.
fn weave_all(mutants: &[Mutant], folder: &Path, tree: &Path) -> Result<HashSet<usize>> {
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        by_file.entry(&mutant.file).or_default().push((number, mutant));
    }
    let root = workspace::root();
    let crate_root = format!("{SOURCES}lib.rs");
    let text = fs::read_to_string(root.join(&crate_root)).context("read the root of the crate")?;
    fs::write(tree.join(&crate_root), with_switch(&text)).context("write the root of the crate")?;
    let (mut left_out, mut constant) = (HashSet::new(), HashSet::new());
    for _ in 0..ROUNDS {
        let mut arms = BTreeMap::new();
        for (file, list) in &by_file {
            let source = fs::read_to_string(root.join(file)).with_context(|| format!("read {file}"))?;
            let woven = weave(&source, list, &constant, &mut left_out);
            fs::write(tree.join(file), woven.text).with_context(|| format!("write {file}"))?;
            arms.insert(*file, woven.arms);
        }
        let errors = check(folder, tree)?;
        let Some(errors) = errors else {
            return Ok(left_out);
        };
        let before = (left_out.len(), constant.len());
        for error in &errors {
            let spans = error["spans"].as_array().into_iter().flatten();
            let primary: Vec<_> = spans.filter(|span| span["is_primary"] == true).collect();
            for span in &primary {
                let line = span["line_start"]
                    .as_u64()
                    .and_then(|line| usize::try_from(line).ok());
                let arms = span["file_name"].as_str().and_then(|file| arms.get(file));
                let hit = arms
                    .into_iter()
                    .flatten()
                    .filter(|(lines, _)| line.is_some_and(|line| lines.contains(&line)));
                left_out.extend(hit.map(|(_, number)| *number));
            }
            // A function that is called where only constants may be.
            let message = error["message"].as_str().unwrap_or_default();
            if message.starts_with("cannot call non-const")
                && let Some(name) = message.split('`').nth(1)
            {
                constant.insert(name.to_owned());
            }
        }
        if before == (left_out.len(), constant.len()) {
            let messages: Vec<_> = errors
                .iter()
                .filter_map(|error| error["rendered"].as_str())
                .collect();
            bail!("the changes cannot be built together:\n{}", messages.concat());
        }
    }
    bail!("after {ROUNDS} rounds there are still changes that do not build")
}

/// A command of cargo in the copy. Warnings are of no interest there.
fn cargo(folder: &Path, tree: &Path, arguments: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command
        .args(arguments)
        .args(["--package=memory", "--message-format=json", "--target-dir"])
        .arg(folder.join("build"))
        // Tests and what they use a little faster; nobody debugs.
        .args(["--config=profile.dev.opt-level=1", "--config=profile.dev.debug=0"])
        .current_dir(tree)
        .env("RUSTFLAGS", "--cap-lints=allow")
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::null());
    command
}

/// What a command of cargo says, line by line, and whether it went well.
fn messages(command: &mut Command, folder: &Path) -> Result<(Vec<Value>, bool)> {
    let file = folder.join("messages.json");
    let output = fs::File::create(&file).with_context(|| format!("make {}", file.display()))?;
    let status = Process::start(command.stdout(output))?.wait(LIMIT)?;
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok((lines.collect(), status.success()))
}

/// The errors of a check; `None` when there are none.
fn check(folder: &Path, tree: &Path) -> Result<Option<Vec<Value>>> {
    let (lines, fine) = messages(&mut cargo(folder, tree, &["check", "--lib"]), folder)?;
    let errors = lines
        .into_iter()
        .map(|mut line| line["message"].take())
        .filter(|message| message["level"] == "error")
        .collect();
    Ok((!fine).then_some(errors))
}

/// Builds the unit tests and the program of all others.
fn build(folder: &Path, tree: &Path) -> Result<[PathBuf; 2]> {
    let arguments = ["test", "--no-run", "--lib", "--test=all"];
    let (lines, fine) = messages(&mut cargo(folder, tree, &arguments), folder)?;
    let program = |kind: &str, name: &str| {
        let found = lines.iter().find(|line| {
            line["executable"].is_string()
                && line["target"]["name"] == name
                && line["target"]["kind"][0] == kind
        });
        found
            .and_then(|line| line["executable"].as_str())
            .map(PathBuf::from)
    };
    match (fine, program("lib", "memory"), program("test", "all")) {
        (true, Some(unit), Some(all)) => Ok([unit, all]),
        _ => bail!("the tests with all changes do not build"),
    }
}

/// Runs the tests with one change; whether one of them fails.
fn run([unit, all]: &[PathBuf; 2], tree: &Path, change: Option<usize>) -> Result<bool> {
    let skipped: Vec<&str> = SLOW.iter().flat_map(|name| ["--skip", name]).collect();
    let mut stages = vec![(unit, Vec::new()), (all, skipped)];
    stages.extend(SLOW.iter().map(|name| (all, vec![*name])));
    for (program, arguments) in stages {
        if interrupt::asked() {
            bail!("interrupted");
        }
        let mut command = Command::new(LIMITS[0]);
        command
            .args(&LIMITS[1..])
            .arg(program)
            .args(arguments)
            .args(STOP)
            .current_dir(tree.join("hypervisor/memory"))
            .process_group(0)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUST_TEST_THREADS", "1")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("LACUNA_HISTORIES", HISTORIES)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match change {
            Some(number) => command.env(VARIABLE, number.to_string()),
            None => command.env_remove(VARIABLE),
        };
        if !command.status().context("start a test program")?.success() {
            return Ok(true);
        }
    }
    Ok(false)
}
