//! `lacuna-tlb`: the model of TLBs, on a dump of leaves and on this machine.

mod chase;
mod model;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tools::tlb::{GEOMETRIES, Geometry, PageSize};

/// Models what translations cost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Send addresses through the model
    Model {
        /// The leaves, as `lacuna-inspect leaves --json` prints them
        leaves: PathBuf,
        /// The addresses: one a line, hexadecimal, with ` w` behind it for a store; `-` is the standard input
        addresses: PathBuf,
        /// The core [default: all that are known]
        #[arg(long, value_parser = core)]
        core: Option<&'static Geometry>,
        /// Walk over an outer hypervisor whose leaves have this size: 4K, 2M or 1G
        #[arg(long, value_parser = page)]
        outer: Option<PageSize>,
    },
    /// Chase pointers on this machine over pages of 4K and of 2M, predicted beside measured
    Chase {
        /// The core [default: the one that CPUID names]
        #[arg(long, value_parser = core)]
        core: Option<&'static Geometry>,
        /// Seed of the order
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write what was measured to this file, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn core(text: &str) -> Result<&'static Geometry, String> {
    let names: Vec<_> = GEOMETRIES.iter().map(|geometry| geometry.name).collect();
    Geometry::named(text).ok_or_else(|| format!("the cores are {}", names.join(", ")))
}

fn page(text: &str) -> Result<PageSize, String> {
    [PageSize::K4, PageSize::M2, PageSize::G1]
        .into_iter()
        .find(|page| page.to_string() == text)
        .ok_or_else(|| "the sizes are 4K, 2M and 1G".into())
}

fn main() -> ExitCode {
    let result = match &Cli::parse().task {
        Task::Model {
            leaves,
            addresses,
            core,
            outer,
        } => model::run(leaves, addresses, *core, *outer),
        Task::Chase { core, seed, json } => chase::run(*core, *seed, json.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
