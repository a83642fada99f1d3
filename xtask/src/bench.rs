//! `cargo xtask bench`: what private memory costs, by policy, counted in instructions.
//!
//! One boot for each policy and size ([`Case`]) on QEMU's emulation, whose clock follows the instructions ([`machine`]), so that
//! equal boots give equal figures. [`measured`] takes the `bench` line out of a boot's report, [`Tables`] shows all of them, and
//! [`goals`] says what they must be: the tests ask that. [`native`] is the benchmark on this machine itself, and [`tlb`] the one
//! of what hidden memory costs the TLB, by a model, beside which [`on_machine`] puts what the hypervisor measures itself.

mod conversions;
pub mod goals;
pub mod native;
mod on_machine;
mod rounds;
mod table;
pub mod tlb;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use boot_config::{Config, Policy};
use report::{Bench, Event};

use crate::build::{self, Flavor};
use crate::emulator::{self, Record, Watch, file};
use crate::folder::{Folder, RUNS};
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Boot;
use crate::run::explain;
use crate::test::available_mib;
use crate::verdict::Outcome;
use crate::{Failure, archive, cli, guests, setup, workspace};

pub use table::{FirstGuest, Tables};

/// RAM of the machine: large enough for several whole gigablocks above 4 GiB. Only what is touched costs memory of the host.
const MEMORY: u64 = 8 << 30;
/// Seed of the order in which memory ages. Any other would do; it must only stay the same.
const SEED: u64 = 1;
/// The slowest boot measured, `scattered` with 256M, took 24 s on two busy cores.
const LIMIT: Duration = Duration::from_secs(600);

/// One boot of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How memory is hidden.
    pub policy: Policy,
    /// How much.
    pub bytes: u64,
}

impl Case {
    /// RAM that the host needs, in MiB: measured with huge pages in the host (the emulator's VmHWM: 317 MiB with 256M, 1110 with 1G, 6330 with
    /// 1G scattered) and with a margin.
    pub fn host_mib(self) -> u64 {
        let spread = match self.policy {
            Policy::Grouped | Policy::LinuxFresh => self.bytes,
            // One page in 3.4, and the host gives 2M for the first.
            Policy::LinuxAged => self.bytes * 4,
            Policy::Scattered => MEMORY,
        };
        256 + (spread.min(MEMORY) >> 20)
    }

    /// Whether the host has too little RAM to spare, which is said.
    fn is_too_large(self, name: &str) -> bool {
        let needed = self.host_mib();
        match available_mib() {
            Some(free) if free < needed => {
                eprintln!("bench {name} ... SKIP (needs {needed} MiB of RAM, this host has {free} to spare)");
                true
            }
            _ => false,
        }
    }

    /// The hypervisor's command line.
    fn line(self) -> String {
        format!(
            "bench={} policy={} seed={SEED}",
            size(self.bytes),
            self.policy.name()
        )
    }
}

/// A size with the letter for MiB, or GiB where it is whole.
fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib.is_multiple_of(1024) => format!("{}G", mib >> 10),
        mib => format!("{mib}M"),
    }
}

/// Reads a size as the hypervisor does.
pub fn parse_size(text: &str) -> Result<u64, String> {
    if text.contains(char::is_whitespace) {
        return Err("one size is needed, without spaces".into());
    }
    let line = format!("bench={text}");
    let config = Config::parse(&line).map_err(|error| error.to_string())?;
    config.bench.ok_or_else(|| "a size is needed".into())
}

/// The name of every policy.
pub fn policy_names() -> [&'static str; Policy::ALL.len()] {
    Policy::ALL.map(Policy::name)
}

/// The policy of this name.
pub fn parse_policy(text: &str) -> Result<Policy, String> {
    Policy::ALL
        .into_iter()
        .find(|policy| policy.name() == text)
        .ok_or_else(|| format!("the policies are {}", policy_names().join(", ")))
}

/// The guest of the boot that measures how long it takes to the first guest.
const GUEST: &str = "hello";

/// The command line of that boot.
fn guest_line() -> String {
    format!("guest={GUEST},memory=16M seed={SEED}")
}

/// The machine for one boot: always the same but for command line and archive.
fn machine(command_line: String, image: PathBuf, archive: Option<PathBuf>, json: PathBuf) -> Machine {
    Machine {
        kind: Kind::Tcg,
        boot: Boot::Direct,
        memory: MEMORY,
        smp: 1,
        cpu_flags: "",
        counted: true,
        threads: false,
        ram: Ram::Anonymous,
        image,
        archive,
        command_line,
        json,
        monitor: None,
        debugger: None,
    }
}

/// The same with so many CPUs, to count rounds, which are the same at any speed.
fn on_cpus(machine: Machine, cpus: u32) -> Machine {
    Machine {
        smp: cpus,
        counted: false,
        ..machine
    }
}

/// Boots one case; the record is whatever came out of it.
///
/// # Errors
/// The emulator can't be run.
pub fn boot(case: Case, image: PathBuf, folder: &Folder) -> Result<Record> {
    // Without an archive: the figures must not change when a guest does.
    watch(machine(case.line(), image, None, folder.file(file::JSON)), folder)
}

fn watch(machine: Machine, folder: &Folder) -> Result<Record> {
    let mut nothing = |_: &str, _: &str| Ok(());
    let watch = Watch {
        limit: Some(LIMIT),
        show: false,
        visitor: &mut nothing,
        typed: Typed::Nothing,
    };
    emulator::run(machine, folder, watch)
}

/// The `bench` line of a boot that passed and did what the case asks for; else why there is none.
pub fn measured(case: Case, record: &Record) -> Result<&Bench<String>, String> {
    if record.outcome != Outcome::Pass {
        return Err(record.outcome.to_string());
    }
    let mut lines = record.report.events.iter().filter_map(|event| match event {
        Event::Bench(bench) => Some(bench),
        _ => None,
    });
    match (lines.next(), lines.next()) {
        (Some(bench), None) if bench.policy == case.policy.name() && bench.pages == case.bytes >> 12 => {
            Ok(bench)
        }
        (Some(bench), None) => Err(format!("another case was measured: {bench:?}")),
        (None, _) => Err("the report has no `bench` line".into()),
        (Some(_), Some(_)) => Err("the report has more than one `bench` line".into()),
    }
}

/// What a boot that ran a guest and passed says of it; else why it says nothing.
fn first_guest(record: &Record) -> Result<FirstGuest, String> {
    if record.outcome != Outcome::Pass {
        return Err(record.outcome.to_string());
    }
    let counters = record
        .report
        .counters()
        .ok_or("the report has no `counters` line")?;
    match counters.ticks_to_first_guest {
        0 => Err("no guest had a turn".into()),
        boot => Ok(FirstGuest {
            boot,
            load: counters.ticks_load,
            bytes: counters.bytes_loaded,
        }),
    }
}

/// Runs the benchmark and prints its tables. The outcome is that of the first boot that did not pass.
///
/// # Errors
/// Set-up or build failed, or the emulator can't be run.
pub fn bench(flags: &cli::Bench) -> Result<Outcome, Failure> {
    match &flags.other {
        Some(cli::Benchmark::Native(flags)) => return native::native(flags),
        Some(cli::Benchmark::Tlb(flags)) => return tlb::tlb(flags),
        Some(cli::Benchmark::Chase(flags)) => return tlb::chase(flags),
        Some(cli::Benchmark::Conversions(flags)) => return conversions::conversions(flags),
        None => {}
    }
    let cases = flags.sizes.iter().flat_map(|bytes| {
        let case = |policy: &Policy| Case {
            policy: *policy,
            bytes: *bytes,
        };
        flags.policies.iter().map(case)
    });
    if flags.dry_run {
        let image = workspace::outline()?.built.join(build::IMAGE);
        let folder = workspace::root().join(RUNS).join("dry-run");
        let (archive, json) = (folder.join(file::ARCHIVE), folder.join(file::JSON));
        for case in cases {
            println!(
                "{}",
                machine(case.line(), image.clone(), None, json.clone()).shell_line()
            );
        }
        println!(
            "{}",
            machine(guest_line(), image, Some(archive), json).shell_line()
        );
        return Ok(Outcome::Pass);
    }
    setup::everything()?;
    setup::machine(Kind::Tcg, Boot::Direct)?;
    let built = build::build(Flavor::Plain)?;
    let mut boots = Boots {
        image: built.hypervisor,
        lines: Vec::new(),
    };
    let mut tables = Tables::default();
    for case in cases {
        let name = format!("{:<11} {:>5}", case.policy.name(), size(case.bytes));
        if case.is_too_large(&name) {
            continue;
        }
        let figures = boots.one(
            &name,
            |image, folder| boot(case, image, folder),
            |record| measured(case, record).cloned(),
        )?;
        match figures {
            Ok(bench) => tables.add(size(case.bytes), bench),
            Err(outcome) => return Ok(outcome),
        }
    }
    let guest = guests::find(&built.guests, GUEST)?.clone();
    let seen = boots.one(
        &format!("to the guest {GUEST}"),
        |image, folder| {
            let archive = folder.file(file::ARCHIVE);
            archive::write(&archive, &[guest])?;
            let json = folder.file(file::JSON);
            watch(machine(guest_line(), image, Some(archive), json), folder)
        },
        first_guest,
    )?;
    match seen {
        Ok(first_guest) => tables.first_guest = Some(first_guest),
        Err(outcome) => return Ok(outcome),
    }
    let mut rounds = Vec::new();
    for bytes in &flags.sizes {
        for cpus in rounds::CPUS {
            let seen = boots.one(
                &format!("{:>5} on {cpus:>2} CPUs", size(*bytes)),
                |image, folder| {
                    let archive = folder.file(file::ARCHIVE);
                    let guests = rounds::NAMES.map(|name| guests::find(&built.guests, name).cloned());
                    archive::write(&archive, &guests.into_iter().collect::<Result<Vec<_>>>()?)?;
                    let json = folder.file(file::JSON);
                    let machine = machine(rounds::line(cpus, *bytes), image, Some(archive), json);
                    watch(on_cpus(machine, cpus), folder)
                },
                |record| {
                    let seen = rounds::measured(cpus, *bytes, record)?;
                    rounds::goal(&seen).map(|()| seen)
                },
            )?;
            let grouped = match seen {
                Ok(seen) => seen,
                Err(outcome) => return Ok(outcome),
            };
            let mut by_page = [None; rounds::BY_PAGE.len()];
            for (policy, counts) in rounds::BY_PAGE.into_iter().zip(&mut by_page) {
                if !flags.policies.contains(&policy) {
                    continue;
                }
                let case = Case {
                    policy,
                    bytes: *bytes,
                };
                *counts = match boots.by_page(case, cpus)? {
                    Some(Err(outcome)) => return Ok(outcome),
                    Some(Ok(counts)) => Some(counts),
                    None => None,
                };
            }
            rounds.push(rounds::Row { grouped, by_page });
        }
    }
    if let Some(path) = &flags.json {
        fs::write(path, &boots.lines).with_context(|| format!("write the reports to {}", path.display()))?;
    }
    println!("\n{tables}\n{}", rounds::Tables(&rounds));
    Ok(Outcome::Pass)
}

/// The boots of one benchmark.
struct Boots {
    image: PathBuf,
    /// The JSON lines of all boots so far.
    lines: Vec<u8>,
}

impl Boots {
    /// Counts what a policy that goes page by page asks of so many CPUs. `None` where the host has too little RAM; an error as for
    /// [`Self::one`].
    fn by_page(&mut self, case: Case, cpus: u32) -> Result<Option<Result<rounds::ByPage, Outcome>>> {
        let name = format!(
            "{:>5} on {cpus:>2} CPUs, {}",
            size(case.bytes),
            case.policy.name()
        );
        if case.is_too_large(&name) {
            return Ok(None);
        }
        let boot = |image, folder: &Folder| {
            let machine = machine(case.line(), image, None, folder.file(file::JSON));
            watch(on_cpus(machine, cpus), folder)
        };
        let counts = |record: &Record| rounds::by_page(cpus, measured(case, record)?);
        self.one(&name, boot, counts).map(Some)
    }

    /// Does one boot, takes its figures, and keeps its JSON lines. The inner error is the outcome of a boot without figures, which was
    /// explained.
    fn one<T>(
        &mut self,
        name: &str,
        boot: impl FnOnce(PathBuf, &Folder) -> Result<Record>,
        figures: impl FnOnce(&Record) -> Result<T, String>,
    ) -> Result<Result<T, Outcome>> {
        eprint!("bench {name} ... ");
        let mut folder = Folder::create(&workspace::root())?;
        let record = boot(self.image.clone(), &folder).inspect_err(|_| folder.keep())?;
        match figures(&record) {
            Ok(figures) => {
                eprintln!("{:.1} s", record.took.as_secs_f64());
                let report = fs::read(folder.file(file::JSON)).context("read the report again")?;
                self.lines.extend_from_slice(&report);
                Ok(Ok(figures))
            }
            Err(reason) => {
                eprintln!("{reason}");
                folder.keep();
                explain(&record, &self.image, &folder);
                Ok(Err(match record.outcome {
                    Outcome::Pass => Outcome::NoVerdict(reason),
                    outcome => outcome,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn lines_are_what_the_hypervisor_reads() {
        for policy in Policy::ALL {
            for bytes in [4 << 20, 256 << 20, 1 << 30, 3 << 29] {
                let line = Case { policy, bytes }.line();
                let config = Config::parse(&line).unwrap();
                assert_eq!((config.policy, config.bench), (policy, Some(bytes)), "{line}");
            }
        }
        assert!(Config::parse(&guest_line()).is_ok());
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert!(parse_size("3M").unwrap_err().contains("multiple of 2M"));
        assert!(parse_size("16M quiet").is_err());
        assert_eq!(parse_policy("scattered"), Ok(Policy::Scattered));
        assert!(parse_policy("linux").unwrap_err().contains("linux-fresh"));
    }

    #[test]
    fn only_the_line_of_this_case_is_a_measurement() {
        let case = Case {
            policy: Policy::Grouped,
            bytes: 16 << 20,
        };
        let line = |pages: u64| serde_json::to_string(&Event::Bench(goals::sample(pages))).unwrap();
        let record = |outcome, lines: &[String]| Record {
            outcome,
            text: String::new(),
            report: Report::parse(lines.join("\n").as_bytes()),
            stopped_at: Vec::new(),
            took: Duration::ZERO,
        };
        assert!(measured(case, &record(Outcome::Pass, &[line(4096)])).is_ok());
        for (outcome, lines) in [
            (Outcome::Pass, vec![]),
            (Outcome::Pass, vec![line(512)]),
            (Outcome::Pass, vec![line(4096), line(4096)]),
            (Outcome::Interrupted, vec![line(4096)]),
        ] {
            assert!(measured(case, &record(outcome, &lines)).is_err());
        }
        let turn = |ticks_to_first_guest| {
            let counters = report::Counters {
                ticks_to_first_guest,
                ticks_load: 5,
                bytes_loaded: 6,
                ..report::Counters::default()
            };
            serde_json::to_string(&Event::<String>::Counters(counters)).unwrap()
        };
        let expected = FirstGuest {
            boot: 7,
            load: 5,
            bytes: 6,
        };
        assert_eq!(first_guest(&record(Outcome::Pass, &[turn(7)])), Ok(expected));
        for (outcome, lines) in [
            (Outcome::Pass, vec![]),
            (Outcome::Pass, vec![turn(0)]),
            (Outcome::Interrupted, vec![turn(7)]),
        ] {
            assert!(first_guest(&record(outcome, &lines)).is_err());
        }
    }
}
