//! Instructions, counted by callgrind.
//!
//! The programs call one function around each thing to be counted and print a line for it. Callgrind counts inside that function and
//! writes a file before each call of it, so the n-th line belongs to the file n + 1, and the last to the one at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};

use super::{BUILD, PACKAGE, folder, run};
use crate::{setup, workspace};

/// The function that callgrind looks for.
const FUNCTION: &str = "memory_benches::counting::counted_by_callgrind";
/// The longest took 12 s on two busy cores.
const LIMIT: Duration = Duration::from_secs(600);
/// What counts nothing: the instructions of the frame around each operation.
const EMPTY: &str = "empty";
/// Parts of mangled names of the code that regions need beside the frame records.
const REGION_CODE: [&str; 4] = [
    "6memory6region",
    "6memory10direct_map",
    "6memory3tlb",
    "6memory5guest",
];

/// One thing that was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Its name; parts are separated by `/`.
    pub name: String,
    /// How often it was done.
    pub times: u64,
    /// Instructions of all of them, the frame around included.
    pub instructions: u64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<Count>);

impl Counts {
    /// Instructions of one operation, without those of the frame around.
    pub fn each(&self, name: &str) -> Option<f64> {
        let each = |name: &str| {
            let count = self.0.iter().find(|count| count.name == name)?;
            Some(count.instructions as f64 / count.times.max(1) as f64)
        };
        Some(each(name)? - each(EMPTY)?)
    }

    /// What follows `prefix` and a `/` in the names that begin so, each once, in the order in which it was counted.
    pub fn below(&self, prefix: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for count in &self.0 {
            let rest = count
                .name
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('/'));
            if let Some(part) = rest.and_then(|rest| rest.split('/').next())
                && !found.contains(&part)
            {
                found.push(part);
            }
        }
        found
    }
}

/// Makes sure that valgrind is there.
///
/// # Errors
/// It is missing and may not be installed from here.
pub fn set_up() -> Result<()> {
    setup::valgrind()
}

/// Why instructions can't be counted here.
pub fn obstacle() -> Option<String> {
    setup::find(setup::VALGRIND)
        .is_none()
        .then(|| "valgrind is not installed".to_owned())
}

/// Builds the programs and counts.
///
/// # Errors
/// They can't be built or run, or what they say does not fit together.
pub fn take() -> Result<Counts> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", PACKAGE, "--bins"]);
    run("build the benchmark", &mut cargo, BUILD)?;
    let built = workspace::target_folder()?.join("release");
    let (with, without) = (built.join("counts"), built.join("ordinary"));
    if !has_region_code(&with)? || has_region_code(&without)? {
        bail!("`ordinary` must be a program without code for regions, and `counts` one with it");
    }
    let mut counts = of_program(&with)?;
    counts.0.extend(of_program(&without)?.0);
    Ok(counts)
}

/// Whether a program has code that regions need.
fn has_region_code(program: &Path) -> Result<bool> {
    let file = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let object = object::File::parse(&*file).with_context(|| format!("read {}", program.display()))?;
    Ok(object
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .any(|name| REGION_CODE.iter().any(|part| name.contains(part))))
}

/// Runs one of the programs.
fn of_program(program: &Path) -> Result<Counts> {
    let folder = folder("callgrind")?;
    let (files, lines, messages) = (folder.join("out"), folder.join("lines"), folder.join("messages"));
    let mut valgrind = Command::new(setup::VALGRIND);
    valgrind
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", files.display()))
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(format!("--dump-before={FUNCTION}"))
        .arg(program)
        .stdout(File::create(&lines).context("make a file for what is counted")?)
        .stderr(File::create(&messages).context("make a file for valgrind's messages")?);
    run(
        &format!("valgrind (its messages are in {})", messages.display()),
        &mut valgrind,
        LIMIT,
    )?;
    let text = fs::read_to_string(&lines).context("read what was counted")?;
    pair(&text, |number| {
        let mut path = files.clone().into_os_string();
        if let Some(number) = number {
            path.push(format!(".{number}"));
        }
        let path = PathBuf::from(path);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    })
}

/// Gives each line of a program the total of its file; `file` reads the one with a number, or the last.
fn pair(lines: &str, file: impl Fn(Option<usize>) -> Result<String>) -> Result<Counts> {
    let of = lines.lines().count();
    let counts = lines.lines().enumerate().map(|(index, line)| {
        let (name, times) = line.split_once(' ').context("a line without a count")?;
        // The first file is of what came before the first call.
        let text = file((index + 1 < of).then_some(index + 2))?;
        let total = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .with_context(|| format!("callgrind has no total for {name}"))?;
        Ok(Count {
            name: name.to_owned(),
            times: times.parse().context("how often something was done")?,
            instructions: total.trim().parse().context("callgrind's total")?,
        })
    });
    Ok(Counts(counts.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_files_belong_together() {
        let file = |number: Option<usize>| match number {
            Some(2) => Ok("summary: 9\ntotals: 1000\n".to_owned()),
            Some(3) => Ok("totals: 200\n".to_owned()),
            None => Ok("totals: 70\n".to_owned()),
            Some(number) => bail!("no file {number}"),
        };
        let counts = pair("empty 100\na/b/x 4\na/c/x 2\n", file).unwrap();
        assert_eq!(counts.each("a/b/x"), Some(40.0));
        assert_eq!(counts.each("a/c/x"), Some(25.0));
        assert_eq!(counts.each("a/d"), None);
        assert_eq!(counts.below("a"), ["b", "c"]);
        assert!(pair("empty 100\n", |_| Ok("nothing".into())).is_err());
        assert!(pair("empty\n", |_| Ok("totals: 1".into())).is_err());
    }
}
