//! Counters of everything that changes a mapping. Splits and merges carry Linux' names where they are printed
//! (`direct_map_level2_splits` and so on; level 2 = a 2M leaf, level 3 = a 1G leaf).

/// Counters since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// 2M leaves of the direct map replaced by tables of 4K leaves. Regions are hidden whole, so only [`crate::baseline`] does it.
    pub level2_splits: u64,
    /// 1G leaves of the direct map replaced by tables of 2M leaves.
    pub level3_splits: u64,
    /// Tables of 512 2M leaves merged into 1G leaves.
    pub level3_collapses: u64,
    /// Third-level entries cleared because their gigablock became all holes.
    pub tables_parked: u64,
    /// Regions taken out of the direct map.
    pub regions_hidden: u64,
    /// Regions put back.
    pub regions_restored: u64,
    /// Host shootdowns asked for: rounds, whatever the number of CPUs.
    pub flushes: u64,
    /// CPUs interrupted for them: they were in the host.
    pub cpus_interrupted: u64,
    /// CPUs that were in a guest or asleep, so that a flag stood for their flush.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither: they had flushed already, had an interrupt on its way, or were not started.
    pub cpus_spared: u64,
    /// Bytes of guest memory overwritten with zeros, before a guest or after it.
    pub bytes_scrubbed: u64,
    /// 2M leaves of guests' tables replaced by 4K leaves, because the guest executed from there on a CPU with the erratum iTLB multihit.
    pub second_stage_splits: u64,
    /// Merges not done although the count of canonical entries was full: the entries disagreed.
    pub merges_blocked: u64,
}

/// Where the time went, in ticks of [`Machine::now`](crate::machine::Machine::now), summed since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Taking memory from the host, hiding it, flushing: with frame records, table reserve and splits.
    pub hide: u64,
    /// Zeroing memory, before a guest or after it.
    pub scrub: u64,
    /// Second-stage tables: making and filling them.
    pub map: u64,
    /// Teardown but for the zeroing: cutting the second stage, restoring, merging, flushing, freeing.
    pub restore: u64,
}
