//! Handing out hidden memory, and taking it back.

use crate::address::{GIGABLOCK_ORDER, Pfn};
use crate::direct_map::{Checked, HideCause};
use crate::frame::FrameTable;
use crate::frame::extent::{Carved, Clean, Extent};
use crate::frame::extent_list::ExtentList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{FlushBatch, Posted};

use super::shrinker::Watermarks;

/// Regions, or extents below 2 MiB, that go back in one step of a refusal: a gigablock's worth.
const AT_ONCE: u64 = 512;

/// What the pool holds beyond what its users hold.
#[derive(Debug)]
pub struct Pool {
    /// Hidden, zeroed, nobody's.
    pub(super) cached: ExtentList<Clean>,
    /// Regions to keep there at most.
    pub(super) keep: u64,
    pub(super) watermarks: Watermarks,
    /// Free memory was below the low watermark, and has not been lifted to the high one since.
    pub(super) relieving: bool,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(watermarks: Watermarks) -> Self {
        Self {
            cached: ExtentList::new(),
            keep: 0,
            watermarks,
            relieving: false,
        }
    }

    /// Free frames that the host keeps whatever private memory is asked for in pieces below 2 MiB.
    pub(crate) fn low_watermark(&self) -> u64 {
        self.watermarks.low
    }

    /// When the shrinker starts and stops.
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// First frame and order of each extent in the cache.
    pub fn cached<'a>(&self, frames: &'a FrameTable<'_>) -> impl Iterator<Item = (Pfn, u8)> + use<'a> {
        self.cached.extents(frames)
    }

    /// Regions in the cache.
    pub fn cached_regions(&self) -> u64 {
        self.cached.frames() / 512
    }
}

impl HostMemory<'_> {
    /// The pool's own holdings.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Visits all hidden memory that nobody has: what is cached, and what is free in blocks of which some is used. First frame and order.
    pub fn each_unused(&self, mut visit: impl FnMut(Pfn, u8)) {
        for (pfn, order) in self.pool.cached(&self.frames) {
            visit(pfn, order);
        }
        self.frames.each_pool_run(visit);
    }

    /// Keeps up to `regions` empty hidden regions for reuse from now on; 0, the default, gives each back to the host at once. What is
    /// cached already stays until `drain` or `shrink`.
    pub fn set_cache(&mut self, regions: u64) {
        self.pool.keep = regions;
    }

    /// Takes `1 << order` frames of hidden, zeroed memory, aligned to their size, if the pool has them: no mapping changes, nothing is
    /// flushed. `None` when it has to grow first.
    pub fn take_private(&mut self, order: u8) -> Option<Extent<Clean>> {
        let extent = self.frames.pool_take(order)?;
        self.stats.pool_allocations += 1;
        Some(extent)
    }

    /// Takes back hidden memory that is zeroed. What becomes empty is cached, or restored and merged.
    pub fn give_back<M: Machine>(&mut self, machine: &M, extent: Extent<Clean>) {
        self.stats.pool_frees += 1;
        self.put_away(machine, extent);
    }

    /// The same for memory that nobody had from the pool in this way: a guest's.
    pub(crate) fn put_away<M: Machine>(&mut self, machine: &M, extent: Extent<Clean>) {
        let mut list = ExtentList::new();
        if extent.is_regions() {
            list.push(&mut self.frames, extent);
        } else {
            match self.frames.pool_put(extent) {
                None => return,
                Some(empty) => list = empty.into_list(&mut self.frames),
            }
        }
        self.keep(&mut list);
        self.restore_all(machine, &mut list);
    }

    /// Puts some of what was taken from the cache back; whether there was any.
    pub(crate) fn put_back_some(&mut self, cached: &mut ExtentList<Clean>) -> bool {
        let any = !cached.is_empty();
        let mut regions = 0;
        while regions < AT_ONCE
            && let Some(extent) = cached.pop(&self.frames)
        {
            regions += extent.frames() / 512;
            self.stats.cache_hits -= extent.frames() / 512;
            self.pool.cached.push(&mut self.frames, extent);
        }
        any
    }

    /// Gives some extents back to the host that were not hidden; whether there were any.
    pub(crate) fn uncarve_some(&mut self, carved: &mut ExtentList<Carved>) -> bool {
        let any = !carved.is_empty();
        for _ in 0..AT_ONCE {
            match carved.pop(&self.frames) {
                Some(extent) => extent.uncarve(&mut self.frames),
                None => break,
            }
        }
        any
    }

    /// Moves what the cache has room for from a list to the cache.
    pub(crate) fn keep(&mut self, list: &mut ExtentList<Clean>) {
        let mut rest = ExtentList::new();
        while let room @ 512.. = (self.pool.keep * 512).saturating_sub(self.pool.cached.frames())
            && let Some(extent) = list.pop(&self.frames)
        {
            if extent.is_regions() && extent.frames() <= room {
                self.pool.cached.push(&mut self.frames, extent);
                continue;
            }
            let halves = if self.is_hidden_whole(&extent) {
                Err(extent)
            } else {
                extent.halves(&mut self.frames)
            };
            match halves {
                Ok((lower, upper)) => {
                    list.push(&mut self.frames, lower);
                    list.push(&mut self.frames, upper);
                }
                Err(extent) => rest.push(&mut self.frames, extent),
            }
        }
        rest.append(&mut self.frames, core::mem::take(list));
        *list = rest;
    }

    /// Takes up to `regions` regions from the cache for a user.
    pub(crate) fn take_cached<M: Machine>(&mut self, machine: &M, regions: u64) -> ExtentList<Clean> {
        let taken = self.uncache(machine, regions, false);
        self.stats.cache_hits += taken.frames() / 512;
        taken
    }

    /// Takes `regions` regions from the cache, or all that are there. More, when `whole` says so, where the table is missing that cutting
    /// up a gigablock needs; otherwise less.
    pub(super) fn uncache<M: Machine>(
        &mut self,
        machine: &M,
        regions: u64,
        whole: bool,
    ) -> ExtentList<Clean> {
        let mut taken = ExtentList::new();
        while let left @ 1.. = regions.saturating_sub(taken.frames() / 512)
            && let Some(mut extent) = self.pool.cached.pop(&self.frames)
        {
            let too_large = extent.frames() / 512 > left;
            let cut = too_large && self.can_be_cut(machine, &extent);
            if too_large && !cut && !whole {
                self.pool.cached.push(&mut self.frames, extent);
                break;
            }
            while cut && extent.frames() / 512 > left {
                match extent.halves(&mut self.frames) {
                    Ok((lower, upper)) => {
                        self.pool.cached.push(&mut self.frames, upper);
                        extent = lower;
                    }
                    Err(region) => {
                        extent = region;
                        break;
                    }
                }
            }
            taken.push(&mut self.frames, extent);
        }
        taken
    }

    /// Looks whether extents can be hidden, and takes what that needs. See [`DirectMap::check_some`](crate::direct_map::DirectMap).
    pub(crate) fn check_some<M: Machine>(
        &mut self,
        machine: &M,
        extents: &mut ExtentList<Carved>,
        checked: &mut Checked,
    ) -> Result<bool, HideCause> {
        self.direct_map
            .check_some(machine, &mut self.frames, extents, checked)
    }

    /// Takes some of what was checked out of the direct map; whether there was any.
    pub(crate) fn hide_some<M: Machine>(
        &mut self,
        machine: &M,
        checked: &mut Checked,
        batch: &mut FlushBatch,
    ) -> bool {
        let Self {
            direct_map,
            frames,
            stats,
            ..
        } = self;
        direct_map.hide_some(machine, frames, stats, checked, batch)
    }

    /// Takes memory out of the direct map, in one piece, and asks for its flush.
    pub(crate) fn hide<M: Machine>(
        &mut self,
        machine: &M,
        extents: ExtentList<Carved>,
    ) -> Result<Posted, HideCause> {
        match self
            .direct_map
            .hide(machine, &mut self.frames, &mut self.stats, extents)
        {
            Ok(batch) => Ok(self.post(machine, batch)),
            Err(error) => {
                self.frames.uncarve(error.extents);
                Err(error.cause)
            }
        }
    }

    /// Restores a list of clean memory. The tables that were merged away wait for the next flush.
    pub(crate) fn restore_all<M: Machine>(&mut self, machine: &M, list: &mut ExtentList<Clean>) {
        let mut batch = FlushBatch::new();
        while self
            .direct_map
            .restore(machine, &mut self.frames, &mut self.stats, list, &mut batch)
        {}
        self.flusher.defer(&mut self.frames, batch);
    }

    /// Whether a gigablock is hidden by one entry, without a table to cut it up with.
    fn is_hidden_whole(&self, extent: &Extent<Clean>) -> bool {
        extent.order() == GIGABLOCK_ORDER
            && self
                .frames
                .gigablock(extent.gigablock(&self.frames))
                .parked()
                .is_none()
    }

    /// Gets the table that the parts of a gigablock hidden by one entry need for their restore; false when there is none.
    fn can_be_cut<M: Machine>(&mut self, machine: &M, extent: &Extent<Clean>) -> bool {
        if !self.is_hidden_whole(extent) {
            return true;
        }
        let table = self.frames.reserve_tables(machine, 1);
        let Some(table) = table.ok().and_then(|mut tables| tables.pop(&self.frames)) else {
            return false;
        };
        let index = extent.gigablock(&self.frames);
        let table = table.link(&mut self.frames, 0);
        self.frames.set_parked(index, Some(table));
        true
    }
}
