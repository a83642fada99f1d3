//! The benchmark's tables as text.

use std::fmt;

use boot_config::Policy;
use report::Bench;

use super::goals::Lost;

/// Figures of all boots, in the order of the boots. Its text is two tables with the same rows, and the ratios.
#[derive(Debug, Default)]
pub struct Tables {
    rows: Vec<Row>,
    /// The boot that ran a guest, where there was one.
    pub first_guest: Option<FirstGuest>,
}

/// What a boot that runs a guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstGuest {
    /// Ticks from the hypervisor's start to the guest's first turn.
    pub boot: u64,
    /// Ticks of writing its image and launch area, through windows.
    pub load: u64,
    /// Bytes of them.
    pub bytes: u64,
}

#[derive(Debug)]
struct Row {
    size: String,
    bench: Bench<String>,
}

/// Width of the columns that name a row.
const NAME: usize = 18;

/// Instructions for each page, with two decimals; from 100 on with none, but never rounded up to that.
struct Each(u64, u64);

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = u128::from(self.0) * 100 / u128::from(self.1.max(1));
        let text = if hundredths < 10_000 {
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        } else {
            (hundredths / 100).to_string()
        };
        f.pad(&text)
    }
}

/// How many times one figure is another.
struct Times(u64, u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match (self.0, self.1) {
            (0, 0) => "both 0".to_owned(),
            (_, 0) => "of 0".to_owned(),
            (many, one) => format!("{:.1}", many as f64 / one as f64),
        })
    }
}

impl Row {
    fn both(&self) -> u64 {
        self.bench.hide + self.bench.map
    }

    fn name(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{:>6}", self.bench.policy, self.size)
    }

    fn instructions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name(f)?;
        let bench = &self.bench;
        for ticks in [bench.hide, bench.map, self.both(), bench.restore] {
            write!(f, " {:>10}", Each(ticks, bench.pages))?;
        }
        for ticks in [bench.scrub_before, bench.scrub_after] {
            write!(f, " {:>11}", Each(ticks, bench.pages))?;
        }
        // The others have no windows.
        match bench.bytes_loaded / 4096 {
            0 => writeln!(f, " {:>10}", "-"),
            pages => writeln!(f, " {:>10}", Each(bench.load, pages)),
        }
    }

    fn counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name(f)?;
        let bench = &self.bench;
        let peak = Lost::between(bench.before, bench.peak);
        let after = Lost::between(bench.before, bench.after);
        for (count, width) in [
            (bench.launch_flushes, 8),
            (bench.teardown_flushes, 9),
            (bench.launch_invlpgs, 8),
            (bench.load_invlpgs, 6),
            (bench.teardown_invlpgs, 9),
            (bench.level2_splits, 6),
            (bench.level3_splits, 4),
            (peak.g1, 6),
            (after.g1, 6),
            (after.m2, 8),
        ] {
            write!(f, " {count:>width$}")?;
        }
        writeln!(f)
    }
}

impl Tables {
    /// Adds a boot's figures under the name of its size.
    pub fn add(&mut self, size: String, bench: Bench<String>) {
        self.rows.push(Row { size, bench });
    }

    /// The rows of `linux-fresh` that have a row of `grouped` with the same size, with that row.
    fn pairs(&self) -> impl Iterator<Item = (&Row, &Row)> {
        let of = |policy: Policy| {
            let rows = self.rows.iter();
            rows.filter(move |row| row.bench.policy == policy.name())
        };
        of(Policy::LinuxFresh).filter_map(move |linux| {
            let ours = of(Policy::Grouped).find(|ours| ours.bench.pages == linux.bench.pages);
            Some((linux, ours?))
        })
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Instructions for each page of 4K")?;
        writeln!(
            f,
            "{:<12}{:>6} {:>10} {:>10} {:>10} {:>10} {:>11} {:>11} {:>10}",
            "policy",
            "size",
            "take+hide",
            "map",
            "hide+map",
            "restore",
            "zero before",
            "zero after",
            "image load"
        )?;
        self.rows.iter().try_for_each(|row| row.instructions(f))?;

        writeln!(f, "\nCounts for all of the memory")?;
        writeln!(
            f,
            "{:NAME$} {:^18} {:^25} {:^11} {:^13} {:>8}",
            "", "flushes", "window INVLPGs", "splits", "1G lost", "2M lost"
        )?;
        writeln!(
            f,
            "{:<12}{:>6} {:>8} {:>9} {:>8} {:>6} {:>9} {:>6} {:>4} {:>6} {:>6} {:>8}",
            "policy",
            "size",
            "launch",
            "teardown",
            "launch",
            "load",
            "teardown",
            "2M",
            "1G",
            "peak",
            "after",
            "after"
        )?;
        self.rows.iter().try_for_each(|row| row.counts(f))?;

        if self.pairs().next().is_some() {
            writeln!(f, "\nlinux-fresh / grouped")?;
            writeln!(
                f,
                "{:<12}{:>6} {:>10} {:>10} {:>10} {:>10} {:>15}",
                "", "size", "take+hide", "map", "hide+map", "restore", "launch flushes"
            )?;
        }
        for (linux, ours) in self.pairs() {
            write!(f, "{:<12}{:>6}", "", linux.size)?;
            for (many, one) in [
                (linux.bench.hide, ours.bench.hide),
                (linux.bench.map, ours.bench.map),
                (linux.both(), ours.both()),
                (linux.bench.restore, ours.bench.restore),
            ] {
                write!(f, " {:>10}", Times(many, one))?;
            }
            let flushes = Times(linux.bench.launch_flushes, ours.bench.launch_flushes);
            writeln!(f, " {flushes:>15}")?;
        }
        if let Some(FirstGuest { boot, load, bytes }) = self.first_guest {
            writeln!(
                f,
                "\nFrom the hypervisor's start to the first guest's first turn: {boot} ticks. Loading this small image, {bytes} bytes\n\
                 through windows: {load} ticks, {:.0} for each 4K.",
                load as f64 * 4096.0 / bytes.max(1) as f64
            )?;
        }
        f.write_str(NOTES)
    }
}

/// Where the figures come from.
const NOTES: &str = "
Sources: instructions are ticks of the TSC on QEMU TCG with -icount shift=0: one for each instruction executed, and one for each
iteration of a `rep`. A flush of the whole TLB counts two of them (CR3 is read and written) and an INVLPG counts one, whatever
they cost on a real CPU: that is why they are counted beside. What memory, caches and page walks take is not in the unit.
Flushes, INVLPGs and splits are counted by the hypervisor; leaves by its independent page-table walker. `1G lost`: 1G leaves
fewer than before. `2M lost`: 2M regions no longer in a leaf of 2M or more. `take+hide` has the frame allocator, frame records,
table reserve, splits and flushes in it; zeroing stands apart. The linux policies flush and split as Linux does, and `take+hide`
lies near Linux' own 610, but of other parts; their map and restore were never held against Linux. The lock for each
step of grouped is in no column but the last. `image load` fills all of the memory through windows; the linux policies have
none. docs/performance.md says more.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::goals;

    #[test]
    fn figures() {
        assert_eq!(Each(55_831, 65_536).to_string(), "0.85");
        assert_eq!(Each(65_535, 65_536).to_string(), "0.99");
        assert_eq!(Each(2_381_335, 4096).to_string(), "581");
        assert_eq!(Each(1, 0).to_string(), "1.00");
        assert_eq!(Times(610, 10).to_string(), "61.0");
        assert_eq!(
            (Times(1, 0).to_string(), Times(0, 0).to_string()),
            ("of 0".into(), "both 0".into())
        );
    }

    #[test]
    fn rows_stand_under_their_columns_and_only_equal_sizes_are_compared() {
        let mut tables = Tables::default();
        tables.add("16M".into(), goals::sample(4096));
        let mut linux = goals::sample(4096);
        linux.policy = "linux-fresh".into();
        linux.hide = 4096 * 610;
        tables.add("16M".into(), linux.clone());
        assert_eq!(tables.pairs().count(), 1);
        linux.pages = 512;
        tables.add("2M".into(), linux);
        assert_eq!(tables.pairs().count(), 1);
        let text = tables.to_string();
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_owned()
        };
        assert!(line("grouped        16M").ends_with(" 512"), "{text}");
        let row = line("linux-fresh    16M");
        let end = line("policy").find("take+hide").unwrap() + "take+hide".len();
        assert!(row[..end].ends_with("     610"), "{text}");
        let ratio = text
            .lines()
            .skip_while(|line| *line != "linux-fresh / grouped")
            .nth(2);
        let words: Vec<_> = ratio.unwrap().split_whitespace().collect();
        assert_eq!(words, ["16M", "1220.0", "1.0", "813.7", "1.0", "1.0"]);
        let widths: Vec<_> = text
            .lines()
            .skip_while(|line| !line.contains("flushes"))
            .take(3)
            .map(str::len)
            .collect();
        assert!(
            widths.windows(2).all(|pair| pair[0] == pair[1]),
            "{widths:?}\n{text}"
        );
        assert!(text.lines().take(12).all(|line| line.len() <= 100), "{text}");
    }
}
