//! Carving: which regions to take from the host.
//!
//! A hole costs something only where it breaks a 1G leaf, so regions come first from gigablocks that had none at boot, then from
//! gigablocks that are broken already, the one with most holes first, and only then from a whole one: the lowest, because host
//! memory grows from the highest (`frame::allocator`).

use crate::frame::allocator::OutOfMemory;
use crate::frame::list::{Carved, Region, RegionList};
use crate::frame::records::{FrameTable, GigablockIndex};

impl FrameTable<'_> {
    /// Takes `count` regions, all or none.
    ///
    /// # Errors
    /// When fewer whole 2 MiB blocks are free.
    pub fn carve(&mut self, count: u64) -> Result<RegionList<Carved>, OutOfMemory> {
        if count > self.free_regions() {
            return Err(self.out_of_memory(count.saturating_mul(512)));
        }
        let mut regions = RegionList::new();
        while regions.len() < count {
            let Some(gigablock) = self.best_gigablock() else {
                break;
            };
            // In runs as long as they come: one step of the buddy for many regions, and neighbours stay neighbours.
            while let left @ 1.. = count - regions.len()
                && let Some(largest) = self.largest_run_in(gigablock)
            {
                let run = largest.min(left.ilog2() as u8);
                let Some(first) = self.take_block_run(gigablock, run) else {
                    break;
                };
                for block in (0..1 << run).map(|offset| first.plus(offset)) {
                    let region = Region::new(self, block);
                    regions.push(self, region);
                }
            }
        }
        Ok(regions)
    }

    /// Free regions in gigablocks that have no 1G leaf at boot: holes there cost none.
    pub fn free_regions_without_1g_leaf(&self) -> u64 {
        let broken = self.gigablock_indices().filter(|&index| !self.hole_cost(index).0);
        broken.map(|index| u64::from(self.regions_free_in(index))).sum()
    }

    /// Gives back regions that were not hidden.
    pub fn uncarve(&mut self, mut regions: RegionList<Carved>) {
        while let Some(region) = regions.pop(self) {
            region.uncarve(self);
        }
    }

    /// The gigablock with free regions where holes cost least. One look at a record for each gigablock, for up to 512
    /// regions taken.
    fn best_gigablock(&self) -> Option<GigablockIndex> {
        self.gigablock_indices()
            .filter(|&index| self.regions_free_in(index) > 0)
            .min_by_key(|&index| {
                let (whole_at_boot, holes) = self.hole_cost(index);
                // min_by_key keeps the first, so the lowest, of equals.
                (whole_at_boot, core::cmp::Reverse(holes))
            })
    }
}
