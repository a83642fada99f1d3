//! One struct for each JSON line; `docs/report-schema.md` documents them.
//!
//! `S` is the type of text: `&str` where lines are written, `String` where they are read.

mod counters;
mod measured;
mod stress;

pub use counters::Counters;
pub use measured::{Latency, Pmu, PmuCount, PmuEvent, Probe, Skip};
pub use stress::Stress;

use serde::Serialize;

/// Version of the schema. It rises when a field changes its meaning or goes away; a new field alone does not raise it.
pub const SCHEMA: u32 = 1;

/// Any line but `phase`, which is written by [`crate::write_phase`] because its length depends on RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a line is made, written and forgotten; there is no allocator to box one with"
)]
pub enum Event<S> {
    /// The first line.
    Start(Start<S>),
    /// The direct map at one moment.
    #[cfg(feature = "read")]
    Phase(Phase<S>),
    /// A guest ended.
    Guest(Guest<S>),
    /// A value that a guest reported.
    ReportValue(ReportValue<S>),
    /// The result of a check.
    Check(Check<S>),
    /// Memory by kind and size at one moment.
    View(View<S>),
    /// Something that happened to memory, when a trace was asked for.
    Trace(Trace<S>),
    /// Every counter, once at the end.
    Counters(Counters),
    /// The result of the benchmark.
    Bench(Bench<S>),
    /// What the stress did, in a test build.
    Stress(Stress),
    /// The performance counters of a CPU, and what they were found to be.
    Pmu(Pmu<S>),
    /// What one event was found to be.
    PmuEvent(PmuEvent<S>),
    /// What an event counted while the host worked.
    PmuCount(PmuCount<S>),
    /// What the probe for large TLB entries found.
    Probe(Probe<S>),
    /// How long loads took.
    Latency(Latency<S>),
    /// Something that was to be measured and was not.
    Skip(Skip<S>),
    /// The machine is about to be paused for a look from outside.
    Pause(Pause<S>),
    /// The last line.
    Verdict(Verdict<S>),
}

impl<S> Event<S> {
    /// The value of the field `event`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            #[cfg(feature = "read")]
            Self::Phase(_) => "phase",
            Self::Guest(_) => "guest",
            Self::ReportValue(_) => "report_value",
            Self::Check(_) => "check",
            Self::View(_) => "view",
            Self::Trace(_) => "trace",
            Self::Counters(_) => "counters",
            Self::Bench(_) => "bench",
            Self::Stress(_) => "stress",
            Self::Pmu(_) => "pmu",
            Self::PmuEvent(_) => "pmu_event",
            Self::PmuCount(_) => "pmu_count",
            Self::Probe(_) => "probe",
            Self::Latency(_) => "latency",
            Self::Skip(_) => "skip",
            Self::Pause(_) => "pause",
            Self::Verdict(_) => "verdict",
        }
    }
}

/// What runs, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Start<S> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of Lacuna.
    pub version: S,
    /// Commit it was built from.
    pub commit: S,
    /// The CPU.
    pub machine: Machine<S>,
    /// RAM in the memory map, rounded down to MiB.
    pub memory_mib: u64,
    /// CPUs that the firmware names.
    pub cpus_found: u32,
    /// CPUs that this run uses.
    pub cpus_used: u32,
    /// Seed of the guests' patterns and of every random choice.
    pub seed: u64,
    /// The command line as it was given.
    pub command_line: S,
}

/// What the CPU offers, as far as it changes what Lacuna does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Machine<S> {
    /// Brand string, or the vendor where there is none.
    pub cpu: S,
    /// Kind of second-stage tables: `npt`.
    pub second_stage: S,
    /// Whether the direct map may use 1G leaves.
    pub leaf_1g: bool,
    /// Whether the CPU saves the address of the next instruction at an exit.
    pub nrip_save: bool,
    /// Whether the CPU saves instruction bytes at an exit.
    pub decode_assists: bool,
    /// Whether the CPU can flush the translations of one ASID.
    pub flush_by_asid: bool,
    /// Address-space identifiers, the host's included.
    pub asids: u32,
    /// Bits of a physical address.
    pub physical_bits: u32,
}

/// Numbers of leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Leaves {
    /// 1G leaves (level 3).
    pub g1: u64,
    /// 2M leaves (level 2).
    pub m2: u64,
    /// 4K leaves (level 1).
    pub k4: u64,
}

/// A `phase` line but for its array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseHeader<S> {
    /// `boot`, `guests` or `after`.
    pub phase: S,
    /// Leaves of the whole direct map.
    pub leaves: Leaves,
    /// MiB hidden from the direct map.
    pub hidden_mib: u64,
}

/// A `phase` line as it is read.
#[cfg(feature = "read")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Phase<S> {
    /// `boot`, `guests` or `after`.
    pub phase: S,
    /// Leaves of the whole direct map.
    pub leaves: Leaves,
    /// MiB hidden from the direct map.
    pub hidden_mib: u64,
    /// The gigablocks that hold RAM, in order, equal neighbours joined.
    pub gigablocks: alloc::vec::Vec<crate::Gigablock>,
}

/// A guest has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Guest<S> {
    /// Name of its file in the archive.
    pub name: S,
    /// Its number in this boot, from 1.
    pub instance: u32,
    /// Its memory, all of it private.
    pub memory_mib: u64,
    /// How much of it was private and in second-stage leaves of 2 MiB or more when it ended, MiB.
    pub large_leaves_mib: u64,
    /// What its launch was measured as, 96 hexadecimal digits; empty when it was refused.
    pub measurement: S,
    /// How it ended, in the words of `expect=`: `exit:0`, `memory-fault`, ...
    pub ending: S,
    /// How it was expected to end.
    pub expected: S,
    /// Whether the ending is the expected one and nothing else went wrong with it.
    pub held: bool,
    /// What happened, in words; empty when there is nothing to add.
    pub detail: S,
    /// vCPUs that it started, the first included.
    pub vcpus: u32,
    /// Most of them that had a turn at the same time.
    pub at_once: u32,
    /// Turns that they had on CPUs.
    pub turns: u64,
    /// Exits from guest to host.
    pub exits: u64,
    /// Hypercalls among them.
    pub hypercalls: u64,
    /// Turns on a CPU that came right after another guest's turn there.
    pub alternations: u64,
    /// Turns on another CPU than the one before.
    pub moves: u64,
    /// Turns that another CPU ended by a kick while the guest ran.
    pub kicks: u64,
    /// Time on a CPU in microseconds.
    pub cpu_us: u64,
}

/// A guest reported a value (hypercall 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct ReportValue<S> {
    /// Name of the guest's file in the archive.
    pub guest: S,
    /// The guest's number.
    pub instance: u32,
    /// What the value is, up to 8 ASCII characters chosen by the guest.
    pub name: S,
    /// The value.
    pub value: u64,
}

/// A check was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Check<S> {
    /// Which.
    pub name: S,
    /// Whether it held.
    pub held: bool,
    /// What was looked at, or what was wrong.
    pub detail: S,
}

/// Memory by kind and size at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct View<S> {
    /// When: `boot`, `guests` or `after`.
    pub phase: S,
    /// What there is.
    pub memory: memory::view::View,
}

/// Something that happened to memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Trace<S> {
    /// The CPU that did it.
    pub cpu: u32,
    /// Its how-manieth event; those before the first that is written were dropped for want of room.
    pub number: u64,
    /// When, in ticks of that CPU's TSC.
    pub time: u64,
    /// What: `carve`, `hide`, `split`, `merge`, `flush` or `restore`.
    pub action: S,
    /// The first byte concerned; 0 for a flush.
    pub address: u64,
    /// How many bytes; for a flush those that it has hidden.
    pub bytes: u64,
}

/// What giving and taking back private memory once did cost. Ticks are those of the TSC: instructions under QEMU's `-icount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Bench<S> {
    /// How: `grouped`, `linux-fresh`, `linux-aged`, `scattered`.
    pub policy: S,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Ticks for taking memory from the host, hiding it, and flushing; splits, reserve and frame records included.
    pub hide: u64,
    /// Ticks for making and filling second-stage tables.
    pub map: u64,
    /// Ticks for zeroing before the guest.
    pub scrub_before: u64,
    /// Ticks for writing an image into the memory, through windows; 0 where none was loaded.
    pub load: u64,
    /// Bytes of that image; 0 where none was loaded.
    pub bytes_loaded: u64,
    /// Window INVLPGs of loading it.
    pub load_invlpgs: u64,
    /// Ticks for the teardown but for the zeroing.
    pub restore: u64,
    /// Ticks for zeroing after the guest.
    pub scrub_after: u64,
    /// Flushes of the launch.
    pub launch_flushes: u64,
    /// Flushes of the teardown.
    pub teardown_flushes: u64,
    /// CPUs that both interrupted: they were in the host.
    pub cpus_interrupted: u64,
    /// CPUs that both flagged: they were asleep.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither.
    pub cpus_spared: u64,
    /// Window INVLPGs of the launch.
    pub launch_invlpgs: u64,
    /// Window INVLPGs of the teardown.
    pub teardown_invlpgs: u64,
    /// 2M leaves split to 4K by the launch.
    pub level2_splits: u64,
    /// 1G leaves split to 2M by the launch.
    pub level3_splits: u64,
    /// Tables merged to 1G leaves by the teardown.
    pub level3_collapses: u64,
    /// Leaves of the direct map before.
    pub before: Leaves,
    /// Leaves while all of the memory is hidden.
    pub peak: Leaves,
    /// Leaves after the teardown.
    pub after: Leaves,
}

/// The machine pauses next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Pause<S> {
    /// The phase that can be looked at: `boot`, `guests` or `after`.
    pub phase: S,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything held.
    Pass,
    /// Something did not hold.
    Fail,
    /// The hypervisor found one of its own invariants broken.
    Panic,
    /// This machine or configuration cannot run.
    Refused,
}

/// The verdict on the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Verdict<S> {
    /// How it ended.
    pub verdict: Outcome,
    /// Why, and what to do; empty after a pass.
    pub reason: S,
}
