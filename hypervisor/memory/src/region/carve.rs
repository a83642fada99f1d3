//! Carving: which memory to take from the host.
//!
//! A hole costs something only where it breaks a 1G leaf, so regions come first from gigablocks that had none at boot, then from
//! gigablocks that are broken already, the one with most holes first, and only then from an intact one: the lowest, because host
//! memory grows from the highest (`frame::allocator`). What needs a whole GiB takes a whole gigablock, as long as that keeps the loss small.

use crate::address::{GIGABLOCK_ORDER, Pfn, REGION_ORDER};
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::{Carved, Extent};
use crate::frame::extent_list::ExtentList;
use crate::frame::records::{FrameTable, GigablockIndex};

/// Regions of a gigablock, and log2 of that.
const GIGABLOCK_REGIONS: u64 = 512;
const GIGABLOCK_RUN: u8 = GIGABLOCK_ORDER - REGION_ORDER;

/// What a request for regions has so far: whole gigablocks first.
#[derive(Debug, Default)]
#[must_use = "carved memory is hidden or given back"]
pub(crate) struct Carving {
    pub(crate) extents: ExtentList<Carved>,
    /// No more gigablocks are taken whole.
    in_parts: bool,
}

impl Carving {
    /// Regions that it has.
    pub(crate) fn regions(&self) -> u64 {
        self.extents.frames() / 512
    }
}

impl FrameTable<'_> {
    /// Takes `count` regions, all or none, in extents as large as they come.
    ///
    /// # Errors
    /// When fewer whole 2 MiB blocks are free.
    pub fn carve(&mut self, count: u64) -> Result<ExtentList<Carved>, OutOfMemory> {
        if count > self.free_regions() {
            return Err(self.out_of_memory(count.saturating_mul(512)));
        }
        let mut carving = Carving::default();
        while let left @ 1.. = count - carving.regions()
            && self.carve_some(left, &mut carving)
        {}
        Ok(carving.extents)
    }

    /// Takes some of the `left` regions that a request lacks, one at least, as many as one gigablock has at most. False, and nothing changed, when no
    /// region is free.
    pub(crate) fn carve_some(&mut self, left: u64, carving: &mut Carving) -> bool {
        let Carving { extents, in_parts } = carving;
        if !*in_parts
            && left >= GIGABLOCK_REGIONS
            && let Some(gigablock) = self.gigablock_to_take_whole(left)
            && let Some(extent) = self.carve_run(gigablock, GIGABLOCK_RUN)
        {
            extents.push(self, extent);
            return true;
        }
        *in_parts = true;
        let Some(gigablock) = self.cheapest_gigablock() else {
            return false;
        };
        // In runs as long as they come: one step of the buddy for many regions, and neighbours stay neighbours.
        let wanted = extents.frames() / 512 + left;
        while let left @ 1.. = wanted - extents.frames() / 512
            && let Some(largest) = self.largest_run_in(gigablock)
            && let Some(extent) = self.carve_run(gigablock, largest.min(left.ilog2() as u8))
        {
            extents.push(self, extent);
        }
        true
    }

    /// Takes one extent of whole regions.
    ///
    /// # Errors
    /// When no free run is that long.
    pub(crate) fn carve_contiguous(&mut self, order: u8) -> Result<Extent<Carved>, OutOfMemory> {
        let run = order.checked_sub(REGION_ORDER);
        let carved = run.and_then(|run| {
            let gigablock = if run == 0 {
                self.cheapest_gigablock()?
            } else {
                self.lowest_with_run(run)?
            };
            self.carve_run(gigablock, run)
        });
        carved.ok_or_else(|| self.out_of_memory(1_u64.checked_shl(u32::from(order)).unwrap_or(u64::MAX)))
    }

    /// Takes `count` frames in the largest runs below a region that there are, all or none. Whole free regions are left alone.
    ///
    /// # Errors
    /// When fewer frames are free outside of whole regions.
    pub(crate) fn carve_pieces(&mut self, count: u64) -> Result<ExtentList<Carved>, OutOfMemory> {
        if count > self.free_frames() - self.free_regions() * 512 {
            return Err(self.out_of_memory(count));
        }
        let mut pieces = ExtentList::new();
        while let left @ 1.. = count - pieces.frames()
            && let Some(largest) = self.largest_listed_run()
            && let Some(host) = self.allocate_listed(largest.min(left.ilog2() as u8))
        {
            let piece = Extent::of_host_frames(self, host);
            pieces.push(self, piece);
        }
        Ok(pieces)
    }

    /// Takes all free regions of the gigablocks that have no 1G leaf at boot: holes there cost none, so a measurement sets them aside.
    pub fn carve_without_1g_leaf(&mut self) -> ExtentList<Carved> {
        let mut extents = ExtentList::new();
        while let Some(gigablock) = self.cheapest_gigablock()
            && !self.gigablock(gigablock).whole_at_boot()
            && let Some(run) = self.largest_run_in(gigablock)
            && let Some(extent) = self.carve_run(gigablock, run)
        {
            extents.push(self, extent);
        }
        extents
    }

    /// Gives back extents that were not hidden.
    pub fn uncarve(&mut self, mut extents: ExtentList<Carved>) {
        while let Some(extent) = extents.pop(self) {
            extent.uncarve(self);
        }
    }

    fn carve_run(&mut self, gigablock: GigablockIndex, run: u8) -> Option<Extent<Carved>> {
        let first: Pfn = self.take_block_run(gigablock, run)?;
        Some(Extent::of_blocks(self, first, run + REGION_ORDER))
    }

    /// A gigablock that is free as a whole, for a request of which `left` regions are missing.
    ///
    /// Where its 1G leaf would be lost, only as many as may be lost: with H bytes hidden at most ceil(H / 1 GiB) + 1 gigablocks are to be
    /// broken, one of them this one, and one perhaps by what is left of the request. Those that the request has taken whole so far would
    /// count on both sides alike.
    fn gigablock_to_take_whole(&self, left: u64) -> Option<GigablockIndex> {
        let gigablock = self.lowest_with_run(GIGABLOCK_RUN)?;
        if !self.gigablock(gigablock).whole_at_boot() {
            return Some(gigablock);
        }
        let (holes, broken) = self.holes();
        let others = broken + u64::from(left > GIGABLOCK_REGIONS);
        (others <= (holes + left).div_ceil(GIGABLOCK_REGIONS)).then_some(gigablock)
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::Fake;

    /// Frames of whole regions are no pieces: what is asked for beyond the others is refused, and nothing was taken.
    #[test]
    fn pieces_come_from_blocks_that_are_partly_used_or_not_at_all() {
        let (_, mut memory, _) = Fake::boot();
        let frames = &mut memory.frames;
        let (free, regions) = (frames.free_frames(), frames.free_regions());
        let outside = free - regions * 512;
        assert!(outside > 0 && regions > 1);
        for more in [1, 512, 1024] {
            let refused = frames.carve_pieces(outside + more).unwrap_err();
            assert_eq!(refused.wanted, (outside + more) * 4096);
            assert_eq!(frames.free_frames(), free);
        }
        let pieces = frames.carve_pieces(outside).unwrap();
        assert_eq!(pieces.frames(), outside);
        assert_eq!(
            (frames.free_frames(), frames.free_regions()),
            (regions * 512, regions)
        );
        frames.uncarve(pieces);
        assert_eq!((frames.free_frames(), frames.free_regions()), (free, regions));
    }
}
