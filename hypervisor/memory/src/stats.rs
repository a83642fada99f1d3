//! Counters of everything that changes a mapping. Splits and merges carry Linux' names where they are printed
//! (`direct_map_level2_splits` and so on; level 2 = a 2M leaf, level 3 = a 1G leaf).

use crate::paging::edit::MergeBlocked;

/// Counters since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// 2M leaves of the direct map replaced by tables of 4K leaves: where memory had to be hidden although no whole region was free.
    pub level2_splits: u64,
    /// 1G leaves of the direct map replaced by tables of 2M leaves.
    pub level3_splits: u64,
    /// Tables of 512 4K leaves merged into 2M leaves.
    pub level2_collapses: u64,
    /// Tables of 512 2M leaves merged into 1G leaves.
    pub level3_collapses: u64,
    /// Entries of the direct map written: cleared, filled, split, merged, parked. Hidden memory that changes hands writes none.
    pub direct_map_writes: u64,
    /// Third-level entries cleared because their gigablock became all holes.
    pub tables_parked: u64,
    /// Regions taken out of the direct map.
    pub regions_hidden: u64,
    /// Regions put back.
    pub regions_restored: u64,
    /// Gigablocks hidden by one entry; their regions count above, too.
    pub gigablocks_hidden: u64,
    /// 4K pages taken out of the direct map one by one, because no whole region was free.
    pub pages_hidden: u64,
    /// 4K pages put back.
    pub pages_restored: u64,
    /// Host shootdowns asked for: rounds, whatever the number of CPUs.
    pub flushes: u64,
    /// CPUs interrupted for them: they were in the host.
    pub cpus_interrupted: u64,
    /// CPUs that were in a guest or asleep, so that a flag stood for their flush.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither: they had flushed already, had an interrupt on its way, or were not started.
    pub cpus_spared: u64,
    /// CPUs kicked for changes of living guests' second stages ([`Stats::guest_flushes`]): they were inside that guest.
    pub guest_cpus_kicked: u64,
    /// CPUs that had run that guest and were outside: their next entry flushes.
    pub guest_cpus_flagged: u64,
    /// Other CPUs: they have never run that guest, or had flushed already.
    pub guest_cpus_spared: u64,
    /// Bytes of guest memory overwritten with zeros, before a guest or after it.
    pub bytes_scrubbed: u64,
    /// 2M leaves of guests' tables replaced by 4K leaves, because the guest executed from there on a CPU with the erratum iTLB multihit, or changed a
    /// part of them.
    pub second_stage_splits: u64,
    /// Pages that guests shared with the host.
    pub pages_shared: u64,
    /// Pages that became private again, pending.
    pub pages_unshared: u64,
    /// Pages that guests accepted.
    pub pages_accepted: u64,
    /// Pages that guests shared in place: their hidden frames, at the shared alias.
    pub pages_shared_in_place: u64,
    /// Pages that were shared in place and became accepted again.
    pub pages_unshared_in_place: u64,
    /// Regions' worth of memory that guests gave back.
    pub regions_given_back: u64,
    /// Those that guests got, to take them again or to make them private again.
    pub regions_taken_again: u64,
    /// Hidden frames that were kept for guests' pages, shared or given back, and were taken because memory was low.
    pub kept_frames_taken: u64,
    /// Single hidden frames that guests got for such pages later, from magazines.
    pub frames_supplied: u64,
    /// Flushes of a living guest's translations, for changes of its memory.
    pub guest_flushes: u64,
    /// 2M leaves of guests' tables that came back because all 512 pages were private again.
    pub second_stage_collapses: u64,
    /// Those that did not, by what was in the way.
    pub promotions_blocked: PromotionsBlocked,
    /// Merges not done although the count of canonical entries was full, by what was in the way.
    pub merges_blocked: MergesBlocked,
    /// Frames that could not be made safe and are out of use for good.
    pub frames_quarantined: u64,
    /// Small extents handed out by the pool or a magazine, and taken back.
    pub pool_allocations: u64,
    /// Small extents taken back.
    pub pool_frees: u64,
    /// Regions that the pool was asked for and had in its cache: no map change, no flush.
    pub cache_hits: u64,
    /// Regions given back to the host because free memory was low, or on request.
    pub regions_shrunk: u64,
}

/// Merges that were not done, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergesBlocked {
    /// An entry was absent.
    pub hole: u64,
    /// An entry led to a table, or there was no table to merge.
    pub smaller_leaves: u64,
    /// The entries did not map one aligned piece of memory in order.
    pub address: u64,
    /// The entries differed in access rights, memory type or a software bit.
    pub attributes: u64,
}

impl MergesBlocked {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.hole + self.smaller_leaves + self.address + self.attributes
    }

    pub(crate) fn count(&mut self, reason: MergeBlocked) {
        let counter = match reason {
            MergeBlocked::Hole => &mut self.hole,
            MergeBlocked::SmallerLeaves | MergeBlocked::NoTable => &mut self.smaller_leaves,
            MergeBlocked::Address => &mut self.address,
            MergeBlocked::Attributes => &mut self.attributes,
        };
        *counter += 1;
    }
}

/// 2 MiB of a guest that were all private again and stay in 4K leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromotionsBlocked {
    /// The frames are not one region, in order: memory that was launched in pieces.
    pub address: u64,
    /// The CPU must not execute from large leaves (iTLB multihit).
    pub executable: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_no_merge_is_counted_and_all_together() {
        let mut blocked = MergesBlocked::default();
        let reasons = [
            (MergeBlocked::Hole, 1),
            (MergeBlocked::SmallerLeaves, 10),
            (MergeBlocked::NoTable, 20),
            (MergeBlocked::Address, 100),
            (MergeBlocked::Attributes, 1000),
        ];
        for (reason, times) in reasons {
            (0..times).for_each(|_| blocked.count(reason));
        }
        let MergesBlocked {
            hole,
            smaller_leaves,
            address,
            attributes,
        } = blocked;
        assert_eq!((hole, smaller_leaves, address, attributes), (1, 30, 100, 1000));
        assert_eq!(blocked.total(), 1131);
    }
}
