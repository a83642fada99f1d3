//! Brings what is missing on a fresh machine: the compiler's target, the emulators, and what makes boot media.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::machine::Kind;
use crate::medium::{Boot, Medium, UEFI};
use crate::nested;
use crate::workspace::TARGET;

/// The emulator's program.
pub const QEMU: &str = "qemu-system-x86_64";

/// Bochs' program, and the files that its machine has as ROMs.
pub const BOCHS: &str = "bochs";
pub const BOCHS_BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
pub const BOCHS_VGA: &str = "/usr/share/seabios/vgabios.bin";
/// The program that counts instructions.
pub const VALGRIND: &str = "valgrind";
/// The program that makes GRUB discs.
pub const MKRESCUE: &str = "grub-mkrescue";

/// Programs and files that come together, and the packages that hold them (Debian, Ubuntu).
struct Bundle {
    /// What it is for, for messages.
    name: &'static str,
    programs: &'static [&'static str],
    files: &'static [&'static str],
    packages: &'static [&'static str],
}

const EMULATOR: Bundle = Bundle {
    name: "QEMU for x86-64",
    programs: &[QEMU],
    files: &[],
    packages: &["qemu-system-x86"],
};
const BOCHS_BUNDLE: Bundle = Bundle {
    name: "Bochs",
    programs: &[BOCHS],
    files: &[BOCHS_BIOS, BOCHS_VGA],
    packages: &["bochs", "bochs-term", "bochsbios", "seabios"],
};
/// `grub-mkrescue` calls the other two programs.
const GRUB: Bundle = Bundle {
    name: "GRUB's maker of boot discs",
    programs: &[MKRESCUE, "xorriso", "mformat"],
    files: &[
        "/usr/lib/grub/i386-pc/multiboot2.mod",
        "/usr/lib/grub/x86_64-efi/multiboot2.mod",
    ],
    packages: &[
        "grub-common",
        "grub-pc-bin",
        "grub-efi-amd64-bin",
        "xorriso",
        "mtools",
    ],
};
/// libFuzzer's run-time library is C++.
const CXX: Bundle = Bundle {
    name: "a C++ compiler",
    programs: &["c++"],
    files: &[],
    packages: &["g++"],
};
const VALGRIND_BUNDLE: Bundle = Bundle {
    name: "valgrind",
    programs: &[VALGRIND],
    files: &[],
    packages: &["valgrind"],
};
const OVMF: Bundle = Bundle {
    name: "UEFI firmware for QEMU",
    programs: &[],
    files: &[UEFI],
    packages: &["ovmf"],
};

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

/// Makes sure that QEMU is installed.
///
/// # Errors
/// It is missing and may not be installed from here.
pub fn emulator() -> Result<()> {
    bring(&EMULATOR)
}

/// Makes sure that what a machine of this kind and its medium need is installed, besides QEMU.
///
/// # Errors
/// Something is missing and may not be installed from here.
pub fn machine(kind: Kind, boot: Boot) -> Result<()> {
    if kind.is_bochs() {
        bring(&BOCHS_BUNDLE)?;
    }
    if kind == Kind::NestedIntel {
        discs()?;
    }
    if Medium::of(kind, boot) == Some(Medium::Disc) {
        discs()?;
    }
    if boot == Boot::Uefi {
        bring(&OVMF)?;
    }
    if kind.is_nested() {
        nested::set_up(kind)?;
    }
    Ok(())
}

/// Makes sure that C++ can be compiled.
///
/// # Errors
/// The compiler is missing and may not be installed from here.
pub fn cxx() -> Result<()> {
    bring(&CXX)
}

/// Makes sure that GRUB discs can be made.
///
/// # Errors
/// Something is missing and may not be installed from here.
pub fn discs() -> Result<()> {
    bring(&GRUB)
}

/// Makes sure that instructions of programs on this machine can be counted.
///
/// # Errors
/// Valgrind is missing and may not be installed from here.
pub fn valgrind() -> Result<()> {
    bring(&VALGRIND_BUNDLE)
}

/// The first part of the bundle that is not there.
fn missing(bundle: &Bundle) -> Option<&'static str> {
    let program = bundle.programs.iter().find(|program| find(program).is_none());
    program
        .or_else(|| bundle.files.iter().find(|file| !Path::new(file).exists()))
        .copied()
}

/// Installs a bundle unless it is there.
fn bring(bundle: &Bundle) -> Result<()> {
    let Some(part) = missing(bundle) else {
        return Ok(());
    };
    let name = bundle.name;
    let packages = bundle.packages.join(" ");
    let Some(prefix) = privilege() else {
        bail!(
            "{name} is not installed ({part} is missing), and this user may not install packages. Type\n    sudo apt-get install --no-install-recommends {packages}\n(or your system's way to install it), then try again"
        );
    };
    renew_lists();
    let install = [&["install", "-y", "--no-install-recommends"][..], bundle.packages].concat();
    if !apt(prefix, &install)? {
        let shown = [prefix, &["apt-get"], &install].concat().join(" ");
        bail!("the package manager failed (see above). Type, and mend what it reports:\n    {shown}");
    }
    match missing(bundle) {
        None => Ok(()),
        Some(part) => bail!("the packages {packages} are installed, yet {part} is missing"),
    }
}

/// Has the package manager renew its lists, where this user may; what fails is said, and the lists at hand are used.
pub fn renew_lists() {
    let renewed = privilege().is_some_and(|prefix| apt(prefix, &["update"]).unwrap_or(false));
    if !renewed {
        eprintln!("set-up: the lists of packages could not be renewed; trying with the ones at hand");
    }
}

/// Runs the package manager; false when it fails.
fn apt(prefix: &[&str], arguments: &[&str]) -> Result<bool> {
    eprintln!("set-up: {}", [prefix, &["apt-get"], arguments].concat().join(" "));
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
    Ok(status.success())
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
