//! `cargo xtask bench conversions`: what a guest pays when pages change between private and shared, and what that leaves behind.
//!
//! One boot, with clocks that follow the instructions. The guest `bench-conversions` reads its clock around calls; three instances of
//! `conversion-storm` end before, in the middle of and after a storm of conversions, and the report says of each how much of its memory was in
//! large leaves. Exits and flushes are the hypervisor's counts.

use std::fmt;

use report::{Counters, Event};

use super::{Boots, Outcome, SEED, machine, watch};
use crate::archive;
use crate::build::{self, Flavor};
use crate::cli;
use crate::emulator::{Record, file};
use crate::machine::{Kind, Machine};
use crate::medium::Boot;
use crate::test::checks;
use crate::{Failure, guests, setup};

/// The guests, by their names in the archive: the one that measures, and the one that storms.
const NAMES: [&str; 2] = ["bench-conversions", "conversion-storm"];
/// Hypercalls of the first: the round trip, calls for conversions (one page, 64 pages one by one, 2 MiB three times, 16 MiB, three calls each), values,
/// what it prints, and the exit.
const CALLS: u64 = 64 + 3 * (1 + 64 + 3 + 1) + 14 + 1 + 1;
/// Pages of its calls that are for more than one, less one for each call: they are flushed together. Sharing has as many as unsharing.
const TOGETHER: u64 = 3 * 511 + 4095;
/// Its other exits: the CPUIDs that it measures, and a few more for its runtime.
const OTHERS: u64 = 64 + 8;
/// RAM of Bochs' machine: more would be in a slow file. The guests need a third of it.
const MEMORY_ON_BOCHS: u64 = 512 << 20;

/// What one boot says.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// Ticks by the names that the guest gives them.
    values: Vec<(String, u64)>,
    /// Exits of the guest that measures, and hypercalls among them.
    exits: (u64, u64),
    /// Its turns. Each ends by an exit, or in the middle of a call; on Bochs there are many, as its clock is slow.
    turns: u64,
    /// MiB of memory in large leaves, and of memory, of the three that storm.
    large: [(u64, u64); 3],
    counters: Counters,
}

fn line() -> String {
    format!(
        "guest={},memory=32M,limit=60s guest={},memory=32M,limit=60s,count=3 together=1 quiet seed={SEED}",
        NAMES[0], NAMES[1]
    )
}

/// Measures and prints.
///
/// # Errors
/// Set-up or build failed, or the emulator can't be run.
pub fn conversions(flags: &cli::Conversions) -> Result<Outcome, Failure> {
    let (kind, memory) = match flags.machine {
        cli::Emulator::Tcg => (Kind::Tcg, super::MEMORY),
        cli::Emulator::Bochs => (Kind::Bochs, MEMORY_ON_BOCHS),
    };
    setup::everything()?;
    setup::machine(kind, Boot::Direct)?;
    let built = build::build(Flavor::Plain)?;
    let mut boots = Boots {
        image: built.hypervisor,
        lines: Vec::new(),
    };
    let seen = boots.one(
        "conversions",
        |image, folder| {
            let archive = folder.file(file::ARCHIVE);
            let guests = NAMES.map(|name| guests::find(&built.guests, name).cloned());
            archive::write(&archive, &guests.into_iter().collect::<anyhow::Result<Vec<_>>>()?)?;
            let json = folder.file(file::JSON);
            let machine = Machine {
                kind,
                memory,
                ..machine(line(), image, Some(archive), json)
            };
            watch(machine, folder)
        },
        measured,
    )?;
    let costs = match seen {
        Ok(costs) => costs,
        Err(outcome) => return Ok(outcome),
    };
    println!("{costs}");
    Ok(match goal(&costs) {
        Ok(()) => Outcome::Pass,
        Err(missed) => Outcome::Fail(missed),
    })
}

/// The figures of a boot that passed; else why there are none.
fn measured(record: &Record) -> Result<Costs, String> {
    if record.outcome != Outcome::Pass {
        return Err(record.outcome.to_string());
    }
    let report = &record.report;
    let measuring = report.guests().find(|guest| guest.name == NAMES[0]);
    let measuring = measuring.ok_or("the guest that measures is missing")?;
    let values = report.events.iter().filter_map(|event| match event {
        Event::ReportValue(value) if value.guest == NAMES[0] => Some((value.name.clone(), value.value)),
        _ => None,
    });
    Ok(Costs {
        values: values.collect(),
        exits: (measuring.exits, measuring.hypercalls),
        turns: measuring.turns,
        large: checks::storm(report)?,
        counters: *report.counters().ok_or("the report has no `counters` line")?,
    })
}

/// What the counts must be: one exit a call, one flush for each call that shares or takes back, at most two of the host's for a guest, and as much in large
/// leaves after the storm as before it.
fn goal(costs: &Costs) -> Result<(), String> {
    let (exits, calls) = costs.exits;
    if calls != CALLS || !(calls..=calls + OTHERS + costs.turns).contains(&exits) {
        let turns = costs.turns;
        return Err(format!(
            "{calls} hypercalls in {exits} exits and {turns} turns, not {CALLS}"
        ));
    }
    let counters = &costs.counters;
    // The guests that storm change one page by a call.
    let pages = counters.pages_shared + counters.pages_unshared;
    let expected = pages.saturating_sub(2 * TOGETHER);
    if expected == 0 || counters.guest_flushes != expected {
        return Err(format!(
            "{} flushes of guests, not {expected}",
            counters.guest_flushes
        ));
    }
    let guests = 1 + costs.large.len() as u64;
    if counters.flushes > 2 * guests {
        return Err(format!(
            "{} flushes of the host for {guests} guests",
            counters.flushes
        ));
    }
    let [before, during, after] = costs.large;
    // Where code must not run from large leaves, those stay split.
    let stays = counters.promotions_blocked_executable > 0;
    if during.0 >= before.0 || !stays && (before.0 != before.1 || after != before) {
        return Err(format!(
            "MiB in large leaves before, during, after: {:?}",
            costs.large
        ));
    }
    Ok(())
}

impl Costs {
    fn value(&self, name: &str) -> u64 {
        let value = self.values.iter().find(|(known, _)| known == name);
        value.map_or(0, |(_, ticks)| *ticks)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nInstructions of a call, from the guest's instruction before it to the one after it (source: instructions)\n\
             {:<34}{:>10}{:>10}{:>10}{:>8}",
            "", "share", "unshare", "accept", "exits"
        )?;
        for (text, suffix, parts) in [
            ("4K of a 2M leaf (split, merged)", "4k1", 1),
            ("4K of 2M that are split", "4k", 1),
            ("2M", "2m", 1),
            ("16M, for each 2M", "16m", 8),
        ] {
            write!(f, "{text:<34}")?;
            for call in ["share", "unsh", "acc"] {
                write!(f, "{:>10}", self.value(&format!("{call}{suffix}")) / parts)?;
            }
            writeln!(f, "{:>8}", if parts == 1 { "1" } else { "1/8" })?;
        }
        let (exits, calls) = self.exits;
        let counters = &self.counters;
        writeln!(
            f,
            "\nround trip: a call that is refused at once {}, CPUID {}\n\
             exits of this guest: {exits} in {} turns, {calls} of them hypercalls\n\
             flushes of all guests: {} for {} pages shared, {} unshared, {} accepted; of the host: {}",
            self.value("call"),
            self.value("cpuid"),
            self.turns,
            counters.guest_flushes,
            counters.pages_shared,
            counters.pages_unshared,
            counters.pages_accepted,
            counters.flushes
        )?;
        write!(f, "in 2M leaves, before, during and after the storm:")?;
        for (large, all) in &self.large {
            write!(f, " {large} of {all} MiB;")?;
        }
        let pages = (counters.bytes_measured >> 12).max(1);
        writeln!(
            f,
            "\nmeasuring the launches: {} for each 4K of {pages} pages",
            counters.ticks_measure / pages
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Costs {
        Costs {
            values: vec![("share16m".into(), 800), ("call".into(), 7)],
            exits: (CALLS + OTHERS + 3, CALLS),
            turns: 3,
            large: [(32, 32), (8, 32), (32, 32)],
            counters: Counters {
                guest_flushes: 300,
                pages_shared: 150 + TOGETHER,
                pages_unshared: 150 + TOGETHER,
                flushes: 8,
                ..Counters::default()
            },
        }
    }

    #[test]
    fn every_goal_can_be_missed() {
        assert_eq!(goal(&good()), Ok(()));
        let miss: [fn(&mut Costs); 8] = [
            |costs| costs.exits.0 = CALLS - 1,
            |costs| costs.exits.0 += 1,
            |costs| costs.exits.1 -= 1,
            |costs| costs.counters.guest_flushes += 1,
            |costs| costs.counters.flushes = 9,
            |costs| costs.large[2].0 = 30,
            |costs| costs.large[1].0 = 32,
            |costs| costs.large[0].0 = 30,
        ];
        for (number, miss) in miss.iter().enumerate() {
            let mut costs = good();
            miss(&mut costs);
            assert!(goal(&costs).is_err(), "{number}");
        }
        let mut split = good();
        split.large = [(30, 32), (6, 32), (6, 32)];
        assert!(goal(&split).is_err());
        split.counters.promotions_blocked_executable = 1;
        assert_eq!(goal(&split), Ok(()));
    }

    #[test]
    fn the_table_shows_what_was_reported() {
        let text = good().to_string();
        assert!(
            text.contains("16M, for each 2M                         100"),
            "{text}"
        );
        assert!(text.contains("refused at once 7"), "{text}");
    }

    #[test]
    fn the_line_is_what_the_hypervisor_reads() {
        let line = line();
        let config = boot_config::Config::parse(&line).unwrap();
        let names: Vec<_> = config.guests.iter().map(|guest| guest.name).collect();
        assert_eq!(names, NAMES);
    }
}
