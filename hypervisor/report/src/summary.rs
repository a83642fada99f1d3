//! The numbers of a run as text.

use core::fmt::{self, Write};

use crate::event::{Counters, Leaves};

/// The direct map at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseColumn<'a> {
    /// Heading, shown up to 10 characters.
    pub name: &'a str,
    /// Leaves of the whole direct map.
    pub leaves: Leaves,
    /// MiB hidden from it.
    pub hidden_mib: u64,
}

/// What the summary says.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// RAM in the memory map, MiB.
    pub memory_mib: u64,
    /// Guests that ended.
    pub guests: u64,
    /// Those of them that ended as expected.
    pub guests_held: u64,
    /// Most guests alive at once.
    pub most_at_once: u64,
    /// Checks made.
    pub checks: u64,
    /// Those of them that held.
    pub checks_held: u64,
    /// The direct map before, with and after the guests. Up to five fit 80 columns.
    pub phases: &'a [PhaseColumn<'a>],
    /// Every counter.
    pub counters: Counters,
}

/// Writes the summary, less than 80 columns wide.
///
/// # Errors
/// The output refused.
pub fn write_summary(summary: &Summary<'_>, out: &mut impl Write) -> fmt::Result {
    writeln!(
        out,
        "Ran {} on {} MiB of RAM, at most {} at once.",
        Many(summary.guests, "guest"),
        summary.memory_mib,
        summary.most_at_once
    )?;
    writeln!(
        out,
        "Of the guests {} of {} ended as expected; of the checks {} of {} held.",
        summary.guests_held, summary.guests, summary.checks_held, summary.checks
    )?;
    out.write_char('\n')?;
    phases(summary.phases, out)?;
    out.write_char('\n')?;
    counters(&summary.counters, out)
}

/// A number with its word, which takes an `s` unless the number is 1.
struct Many(u64, &'static str);

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

fn phases(columns: &[PhaseColumn<'_>], out: &mut impl Write) -> fmt::Result {
    write!(out, "{:<14}", "Direct map")?;
    for column in columns {
        write!(out, "  {:>10.10}", column.name)?;
    }
    out.write_char('\n')?;
    type Row = (&'static str, fn(&PhaseColumn<'_>) -> u64);
    let rows: [Row; 4] = [
        ("1G leaves", |column| column.leaves.g1),
        ("2M leaves", |column| column.leaves.m2),
        ("4K leaves", |column| column.leaves.k4),
        ("hidden MiB", |column| column.hidden_mib),
    ];
    for (name, value) in rows {
        write!(out, "  {name:<12}")?;
        for column in columns {
            write!(out, "  {:>10}", value(column))?;
        }
        out.write_char('\n')?;
    }
    Ok(())
}

fn counters(counters: &Counters, out: &mut impl Write) -> fmt::Result {
    let groups = [
        (
            "Splits and merges (level 2 is 2M, level 3 is 1G)",
            &[
                ("direct_map_level2_splits", counters.direct_map_level2_splits),
                ("direct_map_level3_splits", counters.direct_map_level3_splits),
                (
                    "direct_map_level2_collapses",
                    counters.direct_map_level2_collapses,
                ),
                (
                    "direct_map_level3_collapses",
                    counters.direct_map_level3_collapses,
                ),
            ][..],
        ),
        (
            "Translations dropped",
            &[
                ("flushes on all CPUs", counters.flushes),
                ("CPUs interrupted for them", counters.cpus_interrupted),
                ("  while in a guest", counters.interrupts_to_guests),
                ("  who entered one meanwhile", counters.interrupts_met_in_guests),
                ("CPUs flagged, undisturbed", counters.cpus_flagged),
                ("CPUs spared", counters.cpus_spared),
                ("kicks out of a guest", counters.kicks),
                ("INVLPGs of windows, local", counters.window_invlpgs),
            ],
        ),
        (
            "Private memory",
            &[
                ("regions hidden", counters.regions_hidden),
                ("regions restored", counters.regions_restored),
                ("  hidden as whole gigablocks", counters.gigablocks_hidden * 512),
                ("  from the cache", counters.cache_hits),
                ("4K pages hidden one by one", counters.pages_hidden),
                ("2M leaves of guests split", counters.second_stage_splits),
                ("  and whole again", counters.second_stage_collapses),
                ("4K pages shared by guests", counters.pages_shared),
                ("  and private again", counters.pages_unshared),
                ("4K pages shared in place", counters.pages_shared_in_place),
                ("  and private again", counters.pages_unshared_in_place),
                ("regions given back by guests", counters.regions_given_back),
                ("  and taken again", counters.regions_taken_again),
                ("kept frames of guests taken", counters.kept_frames_taken),
                ("  and others supplied", counters.frames_supplied),
                ("flushes of living guests", counters.guest_flushes),
                ("bytes scrubbed", counters.bytes_scrubbed),
                ("bytes loaded", counters.bytes_loaded),
                ("bytes measured", counters.bytes_measured),
            ],
        ),
        (
            "TSC ticks (instructions under -icount)",
            &[
                ("taking and hiding", counters.ticks_hide),
                ("scrubbing", counters.ticks_scrub),
                ("mapping for guests", counters.ticks_map),
                ("giving back", counters.ticks_restore),
                ("loading images", counters.ticks_load),
                ("measuring them", counters.ticks_measure),
                ("boot to first guest", counters.ticks_to_first_guest),
            ],
        ),
    ];
    for (heading, rows) in groups {
        writeln!(out, "{heading}")?;
        for (name, value) in rows {
            writeln!(out, "  {name:<28} {value:>18}")?;
        }
    }
    Ok(())
}
