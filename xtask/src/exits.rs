//! `cargo xtask exits`: which VM exits one launch and one teardown cause under KVM, counted by level 1 of a machine with levels.
//!
//! Five boots of a test build, which marks where a launch and a teardown begin and end: the benchmark with two policies, which runs no guest, a guest
//! that touches all its memory, one that shares all but 8 MiB of it, takes it back and accepts it, and one that does so with single pages. Level 1 traces KVM and counts ([`crate::nested`]); [`counts`] reads what it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use boot_config::Policy;

use crate::build::{self, Built, Flavor};
use crate::cli;
use crate::emulator::{self, Watch, file};
use crate::folder::Folder;
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Boot;
use crate::run::explain;
use crate::verdict::Outcome;
use crate::{Failure, archive, nested, setup, workspace};

/// The guest that runs.
const GUEST: &str = "touch-all";
/// The guest that changes its memory, all but so many MiB of it.
const CHANGES: (&str, u64) = ("share-much", 8);
/// The guest that changes pages one by one, 200 times from private to shared or back. As the second of a boot it takes all of them back in the end; the first one does
/// nothing.
const STORM: (&str, &str) = (
    "conversion-storm",
    "guest=hello,memory=4M guest=conversion-storm,memory=32M,limit=600s together=1 seed=1 quiet",
);
/// The boots.
pub const NAMES: [&str; 5] = ["grouped", "linux-fresh", GUEST, CHANGES.0, STORM.0];
/// The parts of a boot that are counted, as level 1 names them.
const PHASES: [&str; 3] = ["launch", "running", "teardown"];
/// On Bochs a boot with tracing takes two minutes.
const LIMIT: Duration = Duration::from_secs(900);

/// Exits by phase and cause.
type Counts = BTreeMap<(String, String), u64>;

/// Measures and prints.
///
/// # Errors
/// Set-up or build fails, or a boot does not pass.
pub fn exits(flags: &cli::Exits) -> Result<Outcome, Failure> {
    let kind = match flags.machine {
        cli::Levels::NestedAmd => Kind::NestedAmd,
        cli::Levels::NestedIntel => Kind::NestedIntel,
    };
    setup::everything()?;
    setup::machine(kind, Boot::Direct)?;
    let built = build::build(Flavor::TestHooks)?;
    eprintln!("{}", nested::set_up(kind)?);
    let mib = flags.size >> 20;
    let bench = |policy: Policy| format!("bench={mib}M policy={} seed=1", policy.name());
    let cases = [
        bench(Policy::Grouped),
        bench(Policy::LinuxFresh),
        format!("guest={GUEST},memory={mib}M,limit=600s seed=1 quiet"),
        format!(
            "guest={},memory={}M,limit=600s seed=1 quiet",
            CHANGES.0,
            mib + CHANGES.1
        ),
        STORM.1.to_owned(),
    ];
    let is_wanted = |name: &str| flags.only.is_empty() || flags.only.iter().any(|wanted| wanted == name);
    let mut found = Vec::new();
    for (name, line) in NAMES.into_iter().zip(cases).filter(|(name, _)| is_wanted(name)) {
        eprintln!("{}: {name}, {mib} MiB", kind.name());
        match boot(kind, line, &built)? {
            Ok(counts) => found.push((name, counts)),
            Err(outcome) => return Ok(outcome),
        }
    }
    print!("{}", table(&found));
    Ok(Outcome::Pass)
}

/// One boot: its counts, or how it ended instead of passing.
fn boot(kind: Kind, command_line: String, built: &Built) -> Result<Result<Counts, Outcome>> {
    let mut folder = Folder::create(&workspace::root())?;
    let archive = folder.file(file::ARCHIVE);
    archive::write(&archive, &built.guests)?;
    let machine = Machine {
        kind,
        boot: Boot::Direct,
        memory: nested::level_0::COUNTED_MEMORY,
        smp: 1,
        cpu_flags: "",
        counted: true,
        threads: false,
        ram: Ram::Anonymous,
        image: built.hypervisor.clone(),
        archive: Some(archive),
        command_line,
        json: folder.file(file::JSON),
        monitor: None,
        debugger: None,
    };
    let watch = Watch {
        limit: Some(LIMIT),
        show: false,
        visitor: &mut |_, _| Ok(()),
        typed: Typed::Nothing,
    };
    let record = emulator::run(machine, &folder, watch)?;
    if record.outcome != Outcome::Pass {
        folder.keep();
        eprintln!("{}", record.outcome);
        explain(&record, &built.hypervisor, &folder);
        return Ok(Err(record.outcome));
    }
    counts(folder.path()).map(Ok)
}

fn counts(folder: &Path) -> Result<Counts> {
    read(&nested::log(folder))
}

/// Reads level 1's lines.
///
/// # Errors
/// It has lost a part of its trace, or has none.
fn read(log: &str) -> Result<Counts> {
    let said = |what: &str| {
        log.lines()
            .filter_map(|line| line.trim().strip_prefix("level 1: ")?.strip_prefix(what))
            .collect::<Vec<_>>()
    };
    match said("lost ")[..] {
        ["0 of the trace"] => {}
        [lost] => return Err(anyhow!("level 1 has lost {lost}: a smaller size makes less")),
        _ => {
            return Err(anyhow!(
                "level 1 has traced nothing: its kernel has no trace points of KVM's"
            ));
        }
    }
    let mut counts = Counts::new();
    for line in said("exits ") {
        let words: Vec<_> = line.split_whitespace().collect();
        let [phase, cause, number] = words[..] else {
            return Err(anyhow!("level 1 counts `{line}`"));
        };
        let number = number
            .parse()
            .with_context(|| format!("level 1 counts `{line}`"))?;
        counts.insert((phase.to_owned(), cause.to_owned()), number);
    }
    Ok(counts)
}

/// A line for each phase and cause, a column for each boot.
fn table(found: &[(&str, Counts)]) -> String {
    let mut text = format!("{:<10} {:<32}", "phase", "cause");
    found
        .iter()
        .for_each(|(name, _)| text.push_str(&format!(" {name:>16}")));
    text.push('\n');
    for phase in PHASES {
        let mut causes: Vec<_> = found
            .iter()
            .flat_map(|(_, counts)| counts.keys())
            .filter(|(of, _)| of == phase)
            .collect();
        causes.sort();
        causes.dedup();
        for key in causes {
            text.push_str(&format!("{phase:<10} {:<32}", key.1));
            found
                .iter()
                .for_each(|(_, counts)| text.push_str(&format!(" {:>16}", counts.get(key).unwrap_or(&0))));
            text.push('\n');
        }
        let sum = |counts: &Counts| {
            counts
                .iter()
                .filter(|((of, _), _)| of == phase)
                .map(|(_, number)| number)
                .sum::<u64>()
        };
        text.push_str(&format!("{phase:<10} {:<32}", "all"));
        found
            .iter()
            .for_each(|(_, counts)| text.push_str(&format!(" {:>16}", sum(counts))));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "level 1: up after 2 s\r\nlevel 1: lost 0 of the trace\r\nlevel 1: exits launch level-2:npf:absent 12\r\nlevel 1: exits teardown level-2:interrupt 3\r\nlevel 1: QEMU ended with status 33\r\n";

    #[test]
    fn what_level_1_counts_becomes_a_table() {
        let counts = read(LOG).unwrap();
        assert_eq!(counts.len(), 2);
        let text = table(&[("a", counts), ("b", Counts::new())]);
        let words: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(
            words.contains(&vec!["launch", "level-2:npf:absent", "12", "0"]),
            "{text}"
        );
        assert!(words.contains(&vec!["teardown", "all", "3", "0"]), "{text}");
        assert!(words.contains(&vec!["running", "all", "0", "0"]), "{text}");
    }

    #[test]
    fn a_trace_with_gaps_is_not_counted() {
        let error = read(&LOG.replace("lost 0", "lost 7")).unwrap_err().to_string();
        assert!(error.contains("has lost 7 of the trace"), "{error}");
        assert!(
            read("level 1: up after 2 s")
                .unwrap_err()
                .to_string()
                .contains("traced nothing")
        );
    }
}
