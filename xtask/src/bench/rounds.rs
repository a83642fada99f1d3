//! Rounds of the shootdown for each guest, by its size and the number of CPUs: one at the launch and at most one at the teardown, whatever
//! the size, and nobody disturbed who runs a guest.
//!
//! On all CPUs but one a guest spins, while large ones are launched and torn down. The trace has an event for each round, with what it hid: all
//! of a guest at a launch, nothing at a teardown, whose round is for the tables that were merged away.

use std::fmt;

use report::Event;

use super::{SEED, size};
use crate::emulator::Record;
use crate::verdict::Outcome;

/// Numbers of CPUs.
pub const CPUS: [u32; 5] = [1, 2, 4, 8, 16];
/// Large guests in each boot.
const GUESTS: u64 = 2;
/// Memory of the guests that spin.
const SPINS_IN: u64 = 4 << 20;

/// The guests, by their names in the archive.
pub const NAMES: [&str; 2] = ["spin", "hello"];

/// What was counted in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// CPUs.
    pub cpus: u32,
    /// Memory of each of the large guests.
    pub bytes: u64,
    /// Guests, those that spin included.
    pub guests: u64,
    /// Rounds that hid memory.
    pub launch: u64,
    /// Rounds that hid none.
    pub teardown: u64,
    /// CPUs reached by all of them: in the host and interrupted, in a guest or asleep and flagged, in need of neither.
    pub reached: [u64; 3],
}

/// The hypervisor's command line.
pub fn line(cpus: u32, bytes: u64) -> String {
    let spins = match cpus - 1 {
        0 => String::new(),
        count => format!(
            "guest=spin,memory={},limit=1s,expect=time-limit,count={count} ",
            size(SPINS_IN)
        ),
    };
    format!(
        "{spins}guest=hello,memory={},limit=60s,count={GUESTS} together={cpus} trace=flush quiet seed={SEED}",
        size(bytes)
    )
}

/// The counts of a boot that passed; else why there are none.
pub fn measured(cpus: u32, bytes: u64, record: &Record) -> Result<Rounds, String> {
    if record.outcome != Outcome::Pass {
        return Err(record.outcome.to_string());
    }
    let report = &record.report;
    let counters = report.counters().ok_or("the report has no `counters` line")?;
    let hidden = || {
        report.events.iter().filter_map(|event| match event {
            Event::Trace(trace) if trace.action == "flush" => Some(trace.bytes),
            _ => None,
        })
    };
    if hidden().count() as u64 != counters.flushes {
        return Err(format!(
            "{} rounds were traced, {} counted",
            hidden().count(),
            counters.flushes
        ));
    }
    Ok(Rounds {
        cpus,
        bytes,
        guests: report.guests().count() as u64,
        launch: hidden().filter(|bytes| *bytes > 0).count() as u64,
        teardown: hidden().filter(|bytes| *bytes == 0).count() as u64,
        reached: [
            counters.cpus_interrupted,
            counters.cpus_flagged,
            counters.cpus_spared,
        ],
    })
}

/// What the counts must be.
///
/// # Errors
/// What is missed.
pub fn goal(rounds: &Rounds) -> Result<(), String> {
    let Rounds {
        cpus,
        guests,
        launch,
        teardown,
        reached,
        ..
    } = *rounds;
    let expected = u64::from(cpus - 1) + GUESTS;
    if guests != expected {
        return Err(format!("{guests} guests, not {expected}"));
    }
    if launch != guests || teardown > guests {
        return Err(format!(
            "{launch} rounds for {guests} launches and {teardown} for their teardowns on {cpus} CPUs"
        ));
    }
    let all: u64 = reached.iter().sum();
    if all != (launch + teardown) * u64::from(cpus - 1) {
        return Err(format!(
            "{} rounds reached {all} CPUs of {cpus}",
            launch + teardown
        ));
    }
    if cpus > 1 && reached[1] == 0 {
        return Err("no CPU was in a guest".into());
    }
    Ok(())
}

/// A table of counts, with how many rounds the launch of such a guest takes page by page, where that was measured.
pub struct Table<'r>(pub &'r [(Rounds, Option<u64>)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Rounds of the shootdown, with a guest that spins on every CPU but one (grouped)\n\
             {:>5}{:>7}{:>8}{:>10}{:>10}{:>14}{:>10}{:>8}{:>22}",
            "CPUs",
            "size",
            "guests",
            "launches",
            "teardowns",
            "interrupted",
            "flagged",
            "spared",
            "launch, linux-fresh"
        )?;
        for (rounds, paged) in self.0 {
            let [interrupted, flagged, spared] = rounds.reached;
            let paged = paged.map_or_else(|| "-".to_owned(), |rounds| rounds.to_string());
            writeln!(
                f,
                "{:>5}{:>7}{:>8}{:>10}{:>10}{interrupted:>14}{flagged:>10}{spared:>8}{paged:>22}",
                rounds.cpus,
                size(rounds.bytes),
                rounds.guests,
                rounds.launch,
                rounds.teardown
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Rounds = Rounds {
        cpus: 4,
        bytes: 16 << 20,
        guests: 5,
        launch: 5,
        teardown: 2,
        reached: [3, 14, 4],
    };

    #[test]
    fn every_goal_can_be_missed() {
        assert_eq!(goal(&GOOD), Ok(()));
        for bad in [
            Rounds { guests: 4, ..GOOD },
            Rounds { launch: 6, ..GOOD },
            Rounds {
                teardown: 6,
                reached: [3, 14, 16],
                ..GOOD
            },
            Rounds {
                reached: [3, 14, 3],
                ..GOOD
            },
            Rounds {
                reached: [17, 0, 4],
                ..GOOD
            },
        ] {
            assert!(goal(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_what_the_hypervisor_reads() {
        for cpus in CPUS {
            let line = line(cpus, 16 << 20);
            let config = boot_config::Config::parse(&line).unwrap();
            assert_eq!(config.guests.len(), if cpus == 1 { 1 } else { 2 }, "{line}");
            for guest in &config.guests {
                assert!(NAMES.contains(&guest.name), "{line}");
            }
        }
    }
}
