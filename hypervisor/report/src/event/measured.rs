//! What `measure=tlb` found: counters, events, latency.

use serde::Serialize;

/// The performance counters of a CPU, as they were found at one moment (`measure=tlb`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Pmu<S> {
    /// When: `boot`, `guests` or `after`.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The core whose events are known, or `unknown`.
    pub core: S,
    /// How counters are reached; empty when there are none.
    pub interface: S,
    /// Counters that nobody else uses.
    pub counters: u32,
    /// Bits of a counter by CPUID.
    pub width: u32,
    /// Whether the counters themselves leave out what guests do. Else a window has no VM entry, and that is all.
    pub host_only: bool,
    /// `absent`, `dead` or `live`; the last when at least one event is.
    pub state: S,
    /// Why not live; empty when it is.
    pub reason: S,
}

/// What one event was found to be, by trying it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct PmuEvent<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// What it counts.
    pub metric: S,
    /// Its event register's value.
    pub select: u64,
    /// `dead` or `live`.
    pub state: S,
    /// Why not live; empty when it is.
    pub reason: S,
}

/// What an event counted while the host worked, in one pass over all loads of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct PmuCount<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The work.
    pub workload: S,
    /// What was counted.
    pub metric: S,
    /// Loads of the work.
    pub loads: u64,
    /// What came of them.
    pub count: u64,
    /// What the probe said of TLB entries: `large`, `4k`, or `unknown` where time means nothing.
    pub entries: S,
}

/// What the probe for large TLB entries found: loads of the same lines of the data cache, from few pages of 4K and from many, all in one 2M leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Probe<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// TSC ticks of 1000 loads over seven pages of 4K.
    pub few: u64,
    /// The same over 448.
    pub many: u64,
    /// `large`: an entry of the TLB covers 2M or more; `4k`: it does not, so an outer hypervisor backs us by 4K.
    pub entries: S,
}

/// How long dependent loads took, in many short windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Latency<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The work.
    pub workload: S,
    /// Loads of a window.
    pub loads: u64,
    /// Windows.
    pub windows: u64,
    /// TSC ticks of 1000 loads that a tenth of the windows stayed below.
    pub p10: u64,
    /// A quarter.
    pub p25: u64,
    /// Half.
    pub median: u64,
    /// TSC ticks in a millisecond.
    pub tsc_khz: u64,
    /// What the probe said of TLB entries: `large` or `4k`.
    pub entries: S,
}

/// Something that was to be measured and was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Skip<S> {
    /// When.
    pub phase: S,
    /// What: `pmu`, `latency`, or one workload of them, such as `latency objects-near`.
    pub what: S,
    /// Why.
    pub reason: S,
}
