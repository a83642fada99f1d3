//! `cargo xtask test`: the tests on the host, then the guests on every machine.
//!
//! `suites` lists the sets of cargo's own tests, and `host` runs them. `table` lists the tests on a machine, one row each (`row`; those of `measure=tlb` are in `measuring`): a machine, a command line, what is given
//! as archive (`inputs` makes the broken ones) and what is expected. `on_machine` runs a row; `checks` looks at its report, `outside` at
//! its RAM while the machine is paused; `benchmark` asks what private memory costs, `native` what the memory subsystem does on this host. Every result is a line: ok, FAILED, or SKIP with the reason.

mod benchmark;
pub mod checks;
mod host;
mod inputs;
mod measuring;
mod native;
mod on_machine;
mod outside;
mod row;
mod suites;
mod table;

pub use on_machine::available_mib;

use std::io::Write;
use std::time::Instant;

use crate::build::{self, Flavor};
use crate::machine::Kind;
use crate::preflight::Host;
use crate::test::on_machine::Images;
use crate::test::row::Row;
use crate::{Failure, cli, interrupt, setup, workspace};

/// The result of one test.
pub enum Verdict {
    /// It passed; what to add, if anything.
    Ok(String),
    /// It failed: the reason, in lines.
    Failed(String),
    /// It was not run, and why.
    Skip(String),
}

/// Counts results and prints them the way cargo's tests do.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    /// Prints the beginning of a line, so that one sees what runs.
    fn begin(name: &str) {
        print!("test {name} ... ");
        // A closed terminal does not stop the tests.
        let _ = std::io::stdout().flush();
    }

    /// Prints the end of the line and counts `tests` results.
    fn end(&mut self, name: &str, tests: usize, verdict: Verdict) {
        let note = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!(" ({text})")
            }
        };
        match verdict {
            Verdict::Ok(text) => {
                self.passed += tests;
                println!("ok{}", note(&text));
            }
            Verdict::Skip(reason) => {
                self.skipped += tests;
                println!("SKIP{}", note(&reason));
            }
            Verdict::Failed(reason) => {
                self.failed.push(name.to_owned());
                println!("FAILED");
                reason.lines().for_each(|line| println!("    {line}"));
            }
        }
    }

    /// Prints the closing lines; true when nothing failed.
    fn close(&self, start: Instant) -> bool {
        if !self.failed.is_empty() {
            println!("\nfailures:");
            self.failed.iter().for_each(|name| println!("    {name}"));
        }
        let word = if self.failed.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed, {} failed, {} skipped; {:.0} s",
            self.passed,
            self.failed.len(),
            self.skipped,
            start.elapsed().as_secs_f64()
        );
        self.failed.is_empty()
    }
}

/// The machines that this version has tests for.
const KINDS: [Kind; 5] = [
    Kind::Tcg,
    Kind::Kvm,
    Kind::Bochs,
    Kind::NestedAmd,
    Kind::NestedIntel,
];

/// A row's name on a kind of machine.
fn full_name(kind: Kind, row: &Row) -> String {
    format!("{}::{}", kind.name(), row.name)
}

/// Runs the tests and returns the exit status.
///
/// # Errors
/// Set-up or build failed, or Ctrl-C came.
pub fn test(flags: &cli::Test) -> Result<u8, Failure> {
    let chosen = |name: &str| flags.filter.as_deref().is_none_or(|filter| name.contains(filter));
    let outline = workspace::outline()?;
    let rows = table::rows(&outline.guests);
    let of_kind = |kind| {
        rows.iter()
            .filter(move |row| row.is_for(kind) && chosen(&full_name(kind, row)))
            .collect::<Vec<_>>()
    };
    let suites: Vec<_> = suites::ALL.iter().filter(|suite| chosen(suite.name)).collect();
    let benchmarks: Vec<_> = benchmark::TESTS.iter().filter(|test| chosen(test.name)).collect();
    let native: Vec<_> = native::tests()?
        .into_iter()
        .filter(|test| chosen(&test.name))
        .collect();
    if flags.list {
        suites
            .iter()
            .for_each(|suite| println!("{}: {}", suite.name, suite.about));
        native
            .iter()
            .for_each(|test| println!("{}: {}", test.name, test.about));
        for kind in KINDS {
            of_kind(kind)
                .iter()
                .for_each(|row| println!("{}: {}", full_name(kind, row), row.about));
        }
        benchmarks
            .iter()
            .for_each(|test| println!("{}: {}", test.name, test.about));
        return Ok(0);
    }
    if suites.is_empty()
        && native.is_empty()
        && benchmarks.is_empty()
        && KINDS.iter().all(|kind| of_kind(*kind).is_empty())
    {
        return Err(Failure::Usage(anyhow::anyhow!(
            "no test has `{}` in its name; `cargo xtask test --list` names them",
            flags.filter.as_deref().unwrap_or_default()
        )));
    }

    let start = Instant::now();
    let mut tally = Tally::default();
    setup::everything()?;
    for suite in suites {
        if suite.only_long && !flags.long {
            Tally::begin(suite.name);
            tally.end(
                suite.name,
                1,
                Verdict::Skip("it takes long: only with --long".into()),
            );
            continue;
        }
        host::run(suite, &outline.target, flags.long, &mut tally)?;
    }
    for test in &native {
        Tally::begin(&test.name);
        let verdict = native::run(test)?;
        tally.end(&test.name, 1, verdict);
    }
    let needed = |flavor| {
        KINDS
            .iter()
            .any(|kind| of_kind(*kind).iter().any(|row| row.flavor == flavor))
    };
    if needed(Flavor::Plain) || !benchmarks.is_empty() || needed(Flavor::TestHooks) {
        let built = build::build(Flavor::Plain)?;
        let hooks = if needed(Flavor::TestHooks) {
            build::build(Flavor::TestHooks)?.hypervisor
        } else {
            built.hypervisor.clone()
        };
        let images = Images {
            plain: built.hypervisor,
            hooks,
            guests: built.guests,
        };
        let obstacle = Host::ask().obstacle();
        for kind in KINDS {
            let rows = of_kind(kind);
            if let (Kind::Kvm, Some(obstacle)) = (kind, &obstacle) {
                // One line for all of them: the reason is the same.
                if !rows.is_empty() {
                    let name = format!("{} ({} tests)", kind.name(), rows.len());
                    Tally::begin(&name);
                    tally.end(&name, rows.len(), Verdict::Skip(obstacle.clone()));
                }
                continue;
            }
            let (rows, long): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| flags.long || !row.is_long(kind));
            if !long.is_empty() {
                let name = format!("{} ({} more tests)", kind.name(), long.len());
                Tally::begin(&name);
                tally.end(&name, long.len(), Verdict::Skip("they take long: --long".into()));
            }
            let of = rows.len();
            for (number, row) in (1..).zip(rows) {
                let name = full_name(kind, row);
                if kind.is_nested() {
                    // These take long enough to ask how many are left.
                    print!("{number}/{of} ");
                }
                Tally::begin(&name);
                if let Some(obstacle) = row.obstacle(kind) {
                    tally.end(&name, 1, Verdict::Skip(obstacle.into()));
                    continue;
                }
                setup::machine(kind, row.boot)?;
                let verdict = on_machine::run(row, kind, &images, flags.verbose);
                if interrupt::asked() {
                    println!("stopped");
                    return Err(Failure::Other(anyhow::anyhow!("interrupted")));
                }
                tally.end(&name, 1, verdict);
            }
        }
        for test in benchmarks {
            Tally::begin(test.name);
            let verdict = benchmark::run(test, &images.plain);
            if interrupt::asked() {
                println!("stopped");
                return Err(Failure::Other(anyhow::anyhow!("interrupted")));
            }
            tally.end(test.name, 1, verdict);
        }
    }
    Ok(u8::from(!tally.close(start)))
}
