//! A copy of the workspace in which changes are made, and the test programs that are built there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::SOURCES;
use super::weave::{Mutant, weave, with_switch};
use crate::process::Process;
use crate::workspace;

/// What is tested, and by whose tests.
const PACKAGES: [&str; 2] = ["--package=memory", "--package=pool-behaviours"];
/// The programs of tests, the quickest to build first: by kind of target, and by name. Those of `memory` are in one program, which is built in half the time.
pub const PROGRAMS: [(&str, &str); 3] = [("lib", "memory"), ("test", "all"), ("test", "model")];
/// How often changes that do not build are taken out: type by type, then what they borrow. A choice; it takes three.
const ROUNDS: usize = 12;
/// One build.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// A copy.
pub struct Tree {
    folder: PathBuf,
    tree: PathBuf,
}

/// What became of the changes when all were built together.
pub struct Together {
    pub programs: Vec<PathBuf>,
    /// The function that each change is in, by the number of one of its changes; there is none where the change is in no function.
    pub functions: HashMap<usize, usize>,
    /// What the compiler refuses.
    pub unviable: HashSet<usize>,
    /// What cannot be behind a switch.
    pub left_out: HashSet<usize>,
}

impl Tree {
    /// Copies the workspace into a folder; what was built there before is used again.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn new(folder: &Path) -> Result<Self> {
        let tree = folder.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        }
        copy(&workspace::root(), &tree)?;
        Ok(Self {
            folder: folder.to_owned(),
            tree,
        })
    }

    /// Where the tests run.
    pub fn tests_folder(&self) -> PathBuf {
        self.tree.join("hypervisor/memory")
    }

    /// Builds the tests with all changes, each behind the switch.
    ///
    /// # Errors
    /// They cannot be built together.
    pub fn together(&self, mutants: &[Mutant]) -> Result<Together> {
        let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
        for (number, mutant) in mutants.iter().enumerate() {
            by_file.entry(&mutant.file).or_default().push((number, mutant));
        }
        let crate_root = format!("{SOURCES}lib.rs");
        let text = original(&crate_root)?;
        self.write(&crate_root, &with_switch(&text, mutants.len()))?;
        let (mut left_out, mut unviable) = (HashSet::new(), HashSet::new());
        for _ in 0..ROUNDS {
            let (mut arms, mut functions) = (BTreeMap::new(), HashMap::new());
            for (file, list) in &by_file {
                let woven = weave(&original(file)?, list, &unviable, &mut left_out);
                self.write(file, &woven.text)?;
                arms.insert(*file, woven.arms);
                functions.extend(woven.functions);
            }
            let Some(errors) = self.check()? else {
                return Ok(Together {
                    programs: self
                        .build(&PROGRAMS)?
                        .context("the tests with all changes do not build")?,
                    functions,
                    unviable,
                    left_out,
                });
            };
            let before = unviable.len();
            for error in &errors {
                let spans = error["spans"].as_array().into_iter().flatten();
                for span in spans.filter(|span| span["is_primary"] == true) {
                    let line = span["line_start"]
                        .as_u64()
                        .and_then(|line| usize::try_from(line).ok());
                    let arms = span["file_name"].as_str().and_then(|file| arms.get(file));
                    let hit = arms
                        .into_iter()
                        .flatten()
                        .filter(|(lines, _)| line.is_some_and(|line| lines.contains(&line)));
                    unviable.extend(hit.map(|(_, number)| *number));
                }
            }
            if before == unviable.len() {
                let messages: Vec<_> = errors
                    .iter()
                    .filter_map(|error| error["rendered"].as_str())
                    .collect();
                bail!("the changes cannot be built together:\n{}", messages.concat());
            }
        }
        bail!("after {ROUNDS} rounds there are still changes that do not build")
    }

    /// Builds so many of the programs with one change alone; `None` when they do not build.
    ///
    /// # Errors
    /// A file cannot be read or written, or the build does not end.
    pub fn alone(&self, mutant: &Mutant, programs: usize) -> Result<Option<Vec<PathBuf>>> {
        self.restore()?;
        self.write(&mutant.file, &mutant.applied(&original(&mutant.file)?))?;
        self.build(&PROGRAMS[..programs])
    }

    /// Takes all changes back.
    fn restore(&self) -> Result<()> {
        fn restore(from: &Path, to: &Path) -> Result<()> {
            for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
                let path = entry.context("read a folder")?.path();
                let there = to.join(path.file_name().unwrap_or_default());
                if path.is_dir() {
                    restore(&path, &there)?;
                } else if fs::read(&path).ok() != fs::read(&there).ok() {
                    fs::copy(&path, &there).with_context(|| format!("copy {}", path.display()))?;
                }
            }
            Ok(())
        }
        restore(&workspace::root().join(SOURCES), &self.tree.join(SOURCES))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.tree.join(file);
        // What is the same is not built again.
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// A command of cargo. Warnings are of no interest here.
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = workspace::cargo();
        command
            .args(arguments)
            .args(PACKAGES)
            .args(["--message-format=json", "--target-dir"])
            .arg(self.folder.join("build"))
            // Tests and what they use a little faster; nobody debugs.
            .args(["--config=profile.dev.opt-level=1", "--config=profile.dev.debug=0"])
            .current_dir(&self.tree)
            .env("RUSTFLAGS", "--cap-lints=allow")
            // The switch is for a toolchain of every night.
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("CARGO_TARGET_DIR")
            .stderr(Stdio::null());
        command
    }

    /// What a command of cargo says, line by line, and whether it went well.
    fn messages(&self, command: &mut Command) -> Result<(Vec<Value>, bool)> {
        let file = self.folder.join("messages.json");
        let output = fs::File::create(&file).with_context(|| format!("make {}", file.display()))?;
        let status = Process::start(command.stdout(output))?.wait(LIMIT)?;
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok((lines.collect(), status.success()))
    }

    /// The errors of a check; `None` when there are none.
    fn check(&self) -> Result<Option<Vec<Value>>> {
        let (lines, fine) = self.messages(&mut self.cargo(&["check", "--lib"]))?;
        let errors = lines
            .into_iter()
            .map(|mut line| line["message"].take())
            .filter(|message| message["level"] == "error")
            .collect();
        Ok((!fine).then_some(errors))
    }

    /// Builds programs of tests.
    fn build(&self, programs: &[(&str, &str)]) -> Result<Option<Vec<PathBuf>>> {
        let mut command = self.cargo(&["test", "--no-run"]);
        for (kind, name) in programs {
            command.arg(match *kind {
                "lib" => "--lib".to_owned(),
                _ => format!("--test={name}"),
            });
        }
        let (lines, fine) = self.messages(&mut command)?;
        let program = |(kind, name): &(&str, &str)| {
            let found = lines.iter().find(|line| {
                line["executable"].is_string()
                    && line["target"]["name"] == *name
                    && line["target"]["kind"][0] == *kind
            });
            found
                .and_then(|line| line["executable"].as_str())
                .map(PathBuf::from)
        };
        Ok(if fine {
            programs.iter().map(program).collect()
        } else {
            None
        })
    }
}

/// A source as it is, by its path from the workspace on.
fn original(file: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(file)).with_context(|| format!("read {file}"))
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
