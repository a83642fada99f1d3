//! The distribution's packages: found, downloaded without being installed, and read.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::setup;

/// A package of 27 MB over a slow line.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A package's file.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    file: PathBuf,
}

impl Package {
    /// Takes the package from `cache`, or downloads it there.
    ///
    /// # Errors
    /// The programs of apt are missing, apt does not know the package, or the download fails; the text says what to do.
    pub fn fetch(name: &str, cache: &Path) -> Result<Self> {
        need(&["apt-get", "apt-cache", "dpkg-deb"])?;
        fs::create_dir_all(cache).with_context(|| format!("make the folder {}", cache.display()))?;
        let file = match find(name, cache)? {
            Some(file) => file,
            None => {
                download(name, cache)?;
                find(name, cache)?
                    .with_context(|| format!("apt-get left no package {name} in {}", cache.display()))?
            }
        };
        let version = said(Command::new("dpkg-deb").arg("--field").arg(&file).arg("Version"))?;
        Ok(Self {
            name: name.to_owned(),
            version: version.trim().to_owned(),
            file,
        })
    }

    /// Calls `take` with each file of the package: its path from the root, without `./`, and its contents.
    ///
    /// # Errors
    /// The package is damaged, or `take` fails.
    pub fn each(&self, mut take: impl FnMut(&str, &mut dyn Read) -> Result<()>) -> Result<()> {
        let mut command = Command::new("dpkg-deb");
        command.arg("--fsys-tarfile").arg(&self.file);
        let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let pipe = process.child().stdout.take().context("dpkg-deb's output")?;
        let mut archive = tar::Archive::new(pipe);
        let damaged = || format!("read {}; delete it and try again", self.file.display());
        for entry in archive.entries().with_context(damaged)? {
            let mut entry = entry.with_context(damaged)?;
            if entry.header().entry_type().is_file() {
                let path = entry.path().with_context(damaged)?.to_string_lossy().into_owned();
                take(path.trim_start_matches("./"), &mut entry)?;
            }
        }
        Ok(())
    }
}

/// The package on which the meta-package `name` depends whose name begins with `prefix`.
///
/// # Errors
/// apt does not know it.
pub fn dependency(name: &str, prefix: &str) -> Result<String> {
    need(&["apt-cache"])?;
    let ask = || said(Command::new("apt-cache").args(["show", "--no-all-versions", name]));
    let mut text = ask().unwrap_or_default();
    if text.is_empty() {
        setup::renew_lists();
        text = ask().unwrap_or_default();
    }
    depends(&text, prefix).with_context(|| {
        format!("apt knows no package {name}, which has level 1's kernel: this needs Debian 12 or newer, with its lists of packages (`sudo apt-get update`)")
    })
}

/// The first package of a `Depends:` line whose name begins with `prefix`.
fn depends(show: &str, prefix: &str) -> Option<String> {
    let line = show.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let mut names = line
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next());
    names.find(|name| name.starts_with(prefix)).map(str::to_owned)
}

/// The package's file in the cache: `NAME_VERSION_ARCHITECTURE.deb`.
fn find(name: &str, cache: &Path) -> Result<Option<PathBuf>> {
    let start = format!("{name}_");
    for entry in fs::read_dir(cache).with_context(|| format!("look into {}", cache.display()))? {
        let path = entry.context("look into a folder")?.path();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if file.is_some_and(|file| file.starts_with(&start) && file.ends_with(".deb")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Downloads into a folder of its own first: a download that is cut short leaves no package behind.
fn download(name: &str, cache: &Path) -> Result<()> {
    eprintln!("set-up: apt-get download {name}");
    let scratch = cache.join(format!("{name}.part-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("make the folder {}", scratch.display()))?;
    let log = scratch.join("messages");
    let mut messages = String::new();
    for attempt in 0..2 {
        let file = File::create(&log).context("make a file for apt's messages")?;
        let mut command = Command::new("apt-get");
        command.args(["-q", "download", name]).current_dir(&scratch);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share a file")?)
            .stderr(file);
        let status = Process::start(&mut command)?.wait(LIMIT)?;
        if let (true, Some(package)) = (status.success(), find(name, &scratch)?) {
            let to = cache.join(package.file_name().context("a package without a name")?);
            fs::rename(&package, &to).with_context(|| format!("move a package to {}", to.display()))?;
            return fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()));
        }
        messages = fs::read_to_string(&log).unwrap_or_default();
        if attempt == 0 {
            // Lists that are out of date name versions that the distribution has no more.
            setup::renew_lists();
        }
    }
    bail!("`apt-get download {name}` failed:\n{}", messages.trim())
}

/// Every one of these programs is there.
fn need(programs: &[&str]) -> Result<()> {
    match programs.iter().find(|program| setup::find(program).is_none()) {
        None => Ok(()),
        Some(program) => bail!(
            "level 1 is made from Debian's packages, and there is no {program} here: use Debian 12 or newer, or another machine (--machine tcg, bochs)"
        ),
    }
}

/// What a program prints.
///
/// # Errors
/// It can't be started, or fails; the text has what it says.
pub fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let show = "Package: linux-image-cloud-amd64\nDepends: a | b, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSize: 1\n";
        let found = depends(show, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(depends(show, "linux-modules-"), None);
        assert_eq!(depends("", "linux-image-"), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        assert!(need(&["sh"]).is_ok());
        let error = need(&["sh", "no-such-program"]).unwrap_err().to_string();
        assert!(error.contains("no no-such-program here"), "{error}");
    }
}
