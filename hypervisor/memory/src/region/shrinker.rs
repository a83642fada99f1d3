//! Giving cached regions back to the host, because memory is low or because someone asks.

use crate::address::PAGE_SIZE;
use crate::frame::allocator::{HostFrames, OutOfMemory};
use crate::host::HostMemory;
use crate::machine::Machine;

use super::Restored;

/// Regions that are given back at a time where others wait for memory. Taking and restoring a region takes some hundred instructions
/// (docs/performance.md), so this takes less time than zeroing one.
pub const SHRINK_STEP: u64 = 512;

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
    /// back first; also when there would be no memory otherwise, as many as it takes.
    ///
    /// # Errors
    /// When no free run is large enough even then, or `order` exceeds [`crate::frame::allocator::MAX_ORDER`].
    pub fn allocate<M: Machine>(&mut self, machine: &M, order: u8) -> Result<HostFrames, OutOfMemory> {
        if let Some(frames) = self.frames.allocate_listed(order) {
            return Ok(frames);
        }
        self.relieve(machine);
        loop {
            match self.frames.allocate(order) {
                Err(_) if self.shrink(machine, SHRINK_STEP) > 0 => {}
                result => return result,
            }
        }
    }

    /// Gives up to `regions` regions back to the host: restored, merged, free. First cached ones; then blocks of which pieces are hidden that
    /// nobody uses, each as one, since its leaf is whole again. More only where a whole gigablock cannot be cut up for want of a table.
    /// Returns how many.
    pub fn shrink<M: Machine>(&mut self, machine: &M, regions: u64) -> u64 {
        let mut list = self.uncache(machine, regions, true);
        let mut given = list.frames() / 512;
        self.restore_all(machine, &mut list);
        while given < regions
            && let Some(unused) = self.frames.pool_unused()
        {
            let mut list = unused.into_list(&mut self.frames);
            self.restore_all(machine, &mut list);
            given += 1;
        }
        self.stats.regions_shrunk += given;
        given
    }

    /// Gives everything back that nobody uses, and asks for the flush that others left for later. Where there may be much of it, and others
    /// wait for memory, [`HostMemory::shrink`] comes first, in steps.
    pub fn drain<M: Machine>(&mut self, machine: &M) -> Restored {
        self.shrink(machine, u64::MAX);
        let batch = self.flusher.take_deferred();
        Restored::new(self.post(machine, batch))
    }

    /// Lifts free memory from below the low watermark to the high one, as far as what nobody uses goes; by so much in one call that nobody waits
    /// long, and further in the next.
    pub(crate) fn relieve<M: Machine>(&mut self, machine: &M) {
        let marks = self.pool.watermarks;
        self.pool.relieving |= self.frames.free_frames() < marks.low;
        if !self.pool.relieving {
            return;
        }
        let mut left = SHRINK_STEP;
        // Twice where there are pieces: a block of them is less than a region.
        while let missing @ 1.. = marks.high.saturating_sub(self.frames.free_frames()) {
            let given = self.shrink(machine, missing.div_ceil(512).min(left));
            left = left.saturating_sub(given);
            if left == 0 {
                return;
            }
            if given == 0 {
                break;
            }
        }
        self.pool.relieving = false;
    }
}
