//! Rounds of the shootdown for each guest, by its size and the number of CPUs: one at the launch and at most one at the teardown, whatever
//! the size, and nobody disturbed who runs a guest.
//!
//! On all CPUs but one a guest spins, while large ones are launched and torn down. The trace has an event for each round, with what it hid: all
//! of a guest at a launch, nothing at a teardown, whose round is for the tables that were merged away.
//!
//! Beside it the ways of Linux on machines with as many CPUs ([`by_page`]): one guest's memory, hidden page by page while the others sleep.

use std::fmt;

use boot_config::Policy;
use report::{Bench, Event};

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
    /// Interrupts to CPUs that were in a guest when they were looked at.
    pub to_guests: u64,
    /// Interrupts that ended guest mode: the CPU was looked at in the host, and had entered a guest when they came.
    pub met_in_guests: u64,
}

/// One guest's memory, given and taken back page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByPage {
    /// Flushes that all CPUs must answer.
    pub flushes: u64,
    /// CPUs that they reached, but for the one that asked.
    pub reached: u64,
}

/// The policies that go page by page as Linux does.
pub const BY_PAGE: [Policy; 2] = [Policy::LinuxFresh, Policy::LinuxAged];

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
        to_guests: counters.interrupts_to_guests,
        met_in_guests: counters.interrupts_met_in_guests,
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
        to_guests,
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
    if to_guests != 0 {
        return Err(format!("{to_guests} CPUs in guests were interrupted"));
    }
    Ok(())
}

/// What a boot says of memory that was hidden page by page on so many CPUs.
///
/// # Errors
/// A flush did not reach every other CPU.
pub fn by_page(cpus: u32, bench: &Bench<String>) -> Result<ByPage, String> {
    let flushes = bench.launch_flushes + bench.teardown_flushes;
    let reached = bench.cpus_interrupted + bench.cpus_flagged + bench.cpus_spared;
    if reached != flushes * u64::from(cpus - 1) {
        return Err(format!("{flushes} flushes reached {reached} CPUs of {cpus}"));
    }
    Ok(ByPage { flushes, reached })
}

/// The counts of one number of CPUs and one size; those page by page where they were measured.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Whole regions, one flush for all.
    pub grouped: Rounds,
    /// In the order of [`BY_PAGE`].
    pub by_page: [Option<ByPage>; BY_PAGE.len()],
}

/// Two tables: all guests of each boot, and one guest beside the ways of Linux.
pub struct Tables<'r>(pub &'r [Row]);

/// What falls to one of so many, with two decimals.
struct Each(u64, u64);

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2}", self.0 as f64 / self.1.max(1) as f64))
    }
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Rounds of the shootdown, with a guest that spins on every CPU but one (grouped)\n\
             {:>29}{:>39}\n\
             {:>5}{:>7}{:>8}{:>9}{:>10}{:>13}{:>12}{:>7}{:>9}{:>8}",
            "rounds",
            "of these in guests",
            "CPUs",
            "size",
            "guests",
            "launch",
            "teardown",
            "interrupted",
            "looked at",
            "met",
            "flagged",
            "spared",
        )?;
        for Row { grouped, .. } in self.0 {
            let [interrupted, flagged, spared] = grouped.reached;
            writeln!(
                f,
                "{:>5}{:>7}{:>8}{:>9}{:>10}{interrupted:>13}{:>12}{:>7}{flagged:>9}{spared:>8}",
                grouped.cpus,
                size(grouped.bytes),
                grouped.guests,
                grouped.launch,
                grouped.teardown,
                grouped.to_guests,
                grouped.met_in_guests,
            )?;
        }
        write!(
            f,
            "\nOne guest, launched and torn down\n{:>12}{:>22}",
            "", "grouped"
        )?;
        for policy in BY_PAGE {
            write!(f, "{:>22}", policy.name())?;
        }
        write!(
            f,
            "\n{:>5}{:>7}{:>10}{:>12}",
            "CPUs", "size", "flushes", "interrupted"
        )?;
        for _ in BY_PAGE {
            write!(f, "{:>10}{:>12}", "flushes", "CPUs asked")?;
        }
        writeln!(f)?;
        for Row { grouped, by_page } in self.0 {
            write!(
                f,
                "{:>5}{:>7}{:>10}{:>12}",
                grouped.cpus,
                size(grouped.bytes),
                Each(grouped.launch + grouped.teardown, grouped.guests),
                Each(grouped.reached[0], grouped.guests)
            )?;
            for counts in by_page {
                match counts {
                    Some(ByPage { flushes, reached }) => write!(f, "{flushes:>10}{reached:>12}")?,
                    None => write!(f, "{:>10}{:>12}", "-", "-")?,
                }
            }
            writeln!(f)?;
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
        to_guests: 0,
        met_in_guests: 1,
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
            Rounds { to_guests: 1, ..GOOD },
        ] {
            assert!(goal(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn page_by_page_every_flush_reaches_every_other_cpu() {
        let bench = Bench {
            launch_flushes: 7,
            teardown_flushes: 1,
            cpus_interrupted: 1,
            cpus_flagged: 20,
            cpus_spared: 3,
            ..crate::bench::goals::sample(512)
        };
        let counts = ByPage {
            flushes: 8,
            reached: 24,
        };
        assert_eq!(by_page(4, &bench), Ok(counts));
        assert!(by_page(3, &bench).is_err() && by_page(5, &bench).is_err());
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
