//! The flags of `lacuna-inspect`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

/// Looks at the RAM file of a paused machine (q35's, or what a test took from Bochs): walks its page tables, searches it for the guests' patterns.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub task: Task,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Task {
    /// Print the leaves under a root, neighbours joined.
    Runs {
        #[command(flatten)]
        ram: Place,
        #[command(flatten)]
        roots: Roots,
        #[command(flatten)]
        range: Range,
    },
    /// Print each leaf under a root; with --json in the form that `compare` reads.
    Leaves {
        #[command(flatten)]
        ram: Place,
        #[command(flatten)]
        roots: Roots,
        #[command(flatten)]
        range: Range,
    },
    /// Count leaves and tables under a root.
    Count {
        #[command(flatten)]
        ram: Place,
        #[command(flatten)]
        roots: Roots,
    },
    /// Print where one address goes.
    Translate {
        #[command(flatten)]
        ram: Place,
        #[command(flatten)]
        roots: Roots,
        /// The address to translate.
        #[arg(value_parser = number)]
        address: u64,
    },
    /// Find words of the guests' patterns anywhere in RAM.
    Search {
        #[command(flatten)]
        ram: Place,
        /// Seed of the run (it stands in the report's `start` line).
        #[arg(long, value_parser = number)]
        seed: u64,
    },
    /// Find guests' control blocks (AMD's VMCBs), and so the roots of their second-stage tables.
    Vmcbs {
        #[command(flatten)]
        ram: Place,
    },
    /// The same for Intel's VMCSs, as Bochs keeps them.
    Vmcses {
        #[command(flatten)]
        ram: Place,
    },
    /// Check that no address under a root leads to private memory.
    Reach {
        #[command(flatten)]
        ram: Place,
        #[command(flatten)]
        roots: Roots,
        #[command(flatten)]
        forbidden: Forbidden,
    },
    /// Compare two files that `leaves --json` printed; accessed and dirty do not count.
    Compare {
        /// The earlier one.
        before: PathBuf,
        /// The later one.
        after: PathBuf,
    },
}

#[derive(Args)]
pub struct Place {
    /// The RAM file (`mem-path` of QEMU's memory-backend-file).
    #[arg(long)]
    pub ram: PathBuf,
    /// RAM below 4 GiB, when it is not what q35 makes of the size.
    #[arg(long, value_parser = size)]
    pub below_4g: Option<u64>,
}

#[derive(Args)]
pub struct Roots {
    /// Value of CR3; of a nested CR3 with --nested, of an EPT pointer with --extended.
    #[arg(long, value_parser = number, required_unless_present = "registers")]
    pub cr3: Option<u64>,
    /// File with what QEMU's monitor printed for `info registers`, or Bochs' debugger for `creg`: CR3, and the format from CR4 and EFER.
    #[arg(long, conflicts_with_all = ["cr3", "nested", "extended", "five_levels"])]
    pub registers: Option<PathBuf>,
    /// The root is that of AMD's second stage: addresses are guest-physical.
    #[arg(long)]
    pub nested: bool,
    /// The root is an EPT pointer.
    #[arg(long, conflicts_with = "nested")]
    pub extended: bool,
    /// The tables have five levels (CR4.LA57).
    #[arg(long)]
    pub five_levels: bool,
}

#[derive(Args)]
pub struct Range {
    /// First address of interest.
    #[arg(long, value_parser = number, default_value = "0")]
    pub first: u64,
    /// Last address of interest.
    #[arg(long, value_parser = number, default_value = "0xffffffffffffffff")]
    pub last: u64,
}

impl Range {
    /// The range, checked.
    pub fn inclusive(&self) -> Result<RangeInclusive<u64>> {
        ensure!(self.first <= self.last, "--first must not be above --last");
        Ok(self.first..=self.last)
    }
}

/// What must not be reached; the lists add up.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct Forbidden {
    /// JSON file: an array of {"start":"0x...","end":"0x...","owner":1}.
    #[arg(long)]
    pub frames: Option<PathBuf>,
    /// Every frame that holds words of the guests' patterns under this seed.
    #[arg(long, value_parser = number)]
    pub seed: Option<u64>,
    /// Every frame under this root of AMD's second-stage tables; may be given again.
    #[arg(long, value_parser = number)]
    pub second_stage: Vec<u64>,
    /// Every frame under this EPT pointer; may be given again.
    #[arg(long, value_parser = number)]
    pub ept_pointer: Vec<u64>,
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x");
    let parsed = match digits {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}: a number is decimal, or hexadecimal with 0x"))
}

fn size(text: &str) -> Result<u64, String> {
    boot_config::parse_size(text).ok_or_else(|| String::from("a size looks like 4096K, 2048M or 2G"))
}
