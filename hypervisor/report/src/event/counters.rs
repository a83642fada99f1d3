//! The counters of a run.

use serde::Serialize;

/// Every counter. The first four have Linux' names, in which level 2 is 2M and level 3 is 1G: `direct_map_level2_splits` counts
/// 2M leaves split to 4K.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Counters {
    /// 2M leaves split to 4K.
    pub direct_map_level2_splits: u64,
    /// 1G leaves split to 2M.
    pub direct_map_level3_splits: u64,
    /// Tables of 4K leaves merged to one 2M leaf.
    pub direct_map_level2_collapses: u64,
    /// Tables of 2M leaves merged to one 1G leaf.
    pub direct_map_level3_collapses: u64,
    /// Acknowledged flush batches, over all CPUs.
    pub flushes: u64,
    /// CPUs that were interrupted to flush, summed over the flushes.
    pub cpus_interrupted: u64,
    /// Shootdown interrupts sent to a CPU that was in a guest when it was looked at: there must be none.
    pub interrupts_to_guests: u64,
    /// Shootdown interrupts that ended guest mode: the CPU was in the host when it was looked at, and entered a guest before the interrupt came.
    pub interrupts_met_in_guests: u64,
    /// CPUs that were only flagged, because they ran a guest or slept.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither.
    pub cpus_spared: u64,
    /// NMIs sent to get a CPU out of its guest.
    pub kicks: u64,
    /// INVLPGs of closing windows; none of them leaves its CPU.
    pub window_invlpgs: u64,
    /// Regions hidden.
    pub regions_hidden: u64,
    /// Regions restored.
    pub regions_restored: u64,
    /// Gigablocks hidden by one entry; their regions count above, too.
    pub gigablocks_hidden: u64,
    /// 4K pages hidden one by one, because no whole region was free.
    pub pages_hidden: u64,
    /// 4K pages put back.
    pub pages_restored: u64,
    /// Entries of the direct map written.
    pub direct_map_writes: u64,
    /// Merges not done because an entry was absent.
    pub merges_blocked_hole: u64,
    /// Merges not done because an entry led to smaller leaves.
    pub merges_blocked_smaller_leaves: u64,
    /// Merges not done because the entries did not map one aligned piece of memory.
    pub merges_blocked_address: u64,
    /// Merges not done because the entries differed in rights, memory type or a software bit.
    pub merges_blocked_attributes: u64,
    /// Regions that came from the cache: without a flush.
    pub cache_hits: u64,
    /// Cached regions given back to the host because memory was low, or at the end.
    pub regions_shrunk: u64,
    /// Extents below 2 MiB that the pool handed out.
    pub pool_allocations: u64,
    /// Extents below 2 MiB that it took back.
    pub pool_frees: u64,
    /// Frames out of use for good because they could not be made safe.
    pub frames_quarantined: u64,
    /// 2M leaves of guests' tables split to 4K: because of the erratum iTLB multihit, or because a part of them was shared.
    pub second_stage_splits: u64,
    /// 2M leaves of guests' tables that came back because all 512 pages were private again.
    pub second_stage_collapses: u64,
    /// Those that did not come back because the frames are not one region.
    pub promotions_blocked_address: u64,
    /// Those that did not come back because of the erratum iTLB multihit.
    pub promotions_blocked_executable: u64,
    /// 4K pages that guests shared with the host.
    pub pages_shared: u64,
    /// 4K pages that became private again.
    pub pages_unshared: u64,
    /// 4K pages that guests accepted.
    pub pages_accepted: u64,
    /// 4K pages that guests shared in place: the hidden frames themselves.
    pub pages_shared_in_place: u64,
    /// 4K pages that were shared in place and are the guest's alone again.
    pub pages_unshared_in_place: u64,
    /// Regions of 2 MiB that guests gave back to the host.
    pub regions_given_back: u64,
    /// Regions of 2 MiB that guests took again, or that they got for pages that are private again.
    pub regions_taken_again: u64,
    /// Hidden 4K frames that were kept for pages that guests share or have given back, and were taken because memory was low.
    pub kept_frames_taken: u64,
    /// Hidden 4K frames that such pages got later, one by one.
    pub frames_supplied: u64,
    /// Flushes of a living guest's translations, for changes of its memory.
    pub guest_flushes: u64,
    /// CPUs that were kicked out of the guest for them.
    pub guest_cpus_kicked: u64,
    /// CPUs that had run that guest and were outside of it: they flush when they enter it again.
    pub guest_cpus_flagged: u64,
    /// Other CPUs: they have never run that guest, or had flushed already.
    pub guest_cpus_spared: u64,
    /// Bytes overwritten with zeros before someone else could see them.
    pub bytes_scrubbed: u64,
    /// TSC ticks of taking memory from the host, hiding it and flushing.
    pub ticks_hide: u64,
    /// TSC ticks of zeroing memory, before a guest or after it.
    pub ticks_scrub: u64,
    /// TSC ticks of making and filling second-stage tables.
    pub ticks_map: u64,
    /// TSC ticks of teardown but for the zeroing.
    pub ticks_restore: u64,
    /// TSC ticks of writing images and launch areas into guests, through windows.
    pub ticks_load: u64,
    /// Bytes written then.
    pub bytes_loaded: u64,
    /// TSC ticks of measuring them.
    pub ticks_measure: u64,
    /// Bytes of the pages measured.
    pub bytes_measured: u64,
    /// TSC ticks from the hypervisor's first instructions to the first turn of the first guest; 0 when none had a turn.
    pub ticks_to_first_guest: u64,
}
