//! What the figures must be.

use super::counts::Counts;
use super::times::Times;

/// Instructions of one private 4K frame from a warm magazine, at most.
pub const MAGAZINE: f64 = 60.0;
/// By how much taking and giving back one more region may differ with RAM and regions in use: the largest count to the smallest.
pub const FLAT: f64 = 1.1;
/// Hiding, restoring and merging to zeroing the same memory, at most, in percent, from so many MiB up.
pub const OF_ZEROING: (f64, u64) = (1.0, 64);

/// The label of the host allocations in the program without code for regions.
pub const WITHOUT_CODE: &str = "without-code";

/// What instructions must be.
///
/// # Errors
/// What is missed.
pub fn counts(counts: &Counts) -> Result<(), String> {
    match counts.each("magazine/take") {
        Some(each) if each <= MAGAZINE => {}
        Some(each) => {
            return Err(format!(
                "a frame from a magazine takes {each:.1} instructions, not {MAGAZINE} at most"
            ));
        }
        None => return Err("no frame was taken from a magazine".into()),
    }
    let labels = counts.below("ordinary");
    let operations = counts.below(&format!("ordinary/{WITHOUT_CODE}"));
    if labels.len() < 3 || operations.is_empty() {
        return Err("host allocations were not counted with regions, without, and without their code".into());
    }
    for label in labels {
        for operation in &operations {
            let of = |label: &str| counts.each(&format!("ordinary/{label}/{operation}"));
            if of(label) != of(WITHOUT_CODE) {
                let text = |label: &str| of(label).map_or_else(|| "no".into(), |each| format!("{each:.2}"));
                return Err(format!(
                    "host allocation {operation}: {} instructions with {label}, {} {WITHOUT_CODE}",
                    text(label),
                    text(WITHOUT_CODE)
                ));
            }
        }
    }
    for operation in ["carve", "free"] {
        let each: Vec<f64> = grid(counts, operation).map(|(.., each)| each).collect();
        let (least, most) = each.iter().fold((f64::MAX, 0.0_f64), |(least, most), each| {
            (least.min(*each), most.max(*each))
        });
        if each.len() < 2 || most > least * FLAT {
            return Err(format!(
                "{operation} takes {least:.0} to {most:.0} instructions as RAM and regions in use grow: that is not flat"
            ));
        }
    }
    Ok(())
}

/// What was counted for one operation: RAM in GiB, regions in use, instructions.
pub fn grid<'c>(counts: &'c Counts, operation: &'c str) -> impl Iterator<Item = (u64, u64, f64)> + 'c {
    counts.0.iter().filter_map(move |count| {
        let rest = count.name.strip_prefix(operation)?.strip_prefix('/')?;
        let (ram, in_use) = rest.split_once('/')?;
        Some((ram.parse().ok()?, in_use.parse().ok()?, counts.each(&count.name)?))
    })
}

/// What times must be to each other.
///
/// # Errors
/// What is missed.
pub fn times(times: &Times) -> Result<(), String> {
    let (percent, from) = OF_ZEROING;
    let mut seen = false;
    for mib in times
        .below("hide-restore-merge/")
        .filter_map(|size| size.parse::<u64>().ok())
    {
        if mib < from {
            continue;
        }
        let share = share_of_zeroing(times, "hide-restore-merge", mib).ok_or("no zeroing was measured")?;
        if share > percent {
            return Err(format!(
                "hiding, restoring and merging {mib} MiB takes {share:.2} % of zeroing them, not {percent} % at most"
            ));
        }
        seen = true;
    }
    if seen {
        Ok(())
    } else {
        Err(format!("nothing of {from} MiB or more was hidden"))
    }
}

/// What part of the time of zeroing so much memory something takes, in percent.
pub fn share_of_zeroing(times: &Times, what: &str, mib: u64) -> Option<f64> {
    let (_, zeroing) = times.fastest_zeroing(mib)?;
    Some(times.of(&format!("{what}/{mib}"))?.median / zeroing * 100.0)
}

#[cfg(test)]
mod tests {
    use super::super::counts::Count;
    use super::super::times::Time;
    use super::*;

    fn count(name: &str, instructions: u64) -> Count {
        Count {
            name: name.into(),
            times: 1,
            instructions,
        }
    }

    fn good() -> Counts {
        Counts(vec![
            count("empty", 0),
            count("magazine/take", 60),
            count("ordinary/none/4K", 500),
            count("ordinary/1000/4K", 500),
            count("ordinary/without-code/4K", 500),
            count("carve/4/1", 1000),
            count("carve/1024/100000", 1100),
            count("free/4/1", 100),
            count("free/1024/100000", 100),
        ])
    }

    #[test]
    fn every_goal_of_the_counts_can_be_missed() {
        assert_eq!(counts(&good()), Ok(()));
        for (name, instructions) in [
            ("magazine/take", 61),
            ("ordinary/1000/4K", 501),
            ("ordinary/none/4K", 499),
            ("ordinary/without-code/4K", 499),
            ("carve/1024/100000", 1101),
            ("free/4/1", 111),
        ] {
            let mut bad = good();
            for count in bad.0.iter_mut().filter(|count| count.name == name) {
                count.instructions = instructions;
            }
            assert!(counts(&bad).is_err(), "{name}");
            bad.0.retain(|count| count.name != name);
            assert!(counts(&bad).is_err(), "{name} is missing");
        }
    }

    #[test]
    fn the_goal_of_the_times_can_be_missed() {
        let time = |name: &str, median| Time {
            name: name.into(),
            median,
            between: (median, median),
        };
        let times_of = |small, large| {
            Times(vec![
                time("zero/memset/4", 100.0),
                time("zero/memset/64", 1000.0),
                time("zero/rep-stosb/64", 2000.0),
                time("hide-restore-merge/4", small),
                time("hide-restore-merge/64", large),
            ])
        };
        assert_eq!(times(&times_of(90.0, 9.9)), Ok(()));
        assert!(times(&times_of(90.0, 10.1)).is_err());
        assert!(times(&Times(vec![time("hide-restore-merge/4", 1.0)])).is_err());
        assert!(times(&Times(vec![time("hide-restore-merge/64", 1.0)])).is_err());
    }
}
