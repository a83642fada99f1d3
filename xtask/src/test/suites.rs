//! The sets of cargo's tests, which need no machine but this one: what is built how, and with which bounds.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::nightly;
use crate::workspace;

/// A set of tests that one call of cargo runs.
pub struct Suite {
    /// What the tests are called all together; each result is `name::program`.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What to say before it starts.
    pub note: &'static str,
    /// Whether it runs only with `--long`.
    pub only_long: bool,
    /// One that hangs is not waited for.
    pub limit: Duration,
    /// Brings what it needs; the reason why that can't be had here.
    pub obstacle: fn() -> Option<String>,
    /// The call, given cargo's folder for what it builds; with the larger bounds if `long`.
    pub command: fn(target: &Path, long: bool) -> Command,
}

/// Histories of the memory subsystem that each test tries with `--long` (docs/testing.md); 40,000 in all take some 17 minutes of CPU time.
const LONG_HISTORIES: &str = "10000";

/// All of them, in the order they run.
pub const ALL: [Suite; 4] = [
    Suite {
        name: "host",
        about: "the tests of cargo",
        note: "host tests (building them takes a minute or two the first time)",
        only_long: false,
        // They take two minutes on two cores, building them included.
        limit: Duration::from_secs(45 * 60),
        obstacle: || None,
        command: |_, long| {
            let mut cargo = workspace::cargo();
            if long {
                cargo.env("LACUNA_HISTORIES", LONG_HISTORIES);
            }
            cargo.args(["test", "--no-fail-fast", "--color=never"]);
            cargo
        },
    },
    Suite {
        name: "loom",
        about: "the shootdown protocol, in every order of events",
        note: "loom's models of the shootdown protocol (building them takes a minute the first time)",
        only_long: false,
        limit: Duration::from_secs(3 * 60 * 60),
        obstacle: || None,
        command: loom,
    },
    Suite {
        name: "miri",
        about: "unit tests of what reads input from outside, every access checked",
        note: "unit tests under Miri (building them takes two minutes the first time)",
        only_long: true,
        limit: Duration::from_secs(3 * 60 * 60),
        obstacle: miri_obstacle,
        command: |target, _| miri(target, &READERS, ""),
    },
    Suite {
        name: "miri-memory",
        about: "unit tests of the memory subsystem, every access but for aliasing checked",
        note: "unit tests of the memory subsystem under Miri",
        only_long: true,
        limit: Duration::from_secs(3 * 60 * 60),
        obstacle: miri_obstacle,
        // `memory` forbids unsafe code, so nothing in it can break the rules of aliasing; and each look at a table of 512 cells would
        // take Miri minutes. Its tests leave their machines behind on purpose: what they hand out lives as long as the machine.
        command: |target, _| {
            let flags = "-Zmiri-disable-stacked-borrows -Zmiri-ignore-leaks";
            miri(target, &["memory"], flags)
        },
    },
];

/// Models are a different build of `memory`, so they have a folder of their own in the target folder.
fn loom(target: &Path, long: bool) -> Command {
    let mut cargo = workspace::cargo();
    cargo
        .args(["test", "--package=shootdown-models", "--release", "--target-dir"])
        .arg(target.join("loom"))
        .args(["--no-fail-fast", "--color=never"])
        .env("RUSTFLAGS", "--cfg loom");
    if long {
        cargo.env("LACUNA_LOOM", "long");
    }
    cargo
}

/// The crates that read what comes from outside, and the small ones beside them.
const READERS: [&str; 7] = [
    "boot-config",
    "guest-abi",
    "guest-image",
    "memory-types",
    "multiboot-info",
    "report",
    "vcpu-policy",
];

fn miri_obstacle() -> Option<String> {
    nightly::bring(&["miri", "rust-src"]).err()
}

/// Miri interprets some fifty thousand basic blocks a second (measured), so each property is tried once.
fn miri(target: &Path, packages: &[&str], flags: &str) -> Command {
    let mut cargo = nightly::cargo();
    cargo.args([
        "miri",
        "test",
        "--lib",
        "--no-fail-fast",
        "--color=never",
        "--target-dir",
    ]);
    cargo.arg(target.join("miri"));
    for package in packages {
        cargo.arg(format!("--package={package}"));
    }
    cargo
        // Property tests look at the environment and at files of theirs.
        .env("MIRIFLAGS", format!("-Zmiri-disable-isolation {flags}"))
        .env("PROPTEST_CASES", "1");
    cargo
}
