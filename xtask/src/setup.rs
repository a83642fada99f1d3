//! Brings what is missing on a fresh machine: the compiler's target and the emulator.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::TARGET;

/// The emulator's program.
pub const QEMU: &str = "qemu-system-x86_64";
/// The system's package that holds it (Debian, Ubuntu).
const QEMU_PACKAGE: &str = "qemu-system-x86";

/// Makes sure that everything that a run needs is there, and says what it brings.
///
/// # Errors
/// Something is missing and may not be brought from here; the text holds the one command to type.
pub fn everything() -> Result<()> {
    target()?;
    emulator()
}

/// Makes sure that the compiler can build for the bare machine.
///
/// # Errors
/// The target is missing and rustup can't bring it.
pub fn target() -> Result<()> {
    if has_target()? {
        return Ok(());
    }
    let command = format!("rustup target add {TARGET}");
    if find("rustup").is_none() {
        bail!(
            "the compiler has no target {TARGET}, and there is no rustup to bring it. With rustup (https://rustup.rs) type\n    {command}\nor install the target the way this compiler was installed"
        );
    }
    eprintln!("set-up: {command}");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).stdin(Stdio::null());
    // The toolchain that runs us: rustup's proxy names it for its children, and so does rust-toolchain.toml here.
    rustup.current_dir(crate::workspace::root());
    let status = rustup.status().context("start rustup")?;
    if !status.success() || !has_target()? {
        bail!("rustup did not bring the target (see above). Type, and mend what it reports:\n    {command}");
    }
    Ok(())
}

/// Whether the active compiler has the target's library.
fn has_target() -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(crate::workspace::root())
        .stderr(Stdio::inherit())
        .output()
        .context("start rustc")?;
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Makes sure that the emulator is installed.
///
/// # Errors
/// It is missing and may not be installed from here.
pub fn emulator() -> Result<()> {
    if find(QEMU).is_some() {
        return Ok(());
    }
    let Some(prefix) = privilege() else {
        bail!(
            "{QEMU} is not installed, and this user may not install packages. Type\n    sudo apt-get install --no-install-recommends {QEMU_PACKAGE}\n(or your system's way to install QEMU for x86-64), then try again"
        );
    };
    for arguments in [
        &["update"][..],
        &["install", "-y", "--no-install-recommends", QEMU_PACKAGE],
    ] {
        let shown = [prefix, &["apt-get"], arguments].concat().join(" ");
        eprintln!("set-up: {shown}");
        let mut words = prefix
            .iter()
            .chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .chain(arguments);
        let program = words.next().context("an empty command")?;
        // In our own process group on purpose: Ctrl-C reaches apt itself, which must not be killed half-way.
        let status = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .status()
            .context("start apt-get")?;
        if !status.success() && arguments.first() == Some(&"install") {
            bail!("the package manager failed (see above). Type, and mend what it reports:\n    {shown}");
        }
        if !status.success() {
            eprintln!("set-up: the lists of packages could not be renewed; trying with the ones at hand");
        }
    }
    if find(QEMU).is_none() {
        bail!("{QEMU_PACKAGE} is installed, yet there is no {QEMU} in PATH");
    }
    Ok(())
}

/// What to put before a command of the package manager; `None` when this user may not install anything.
fn privilege() -> Option<&'static [&'static str]> {
    find("apt-get")?;
    if nix::unistd::geteuid().is_root() {
        return Some(&[]);
    }
    find("sudo")?;
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sudo.status()
        .is_ok_and(|status| status.success())
        .then_some(&["sudo", "-n"])
}

/// The program of this name in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
