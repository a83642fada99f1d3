//! `cargo xtask`: builds, runs and tests Lacuna.
//!
//! A run passes through these files in this order: `cli` reads the flags; `setup` brings what is missing; `build` asks cargo
//! for the image and the guests; `guests` picks them and writes the hypervisor's command line; `archive` packs them; `preflight`
//! takes the best machine that works; `machine` writes the emulator's command line; `emulator` runs it (`process` leaves
//! nothing behind, `qmp` speaks to it, `folder` keeps what came out) or `bochs` runs its own; `verdict` judges; `symbolise`
//! explains. `run` is that order, and `test` does it for each row of its table. Where the emulator does not load the image itself,
//! `medium` makes what it starts from: a raw disk (`disk_image`) or a GRUB disc (`iso`), both from `image_file`. `image_command`
//! makes such a file and stops; `measure` computes what a launch will be measured as. `nested` puts a Linux with KVM between the emulator and the hypervisor. `bench` boots the benchmark and shows its
//! figures, or has the cost in TLB misses modelled; `exits` counts VM exits; `perf` counts a run from outside; `fuzz` and `mutants` try the tests themselves. `nightly` is the toolchain for Miri.

mod archive;
mod bench;
mod bochs;
mod build;
mod cli;
mod disk_image;
mod emulator;
mod exits;
mod folder;
mod fuzz;
mod gdb;
mod guests;
mod image_command;
mod image_file;
mod interrupt;
mod iso;
mod keyboard;
mod machine;
mod measure;
mod medium;
mod mutants;
mod nested;
mod nightly;
mod perf;
mod preflight;
mod process;
mod qmp;
mod report;
mod run;
mod setup;
mod symbolise;
mod test;
mod verdict;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Task};
use crate::verdict::Outcome;

/// Why there is no outcome.
enum Failure {
    /// What was typed does not fit.
    Usage(anyhow::Error),
    /// Set-up, build, or the tools around the machine.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// The status for a wrong command line, as clap exits with it.
const USAGE: u8 = 2;
/// The status when set-up or build failed.
const SET_UP: u8 = 7;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = interrupt::install()
        .map_err(Failure::from)
        .and_then(|()| match &cli.task {
            Task::Run(flags) => run::run(flags).map(|outcome| outcome.exit_code()),
            Task::Bench(flags) => bench::bench(flags).map(|outcome| outcome.exit_code()),
            Task::Perf(flags) => perf::perf(flags).map(|outcome| outcome.exit_code()),
            Task::Report(flags) => bench::tlb::report(flags).map(|()| 0),
            Task::Test(flags) => test::test(flags),
            Task::Exits(flags) => exits::exits(flags).map(|outcome| outcome.exit_code()),
            Task::Fuzz(flags) => fuzz::fuzz(flags),
            Task::Mutants(flags) => mutants::mutants(flags),
            Task::Measure(flags) => measure::measure(flags).map(|()| 0),
            Task::Image(flags) => image_command::image(flags).map(|()| 0),
            Task::Build => build_only().map(|()| 0),
            Task::Host(flags) => preflight::report(flags.json.as_deref())
                .map(|()| 0)
                .map_err(Failure::from),
        });
    ExitCode::from(match result {
        Ok(code) => code,
        Err(_) if interrupt::asked() => {
            eprintln!("interrupted");
            Outcome::Interrupted.exit_code()
        }
        Err(Failure::Usage(error)) => {
            eprintln!("error: {error:#}");
            USAGE
        }
        Err(Failure::Other(error)) => {
            eprintln!("error: {error:#}");
            SET_UP
        }
    })
}

fn build_only() -> Result<(), Failure> {
    setup::target()?;
    let built = build::build(build::Flavor::Plain)?;
    println!("hypervisor {}", built.hypervisor.display());
    built
        .guests
        .iter()
        .for_each(|guest| println!("guest {} {}", guest.spec(), guest.path.display()));
    Ok(())
}
