//! The benchmark as a test: equal boots give equal figures, and the figures are what they must be.

use std::path::Path;
use std::time::Instant;

use boot_config::Policy;
use report::{Bench, Event};

use crate::bench::{self, Case, goals};
use crate::folder::Folder;
use crate::test::{Verdict, available_mib};
use crate::workspace;

/// A test on the machine that counts instructions.
pub struct Test {
    /// Its name, with the machine's.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    check: fn(&Path) -> Result<(), String>,
}

/// All of them.
pub const TESTS: &[Test] = &[
    Test {
        name: "tcg::bench-repeatable",
        about: "two boots of the benchmark give the same figures, to the instruction",
        check: repeatable,
    },
    Test {
        name: "tcg::bench-goals",
        about: "256 MiB cost less than an instruction a page to hide and map, by one flush, and nothing is lost; what stands for Linux costs what Linux does",
        check: reaches_goals,
    },
];

/// The largest case below.
const LARGEST: Case = Case {
    policy: Policy::Grouped,
    bytes: 256 << 20,
};

/// Runs one of them.
pub fn run(test: &Test, image: &Path) -> Verdict {
    match available_mib() {
        Some(mib) if mib < LARGEST.host_mib() => {
            return Verdict::Skip(format!(
                "needs {} MiB of RAM, this host has {mib} to spare",
                LARGEST.host_mib()
            ));
        }
        _ => {}
    }
    let start = Instant::now();
    match (test.check)(image) {
        Ok(()) => Verdict::Ok(format!("{:.1} s", start.elapsed().as_secs_f64())),
        Err(reason) => Verdict::Failed(reason),
    }
}

/// Boots one case and takes its figures.
fn figures(policy: Policy, mib: u64, image: &Path) -> Result<Bench<String>, String> {
    let case = Case {
        policy,
        bytes: mib << 20,
    };
    let mut folder = Folder::create(&workspace::root()).map_err(|error| format!("{error:#}"))?;
    let record = bench::boot(case, image.to_owned(), &folder);
    let figures = match &record {
        Ok(record) => bench::measured(case, record).cloned(),
        Err(error) => Err(format!("{error:#}")),
    };
    figures.map_err(|reason| {
        folder.keep();
        format!("{reason}\nkept: {}", folder.path().display())
    })
}

fn repeatable(image: &Path) -> Result<(), String> {
    for policy in [Policy::Grouped, Policy::LinuxFresh] {
        let line = || {
            let figures = figures(policy, 16, image)?;
            serde_json::to_string(&Event::Bench(figures)).map_err(|error| error.to_string())
        };
        let (first, second) = (line()?, line()?);
        if first != second {
            return Err(format!("two boots differ:\n{first}\n{second}"));
        }
    }
    Ok(())
}

fn reaches_goals(image: &Path) -> Result<(), String> {
    goals::grouped(&figures(Policy::Grouped, 256, image)?)?;
    goals::linux_fresh(&figures(Policy::LinuxFresh, 256, image)?)
}
