//! What can be typed after `cargo xtask`.

use std::path::PathBuf;
use std::time::Duration;

use boot_config::Policy;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench;
use crate::machine::Kind;
use crate::medium::Boot;

/// Builds, runs and tests Lacuna.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    about,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Set up what is missing, build, boot, run the guests and report; exits 0 only when everything held
    ///
    /// Exit status: 0 pass, 1 a check failed, 2 wrong command line, 3 the hypervisor refused to start, 4 it panicked,
    /// 5 time limit, 6 no verdict, 7 set-up or build failed, 130 stopped by a signal.
    Run(Run),
    /// Set up what is missing and pass all tests: on the host, then the guests on every machine
    Test(Test),
    /// Set up what is missing and measure what private memory costs, by policy, in instructions on QEMU's emulation
    ///
    /// One boot for each policy and size. The same tree, compiler and emulator give the same figures to the instruction.
    /// docs/performance.md says what they mean.
    Bench(Bench),
    /// Run under Linux' `perf stat`, with the events about translations that this machine has; say why where it has none
    ///
    /// Needs KVM that offers its guests virtualization, and counters. docs/tlb.md says what the figures mean. Where nothing can be counted nothing is
    /// run, and the exit status is 0.
    Perf(Perf),
    /// Show again what `bench tlb` has written, and hold later files against the first
    Report(Report),
    /// Set up what is missing, and give targets that read input from outside, and sequences of operations, random input for a while
    ///
    /// Exits 1 when a target failed; the input that made it fail is kept. docs/testing.md says more.
    Fuzz(Fuzz),
    /// Set up what is missing, and look whether the tests of the memory subsystem notice each small change in it
    ///
    /// Exits 1 when too many changes went unnoticed. All of it takes hours. docs/testing.md says more.
    Mutants(Mutants),
    /// Make a GRUB disc, or a raw disk, that boots in an emulator or on a machine
    Image(Image),
    /// Print what the launch of a guest will be measured as (docs/measurement.md), from its file alone
    Measure(Measure),
    /// Set up the compiler's target, build hypervisor and guests, and print where they are
    Build,
    /// Count the VM exits that a launch and a teardown cause under nested KVM, by cause and policy
    ///
    /// On an emulated host (docs/nested-kvm.md): five boots, a minute and a half on nested-amd. docs/performance.md says what the figures mean.
    Exits(Exits),
    /// Say whether KVM can be used on this host, and if not, what to change
    Host(Host),
}

/// Which machine to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// The best that works here.
    Auto,
    /// QEMU with KVM; needs a host that offers its guests virtualization of their own.
    Kvm,
    /// QEMU's emulation of an AMD CPU; works anywhere.
    Tcg,
    /// Bochs' emulation of an Intel CPU; works anywhere, slowly.
    Bochs,
    /// KVM in a Linux on QEMU's emulation of an AMD CPU; works on Debian.
    NestedAmd,
    /// KVM in a Linux on Bochs' emulation of an Intel CPU; works on Debian, very slowly.
    NestedIntel,
}

impl Machine {
    /// The kind that was asked for by name.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Auto => None,
            Self::Kvm => Some(Kind::Kvm),
            Self::Tcg => Some(Kind::Tcg),
            Self::Bochs => Some(Kind::Bochs),
            Self::NestedAmd => Some(Kind::NestedAmd),
            Self::NestedIntel => Some(Kind::NestedIntel),
        }
    }
}

/// The parameter of the hypervisor's command line by which it takes commands.
const CONSOLE: &str = "console";

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The machine to run on
    #[arg(long, value_enum, default_value = "auto")]
    pub machine: Machine,
    /// What starts the hypervisor; the media are made for the run
    #[arg(long, value_enum, default_value = "direct")]
    pub boot: Boot,
    /// RAM of the machine, such as 512M or 64G; only what is touched costs memory here [default: 4G; 512M on bochs and nested-amd, 256M on nested-intel]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub smp: u32,
    /// Bundled guests to run, separated by commas [default: all; none when --guest is given]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub guests: Vec<String>,
    /// A guest of your own: an ELF file, then fields as in docs/command-line.md; can be given several times
    #[arg(long = "guest", value_name = "FILE[,memory=64M,count=3,...]")]
    pub own: Vec<String>,
    /// Appended to the hypervisor's command line, such as 'seed=7 together=2'
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// Take commands while guests run, typed here, a line each: `help` lists them; there is no time limit then unless one is given
    #[arg(long)]
    pub console: bool,
    /// Wait for a debugger before the first instruction; there is no time limit then
    #[arg(long)]
    pub gdb: bool,
    /// Copy the report's JSON lines to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print the emulator's command line and stop; installs and builds nothing
    #[arg(long)]
    pub dry_run: bool,
    /// End the run after this time, such as 90s or 20m [default: 5m; 20m on nested-intel]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
    /// Show the command lines, and keep the run's folder also after a success
    #[arg(short, long)]
    pub verbose: bool,
}

impl Run {
    /// RAM of a machine of this kind in bytes. Bochs' own start-up grows with the square of it (measured: 10 s at 4 GiB), and
    /// everything takes long on a machine with levels.
    pub fn memory(&self, kind: Kind) -> u64 {
        self.memory.unwrap_or(match kind {
            Kind::Bochs | Kind::NestedAmd => 512 << 20,
            Kind::NestedIntel => 256 << 20,
            Kind::Kvm | Kind::Tcg => 4 << 30,
        })
    }

    /// Whether commands are taken.
    pub fn takes_commands(&self) -> bool {
        self.console || self.cmdline.split_whitespace().any(|word| word == CONSOLE)
    }

    /// What is appended to the hypervisor's command line.
    pub fn appended(&self) -> String {
        let console = if self.console { CONSOLE } else { "" };
        format!("{} {console}", self.cmdline)
    }

    /// How long a run on a machine of this kind may take; `None` where somebody who types, or debugs, may take their time. The main job takes 3
    /// minutes on nested-intel when nothing else runs.
    pub fn limit(&self, kind: Kind) -> Option<Duration> {
        if self.gdb {
            return None;
        }
        let usual = Duration::from_secs(match kind {
            Kind::NestedIntel => 20 * 60,
            Kind::Kvm | Kind::Tcg | Kind::Bochs | Kind::NestedAmd => 5 * 60,
        });
        self.time_limit.or((!self.takes_commands()).then_some(usual))
    }
}

/// Flags of `perf`.
#[derive(Debug, Args)]
pub struct Perf {
    /// What is run.
    #[command(flatten)]
    pub run: Run,
    /// Write the counts to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub counts: Option<PathBuf>,
}

/// Flags of `image`.
#[derive(Debug, Args)]
pub struct Image {
    /// Make a raw disk with a boot sector of its own (BIOS only) instead of a GRUB disc (BIOS and UEFI)
    #[arg(long)]
    pub disk: bool,
    /// Where to put it [default: lacuna.iso or lacuna.img beside what cargo builds]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Bundled guests to run, separated by commas [default: all; none when --guest is given]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub guests: Vec<String>,
    /// A guest of your own: an ELF file, then fields as in docs/command-line.md; can be given several times
    #[arg(long = "guest", value_name = "FILE[,memory=64M,count=3,...]")]
    pub own: Vec<String>,
    /// Appended to the hypervisor's command line, such as 'seed=7 together=2'
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
}

/// Flags of `measure`.
#[derive(Debug, Args)]
pub struct Measure {
    /// The guest: an ELF file, then fields as in docs/command-line.md
    #[arg(value_name = "FILE[,memory=64M,vcpus=2,...]")]
    pub guest: String,
    /// The run's seed, decimal or 0x hexadecimal; `cargo xtask run` prints it
    #[arg(long, value_name = "N", default_value = "1", value_parser = crate::measure::parse_seed)]
    pub seed: u64,
    /// The guest's number in the run, from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub instance: u32,
}

/// Flags of `exits`.
#[derive(Debug, Args)]
pub struct Exits {
    /// The emulated host
    #[arg(long, value_enum, default_value = "nested-amd")]
    pub machine: Levels,
    /// Size of the private memory, a multiple of 2M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = bench::parse_size)]
    pub size: u64,
    /// Only these boots, separated by commas: grouped, linux-fresh, touch-all, share-much, conversion-storm
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = crate::exits::NAMES)]
    pub only: Vec<String>,
}

/// The machines with levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Levels {
    /// KVM on an emulated AMD CPU.
    NestedAmd,
    /// KVM on an emulated Intel CPU.
    NestedIntel,
}

/// Flags of `host`.
#[derive(Debug, Args)]
pub struct Host {
    /// Write what the host says about KVM to this file; it has no names or addresses
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Flags of `test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Run only tests whose name contains this
    pub filter: Option<String>,
    /// Print the names of the tests and stop
    #[arg(long)]
    pub list: bool,
    /// Run also what takes long: every test on the machines with KVM inside, not only a few of them
    #[arg(long)]
    pub long: bool,
    /// Show the text of every run as it comes, and keep every run's folder
    #[arg(short, long)]
    pub verbose: bool,
}

/// Flags of `bench native`.
#[derive(Debug, Args)]
pub struct Native {
    /// Count instructions only: these are the same in every run, times are not
    #[arg(long)]
    pub counts: bool,
    /// Draw the counts of one more region into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
}

/// Other benchmarks.
#[derive(Debug, Subcommand)]
pub enum Benchmark {
    /// Measure the memory subsystem on this machine itself: instructions by valgrind, times by criterion
    ///
    /// Exits with 1 when a goal is missed. Valgrind is installed where that is possible; without it only times are measured.
    Native(Native),
    /// Model what hidden memory costs the TLB, by policy and while guests come and go
    ///
    /// On this machine, without counters: the memory subsystem's own code, the independent walker, and a model of TLBs. It takes some minutes and up to
    /// 4 GiB of memory here, writes JSON and a page with pictures, and exits with 1 when a goal is missed. docs/tlb.md says what the figures
    /// mean.
    Tlb(Tlb),
    /// Hold the model of `tlb` against this machine: a pointer chase over pages of 4K and of 2M, predicted beside measured
    Chase(Chase),
    /// Count what a guest pays when pages change between private and shared: instructions, exits, flushes, large leaves
    ///
    /// One boot of an emulator, a few seconds. Exits with 1 when a goal is missed.
    Conversions(Conversions),
}

/// Flags of `bench conversions`.
#[derive(Debug, Args)]
pub struct Conversions {
    /// The emulator: the clocks of both follow the instructions
    #[arg(long, value_enum, default_value_t = Emulator::Tcg)]
    pub machine: Emulator,
}

/// The emulators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emulator {
    /// QEMU's emulation, an AMD CPU.
    Tcg,
    /// Bochs, an Intel CPU.
    Bochs,
}

/// Flags of `bench chase`.
#[derive(Debug, Args)]
pub struct Chase {
    /// The core that the model takes this machine for [default: the one that CPUID names]
    #[arg(long, value_name = "NAME")]
    pub core: Option<String>,
}

/// Flags of `bench tlb`.
#[derive(Debug, Args)]
pub struct Tlb {
    /// RAM of the machine, in whole GiB
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = size)]
    pub ram: u64,
    /// How memory is hidden, separated by commas: grouped, grouped-whole, grouped-no-merge, linux-fresh, linux-aged, scattered, all-4k, all-2m, all-1g [default: all]
    #[arg(long, value_name = "NAMES")]
    pub policies: Option<String>,
    /// Cores, separated by commas: spr, icx, skx, zen2, zen3, zen4, zen5
    #[arg(long, value_name = "NAMES", default_value = "spr,zen4")]
    pub cores: String,
    /// Lifetimes of small guests before the aged moments
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=50_000))]
    pub lifetimes: u64,
    /// Seed of what happens and of what is touched
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Sizes of the one guest whose cost is shown by size, separated by commas; those above a quarter of RAM are left out [default: 2M to 16G]
    #[arg(long, value_name = "SIZES")]
    pub sizes: Option<String>,
    /// Model walks over an outer hypervisor whose leaves have this size: 4K, 2M or 1G
    #[arg(long, value_name = "SIZE")]
    pub outer: Option<String>,
    /// Instead of booting the hypervisor here to measure, take the reports (JSON lines) of runs with measure=tlb elsewhere, separated by commas
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    pub measured: Vec<PathBuf>,
    /// Where the JSON goes [default: tlb.json beside what cargo builds]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the page goes [default: tlb.html beside what cargo builds]
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Another benchmark.
    #[command(subcommand)]
    pub other: Option<Benchmark>,
    /// Sizes of private memory, separated by commas, each a multiple of 2M
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "16M,256M,1G",
        value_parser = bench::parse_size
    )]
    pub sizes: Vec<u64>,
    /// How it is hidden, separated by commas; docs/command-line.md explains the names
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_values = bench::policy_names(),
        value_parser = bench::parse_policy
    )]
    pub policies: Vec<Policy>,
    /// Write the JSON lines of all boots to this file, one boot after the other
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print the emulator's command lines and stop; installs and builds nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// JSON files of `bench tlb`; the page shows the first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the page goes [default: tlb.html beside what cargo builds]
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

/// Flags of `fuzz`.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// Targets to run [default: all]
    pub targets: Vec<String>,
    /// How long each target runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Run nothing new, but put the inputs found so far that reach new code into fuzz/corpus
    #[arg(long)]
    pub merge: bool,
}

/// Flags of `mutants`.
#[derive(Debug, Args)]
pub struct Mutants {
    /// Change only these files, below hypervisor/memory/src, such as 'tlb/**' [default: all]
    #[arg(long = "file", value_name = "GLOB")]
    pub files: Vec<String>,
    /// Go on where an earlier run stopped, and try again what survived; right when only tests have changed since
    #[arg(long)]
    pub go_on: bool,
    /// How many changes to try at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
}

/// A size of RAM: whole MiB, so that the emulator rounds nothing.
fn size(text: &str) -> Result<u64, String> {
    boot_config::parse_size(text)
        .filter(|bytes| *bytes > 0 && bytes.is_multiple_of(1 << 20))
        .ok_or_else(|| "a size in whole MiB is accepted, such as 512M or 4G".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_run() {
        let words = "x run --machine tcg --memory 512M --guests a,b --guest f.elf,memory=4M --guest g --cmdline seed=1";
        let Task::Run(run) = Cli::parse_from(words.split(' ')).task else {
            panic!("not run")
        };
        assert_eq!(
            (run.machine, run.memory, run.smp),
            (Machine::Tcg, Some(512 << 20), 1)
        );
        assert_eq!(run.guests, ["a", "b"]);
        assert_eq!(run.own, ["f.elf,memory=4M", "g"]);
        assert_eq!(run.limit(Kind::Tcg), Some(Duration::from_secs(300)));
        for bad in [
            "--memory 3",
            "--memory 1.5G",
            "--memory 0M",
            "--smp 0",
            "--machine xen",
            "--time-limit 5",
        ] {
            let words = format!("x run {bad}");
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_of_perf_are_those_of_run() {
        let words = "x perf --machine kvm --memory 8G --cmdline measure=tlb --counts f";
        let Task::Perf(perf) = Cli::parse_from(words.split(' ')).task else {
            panic!("not perf")
        };
        assert_eq!((perf.run.machine, perf.run.memory), (Machine::Kvm, Some(8 << 30)));
        assert!(perf.counts.is_some());
    }

    #[test]
    fn flags_of_bench() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' ')).map(|cli| cli.task);
        let Ok(Task::Bench(all)) = parse("x bench") else {
            panic!("not bench")
        };
        assert_eq!(all.sizes, [16 << 20, 256 << 20, 1 << 30]);
        assert_eq!(all.policies, Policy::ALL);
        let Ok(Task::Bench(some)) = parse("x bench --sizes 4M,2G --policies scattered,grouped --json f")
        else {
            panic!("not bench")
        };
        assert_eq!(some.sizes, [4 << 20, 2 << 30]);
        assert_eq!(some.policies, [Policy::Scattered, Policy::Grouped]);
        let Ok(Task::Bench(native)) = parse("x bench native --counts --picture f") else {
            panic!("not bench")
        };
        let Some(Benchmark::Native(native)) = native.other else {
            panic!("not native")
        };
        assert!(native.counts && native.picture.is_some());
        let Ok(Task::Bench(tlb)) = parse("x bench tlb --ram 1024G --cores zen4 --page p") else {
            panic!("not bench")
        };
        let Some(Benchmark::Tlb(tlb)) = tlb.other else {
            panic!("not tlb")
        };
        assert_eq!((tlb.ram, tlb.lifetimes), (1 << 40, 10_000));
        assert!(parse("x report").is_err() && parse("x report a b --page p").is_ok());
        for bad in ["--dry-run native", "native --sizes 16M", "tlb --ram 3"] {
            assert!(parse(&format!("x bench {bad}")).is_err(), "{bad}");
        }
        for bad in ["--sizes 3M", "--sizes 16M,", "--policies linux", "--sizes"] {
            assert!(parse(&format!("x bench {bad}")).is_err(), "{bad}");
        }
    }
}
