//! The pointer chase on the machine that made the file, as it is kept there.

use serde::{Deserialize, Serialize};

/// What [`Results::skipped`](super::Results) calls a chase that was not done.
pub const CHASE: &str = "latency on this machine";

/// How `lacuna-tlb chase` begins the line that says why it has nothing.
pub const SKIPPED: &str = "chase: SKIP: ";

/// Percentiles that a distribution has: every so many, 0 and 100 included.
pub const PERCENTILE_STEP: usize = 5;

/// The pointer chase on the machine that made the file: real time, beside what the model says of the same addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chase {
    /// The CPU, as it calls itself, and the core that the model took it for.
    pub cpu: String,
    /// Whether there is a hypervisor below.
    pub hypervisor: bool,
    /// Whether entries of the TLB really cover 2M there.
    pub large_entries: bool,
    /// What told that: nanoseconds of a load over few pages of 4K in one of 2M, and over many.
    pub probe: (f64, f64),
    /// Nanoseconds of a core cycle.
    pub cycle: f64,
    /// By number of pages, ascending.
    pub rows: Vec<ChaseRow>,
}

/// A chase over so many pages of 4K, one object in each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChaseRow {
    /// The pages.
    pub pages: u64,
    /// Windows that were timed.
    pub windows: u64,
    /// Nanoseconds of one load in memory with 4K pages: percentiles, [`PERCENTILE_STEP`] apart.
    pub small: Vec<f64>,
    /// The same with 2M pages.
    pub large: Vec<f64>,
    /// What the model says that 4K pages cost more, in nanoseconds: on the machine itself, over an outer hypervisor that backs it by 4K, and by 2M.
    pub predicted: [f64; 3],
}

impl ChaseRow {
    /// What 4K pages cost more than 2M pages, measured, at a quarter of the windows.
    pub fn measured(&self) -> Option<f64> {
        let at = |values: &[f64]| values.get(25 / PERCENTILE_STEP).copied();
        Some(at(&self.small)? - at(&self.large)?)
    }
}
