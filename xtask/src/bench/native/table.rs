//! The figures as text.

use std::fmt;

use super::counts::Counts;
use super::goals::{self, MAGAZINE, OF_ZEROING};
use super::times::Times;

/// Instructions.
pub struct Counted<'c>(pub &'c Counts);

/// Times.
pub struct Timed<'t>(pub &'t Times);

/// The values of a grid, one row for each amount of RAM, one column for each number of regions in use.
fn grid(
    f: &mut fmt::Formatter<'_>,
    places: &[(u64, u64)],
    value: impl Fn(u64, u64) -> Option<String>,
) -> fmt::Result {
    let distinct = |of: fn(&(u64, u64)) -> u64| {
        let mut all: Vec<u64> = places.iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    write!(f, "{:>10}", "RAM")?;
    for in_use in distinct(|place| place.1) {
        write!(f, "{in_use:>14}")?;
    }
    writeln!(f, "  regions in use")?;
    for ram in distinct(|place| place.0) {
        write!(f, "{:>6} GiB", ram)?;
        for in_use in distinct(|place| place.1) {
            write!(f, "{:>14}", value(ram, in_use).unwrap_or_default())?;
        }
        writeln!(f)?;
    }
    Ok(())
}

impl fmt::Display for Counted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0;
        let each = |name: &str| counts.each(name).unwrap_or(f64::NAN);
        writeln!(f, "Instructions of one operation (callgrind)\n")?;
        writeln!(f, "A private 4K frame{:>22}{:>12}", "taken", "given back")?;
        for (what, take, give) in [
            ("warm magazine of the CPU", "magazine/take", "magazine/put"),
            ("pool", "pool/take-4K", "pool/give-4K"),
        ] {
            writeln!(f, "  {what:<28}{:>10.1}{:>12.1}", each(take), each(give))?;
        }
        writeln!(f, "  goal for the first: at most {MAGAZINE}\n")?;

        let labels = counts.below("ordinary");
        write!(f, "Host memory{:<9}", "")?;
        labels.iter().try_for_each(|label| write!(f, "{label:>15}"))?;
        writeln!(f)?;
        for operation in counts.below(&format!("ordinary/{}", goals::WITHOUT_CODE)) {
            write!(f, "  {operation:<18}")?;
            for label in &labels {
                write!(f, "{:>15.2}", each(&format!("ordinary/{label}/{operation}")))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  goal: the same in every column\n")?;

        writeln!(
            f,
            "A guest, but for the zeroing{:>12}{:>12}{:>14}",
            "launch", "teardown", "both/region"
        )?;
        for regions in counts.below("launch") {
            let both = [
                each(&format!("launch/{regions}")),
                each(&format!("teardown/{regions}")),
            ];
            let a_region = (both[0] + both[1]) / regions.parse().unwrap_or(f64::NAN);
            writeln!(
                f,
                "  {regions:>8} regions{:>22.0}{:>12.0}{a_region:>14.1}",
                both[0], both[1]
            )?;
        }

        writeln!(
            f,
            "\nOne more region: taken from the host and hidden / restored and freed"
        )?;
        let places: Vec<_> = goals::grid(counts, "carve")
            .map(|(ram, in_use, _)| (ram, in_use))
            .collect();
        grid(f, &places, |ram, in_use| {
            let of = |operation: &str| counts.each(&format!("{operation}/{ram}/{in_use}"));
            Some(format!("{:.0} / {:.0}", of("carve")?, of("free")?))
        })?;
        writeln!(f, "  goal: flat")
    }
}

/// A time for people.
fn text(nanoseconds: f64) -> String {
    match nanoseconds {
        short if short < 1e4 => format!("{short:.0} ns"),
        middle if middle < 1e7 => format!("{:.1} us", middle / 1e3),
        long => format!("{:.1} ms", long / 1e6),
    }
}

impl fmt::Display for Timed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.0;
        writeln!(
            f,
            "Times (criterion, medians with their 95 % interval); compare within one run only\n"
        )?;
        writeln!(
            f,
            "{:>9}{:>34}{:>34}{:>24}{:>9}{:>9}",
            "", "hide, restore, merge", "launch, teardown but zeroing", "fastest zeroing", "share", "share"
        )?;
        let mut sizes: Vec<u64> = times
            .below("hide-restore-merge/")
            .filter_map(|size| size.parse().ok())
            .collect();
        sizes.sort_unstable();
        for mib in sizes {
            write!(f, "{mib:>5} MiB")?;
            for what in ["hide-restore-merge", "launch-teardown"] {
                let shown = times.of(&format!("{what}/{mib}")).map(|time| {
                    let (low, high) = time.between;
                    format!("{} ({} to {})", text(time.median), text(low), text(high))
                });
                write!(f, "{:>34}", shown.unwrap_or_default())?;
            }
            let zeroing = times.fastest_zeroing(mib);
            let shown = zeroing.map(|(way, time)| format!("{} ({way})", text(time)));
            write!(f, "{:>24}", shown.unwrap_or_default())?;
            for what in ["hide-restore-merge", "launch-teardown"] {
                let share = goals::share_of_zeroing(times, what, mib).unwrap_or(f64::NAN);
                write!(f, "{share:>7.2} %")?;
            }
            writeln!(f)?;
        }
        let (percent, from) = OF_ZEROING;
        writeln!(
            f,
            "  goal for the first share: at most {percent} % from {from} MiB up\n"
        )?;
        writeln!(f, "One more region, taken and given back")?;
        let places: Vec<_> = times
            .below("one-more-region/")
            .filter_map(|name| {
                let (ram, in_use) = name.split_once('/')?;
                Some((ram.parse().ok()?, in_use.parse().ok()?))
            })
            .collect();
        grid(f, &places, |ram, in_use| {
            Some(text(times.of(&format!("one-more-region/{ram}/{in_use}"))?.median))
        })
    }
}
