//! `cargo xtask perf`: a run whose emulator is counted by Linux' `perf stat`, from outside, where this machine has perf and counters; where not, the reason.
//!
//! [`ask`](look::ask) looks whether anything can be counted and which events there are; `run` runs the machine under `perf stat -j`; [`stat`] reads what
//! that wrote. Under KVM the events count the guest's time alone, so they are those of the hypervisor and its guests. An emulated machine has no
//! translations of its own: there it would be the emulator that is counted, which has to be asked for.

mod look;
mod stat;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::machine::Kind;
use crate::preflight::{self, Host};
use crate::verdict::Outcome;
use crate::{Failure, cli, run};

/// What is said under every figure until a run of a user's is in docs/tlb.md.
const UNVERIFIED: &str =
    "unverified on hardware: no run with counters is recorded in docs/tlb.md yet; please send yours";
/// The name of perf's file in the run's folder.
const FILE: &str = "perf.json";

/// How a run is counted.
pub struct Stat {
    /// Events in perf's own words.
    events: Vec<String>,
    /// The machine is emulated.
    emulated: bool,
    /// Where the figures go, too.
    json: Option<std::path::PathBuf>,
}

impl Stat {
    /// What stands before the emulator's command line.
    pub fn prefix(&self, folder: &Path) -> Vec<String> {
        let mut words = vec![look::PERF.to_owned()];
        words.extend(["stat", "-j", "-o"].map(str::to_owned));
        words.push(folder.join(FILE).display().to_string());
        words.extend(["-e".to_owned(), self.events.join(","), "--".to_owned()]);
        words
    }

    /// Shows what was counted.
    ///
    /// # Errors
    /// perf has written nothing that can be read.
    pub fn show(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "perf has left no {}: its words are in emulator.log",
                path.display()
            )
        })?;
        let counts = stat::read(&text)?;
        println!("counted from outside (source: pmu), of {}:", self.whom());
        print!("{}", stat::Table(&counts));
        if counts.iter().any(|count| count.value.is_some()) {
            println!("{UNVERIFIED}");
        }
        if let Some(to) = &self.json {
            let text = serde_json::to_string_pretty(&counts).context("the counts as JSON")?;
            fs::write(to, format!("{text}\n")).with_context(|| format!("write {}", to.display()))?;
        }
        Ok(())
    }

    fn whom(&self) -> &'static str {
        if self.emulated {
            "the emulator's own program, NOT of the machine that it emulates"
        } else {
            "the machine: the hypervisor and its guests"
        }
    }
}

/// Does the run and shows what was counted, or says why nothing can be.
///
/// # Errors
/// As for `run`.
pub fn perf(flags: &cli::Perf) -> Result<Outcome, Failure> {
    let run = &flags.run;
    let host = Host::ask();
    if run.machine.kind().is_none()
        && let Some(obstacle) = host.obstacle()
    {
        return Ok(skip(&format!(
            "only KVM runs the machine on counters, and it does not here: {obstacle}"
        )));
    }
    let choice = preflight::choose(run.machine.kind(), &host)?;
    if choice.kind.is_bochs() || choice.kind.is_nested() {
        let error = anyhow!("{} has no counters: use --machine kvm", choice.kind.name());
        return Err(Failure::Usage(error));
    }
    if run.gdb || run.dry_run {
        return Err(Failure::Usage(anyhow!(
            "perf runs the machine to its end: leave out --gdb and --dry-run"
        )));
    }
    let emulated = choice.kind == Kind::Tcg;
    let events = match look::ask(emulated) {
        Ok(events) => events,
        Err(reason) => return Ok(skip(&reason)),
    };
    run::counted(
        run,
        &Stat {
            events,
            emulated,
            json: flags.counts.clone(),
        },
    )
}

/// Nothing is wrong: there is nothing to count with.
fn skip(reason: &str) -> Outcome {
    println!("SKIP pmu, from outside: {reason}");
    Outcome::Pass
}
