//! Giving cached regions back to the host, because memory is low or because someone asks.

use crate::address::{PAGE_SIZE, REGION_ORDER};
use crate::frame::allocator::{HostFrames, OutOfMemory};
use crate::frame::extent_list::ExtentList;
use crate::frame::pool::EmptyBlock;
use crate::host::HostMemory;
use crate::machine::Machine;

use super::Restored;

/// Free host memory, in frames, at which the shrinker starts and stops. The gap between them keeps a guest that comes and goes from
/// hiding and restoring the same regions each time: what is given back is only what lifts free memory to `high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this the cache is emptied; memory that is not free in whole regions is left to the host.
    pub low: u64,
    /// At this the shrinker stops.
    pub high: u64,
}

impl Watermarks {
    /// The marks for so many frames of RAM: 1/256 of it and twice that, at least 1 MiB (a choice, not a measurement: a 256th is what the
    /// frame records of a guest of the same size take twice over).
    pub fn for_frames(frames: u64) -> Self {
        let low = (frames / 256).max((1 << 20) / PAGE_SIZE);
        Self { low, high: 2 * low }
    }
}

impl HostMemory<'_> {
    /// Sets the watermarks. `high` below `low` counts as `low`.
    pub fn set_watermarks(&mut self, marks: Watermarks) {
        self.pool.watermarks = Watermarks {
            low: marks.low,
            high: marks.high.max(marks.low),
        };
    }

    /// Takes `1 << order` frames of ordinary memory. When that breaks up a free region, and free memory is low, cached regions are given
    /// back first; also when there would be no memory otherwise.
    ///
    /// # Errors
    /// When no free run is large enough even then, or `order` exceeds [`crate::frame::allocator::MAX_ORDER`].
    pub fn allocate<M: Machine>(&mut self, machine: &M, order: u8) -> Result<HostFrames, OutOfMemory> {
        if order < REGION_ORDER
            && let Some(frames) = self.frames.allocate_listed(order)
        {
            return Ok(frames);
        }
        self.relieve(machine);
        match self.frames.allocate(order) {
            Err(_) if !self.pool.cached.is_empty() => {
                self.shrink(machine, u64::MAX);
                self.frames.allocate(order)
            }
            result => result,
        }
    }

    /// Gives up to `regions` cached regions back to the host: restored, merged, free. More only where a whole gigablock cannot be cut up for
    /// want of a table. Returns how many.
    pub fn shrink<M: Machine>(&mut self, machine: &M, regions: u64) -> u64 {
        let mut list = self.uncache(machine, regions, true);
        let given = list.frames() / 512;
        self.stats.regions_shrunk += given;
        self.restore_all(machine, &mut list);
        given
    }

    /// Empties the cache, gives back what was hidden in pieces and is not used, and asks for the flush that others left for later.
    pub fn drain<M: Machine>(&mut self, machine: &M) -> Restored {
        self.shrink(machine, u64::MAX);
        while let Some(unused) = self.frames.pool_unused() {
            let mut list = match unused {
                EmptyBlock::Pieces(pieces) => pieces,
                EmptyBlock::Region(region) => {
                    let mut list = ExtentList::new();
                    list.push(&mut self.frames, region);
                    list
                }
            };
            self.restore_all(machine, &mut list);
        }
        let batch = self.flusher.take_deferred();
        Restored::new(self.post(machine, batch))
    }

    /// Lifts free memory from below the low watermark to the high one, as far as the cache goes.
    pub(crate) fn relieve<M: Machine>(&mut self, machine: &M) {
        let marks = self.pool.watermarks;
        let free = self.frames.free_frames();
        if free < marks.low && !self.pool.cached.is_empty() {
            self.shrink(machine, (marks.high - free).div_ceil(512));
        }
    }
}
