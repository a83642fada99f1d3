//! The results of a run, as they are kept in a file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::axes::{Phase, Policy};
use super::chased::Chase;
use super::measured::MeasuredRun;
use crate::tlb::mapping::Cell;

/// The form of the file; it rises when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Something that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// What.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// A core that was modelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Its short name.
    pub name: String,
    /// What it is.
    pub core: String,
    /// The weights of its translation cycles.
    pub weights: String,
    /// Where its figures come from.
    pub source: String,
}

/// What one workload cost at one moment on one core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The core's short name.
    pub core: String,
    /// `lru` or `nru`.
    pub replacement: String,
    /// The work.
    pub workload: String,
    /// Who says so: `model`, `latency`, `pmu`, `instructions`.
    pub source: String,
    /// Misses in the first level, for each thousand accesses.
    pub misses: f64,
    /// Walks, for each thousand accesses.
    pub walks: f64,
    /// The walker's loads that went to memory, for each thousand accesses.
    pub from_memory: f64,
    /// Translation cycles, for each thousand accesses.
    pub cycles: f64,
}

/// Leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    /// 1G.
    pub g1: u64,
    /// 2M.
    pub m2: u64,
    /// 4K.
    pub k4: u64,
}

/// 2M blocks that look the same, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What they look like.
    pub kind: CellKind,
    /// How many.
    pub blocks: u64,
}

/// What a 2M block of the direct map looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellKind {
    /// Part of a 1G leaf.
    In1g,
    /// A 2M leaf.
    In2m,
    /// 512 leaves of 4K.
    In4k,
    /// Leaves of 4K and holes.
    Partly,
    /// A hole, as a whole.
    Hidden,
    /// No RAM.
    NoRam,
}

impl From<Cell> for CellKind {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::In1G => Self::In1g,
            Cell::Leaf2M => Self::In2m,
            Cell::Small4K(512) => Self::In4k,
            Cell::Small4K(_) => Self::Partly,
            Cell::Absent => Self::Hidden,
        }
    }
}

/// One moment under one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseResult {
    /// The moment.
    pub phase: Phase,
    /// Guests alive.
    pub guests: u64,
    /// Bytes of their private memory; with `grouped-whole`, and what is hidden beside it.
    pub hidden_bytes: u64,
    /// The direct map's leaves, as the independent walker met them.
    pub leaves: Leaves,
    /// Its 2M blocks from physical address 0 on.
    pub map: Vec<Run>,
    /// What work costs.
    pub figures: Vec<Figure>,
}

impl PhaseResult {
    /// The figure of a core and a workload.
    pub fn figure(&self, core: &str, replacement: &str, workload: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| {
            (
                figure.core.as_str(),
                figure.replacement.as_str(),
                figure.workload.as_str(),
            ) == (core, replacement, workload)
        })
    }
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyResult {
    /// The policy.
    pub policy: Policy,
    /// Its moments; a yardstick has one, `boot`.
    pub phases: Vec<PhaseResult>,
    /// What the same work costs on an all-2M direct map: the addresses are this policy's own.
    pub on_all_2m: Vec<Figure>,
    /// What was not measured.
    pub skipped: Vec<Skip>,
}

impl PolicyResult {
    /// A moment.
    pub fn phase(&self, phase: Phase) -> Option<&PhaseResult> {
        self.phases.iter().find(|result| result.phase == phase)
    }
}

/// What [`PolicyResult::skipped`] calls all of a policy.
pub const EVERY_PHASE: &str = "every phase";

/// What one guest of some size costs the host while it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeResult {
    /// The policy.
    pub policy: Policy,
    /// Bytes of the only guest.
    pub bytes: u64,
    /// Leaves before it.
    pub before: Leaves,
    /// Leaves while it lives.
    pub leaves: Leaves,
    /// What the work cost before it.
    pub boot: Vec<Figure>,
    /// The same addresses while it lives.
    pub figures: Vec<Figure>,
}

impl SizeResult {
    /// Translation cycles that 1000 accesses of a workload cost more than before the guest.
    pub fn more(&self, core: &str, workload: &str, replacement: &str) -> Option<f64> {
        let of = |figures: &[Figure]| {
            let mut found = figures.iter();
            found
                .find(|figure| {
                    (
                        figure.core.as_str(),
                        figure.workload.as_str(),
                        figure.replacement.as_str(),
                    ) == (core, workload, replacement)
                })
                .map(|figure| figure.cycles)
        };
        Some(of(&self.figures)? - of(&self.boot)?)
    }
}

/// All of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the run was made of, such as a commit.
    pub version: String,
    /// Bytes of RAM.
    pub ram: u64,
    /// Seed of the history and of the addresses.
    pub seed: u64,
    /// Lifetimes of guests before the aged moments.
    pub lifetimes: u64,
    /// Accesses counted for each figure, and as many before them that were not.
    pub accesses: u64,
    /// `1`, or `2 over 4K` and so on.
    pub dimensions: String,
    /// What the hypervisor measured itself; absent in older files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<MeasuredRun>,
    /// The cores.
    pub cores: Vec<Core>,
    /// The policies.
    pub policies: Vec<PolicyResult>,
    /// What one guest costs, by its size; absent in older files.
    #[serde(default)]
    pub sizes: Vec<SizeResult>,
    /// The model held against the machine that made the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chase: Option<Chase>,
    /// What was not measured at all.
    pub skipped: Vec<Skip>,
}

impl Results {
    /// Writes the file.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self).context("the results as JSON")?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Reads what a run has written.
    ///
    /// # Errors
    /// It is no such file, or one of another form.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(!text.is_empty(), "{} is empty", path.display());
        let value: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let schema = &value["schema"];
        ensure!(
            schema.is_number(),
            "{} is not what `cargo xtask bench tlb` writes: it has no number of its form",
            path.display()
        );
        ensure!(
            schema == SCHEMA,
            "{} has the form {schema}; this program reads {SCHEMA}, which `cargo xtask bench tlb` writes",
            path.display()
        );
        serde_json::from_value(value)
            .with_context(|| format!("{} has no results of `cargo xtask bench tlb`", path.display()))
    }

    /// A policy's results.
    pub fn policy(&self, policy: Policy) -> Option<&PolicyResult> {
        self.policies.iter().find(|result| result.policy == policy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tlb.json");
        sample().write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), sample());
        // Files of before had neither sizes nor a chase.
        let mut older = serde_json::to_value(sample()).unwrap();
        older.as_object_mut().unwrap().remove("sizes");
        older.as_object_mut().unwrap().remove("chase");
        fs::write(&path, older.to_string()).unwrap();
        let read = Results::read(&path).unwrap();
        assert!(read.sizes.is_empty() && read.chase.is_none());
        for (text, reason) in [
            ("", "is empty"),
            ("\x7fELF", "is no JSON"),
            ("[1, 2]", "no number of its form"),
            (r#"{"verdict": "pass"}"#, "no number of its form"),
            (r#"{"schema": 99}"#, "has the form 99"),
            (r#"{"schema": 1, "version": "x"}"#, "missing field"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Results::read(&path).unwrap_err());
            assert!(error.contains(reason) && error.contains("tlb.json"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(format!("{:#}", Results::read(&path).unwrap_err()).starts_with("read "));
    }
}
