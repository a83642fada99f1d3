//! What behaviours are made of.

use memory::address::{PAGE_SIZE, Pfn};
use memory::frame::extent::{Clean, Extent};
use memory::region::PrivateError;
use memory::stats::Stats;

use crate::{Failed, Place};

/// What must be the same before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    leaves: [u64; 3],
    free_frames: u64,
    free_regions: u64,
    holes: u64,
    pool_free: u64,
}

impl State {
    /// The state of a place.
    pub fn of<P: Place>(place: &mut P) -> Self {
        let leaves = place.leaves();
        place.with(|memory, _| Self {
            leaves,
            free_frames: memory.frames.free_frames(),
            free_regions: memory.frames.free_regions(),
            holes: memory.frames.holes().0,
            pool_free: memory.frames.pool_free_frames(),
        })
    }

    /// Compares with a later state.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, later: &Self) -> Result<(), Failed> {
        let [g1, m2, k4] = later.leaves;
        equal("1G leaves of the direct map", g1, self.leaves[0])?;
        equal("2M leaves of the direct map", m2, self.leaves[1])?;
        equal("4K leaves of the direct map", k4, self.leaves[2])?;
        equal("free frames", later.free_frames, self.free_frames)?;
        equal("free regions", later.free_regions, self.free_regions)?;
        equal("regions out of the direct map", later.holes, self.holes)?;
        equal("free frames of the pool", later.pool_free, self.pool_free)
    }
}

/// The two must be equal.
pub(crate) fn equal(what: &'static str, found: u64, wanted: u64) -> Result<(), Failed> {
    if found == wanted {
        Ok(())
    } else {
        Err(Failed { what, found, wanted })
    }
}

/// Must be so.
pub(crate) fn must(what: &'static str, holds: bool) -> Result<(), Failed> {
    equal(what, holds.into(), 1)
}

/// Takes an extent, growing the pool if it must; the flush is waited for without the lock.
pub(crate) fn allocate<P: Place>(place: &mut P, order: u8) -> Result<Extent<Clean>, PrivateError> {
    if let Some(extent) = place.with(|memory, _| memory.take_private(order)) {
        return Ok(extent);
    }
    let machine = place.machine();
    let growing = place.with(|memory, _| memory.grow(&machine, order))?;
    let mut grown = growing.wait(&machine);
    while place.with(|memory, windows| grown.step(memory, &machine, windows)) {}
    Ok(place.with(|memory, windows| grown.finish(memory, &machine, windows)))
}

/// Takes an extent that there must be.
pub(crate) fn take<P: Place>(place: &mut P, order: u8) -> Result<Extent<Clean>, Failed> {
    allocate(place, order).map_err(|_| Failed {
        what: "an extent of this order was refused",
        found: order.into(),
        wanted: order.into(),
    })
}

/// Gives an extent back after use.
pub(crate) fn free<P: Place>(place: &mut P, extent: Extent<Clean>) {
    let machine = place.machine();
    place.with(|memory, windows| memory.free_private(&machine, windows, extent.used()));
}

/// Empties the pool's cache and waits for what is left to be flushed.
pub(crate) fn drain<P: Place>(place: &mut P) {
    let machine = place.machine();
    let restored = place.with(|memory, _| memory.drain(&machine));
    let flushed = restored.wait(&machine);
    place.with(|memory, _| flushed.release(memory, &machine));
}

/// The counters.
pub(crate) fn stats<P: Place>(place: &mut P) -> Stats {
    place.with(|memory, _| memory.stats())
}

/// The extent is out of the direct map, at both ends and in the middle.
pub(crate) fn hidden<P: Place>(place: &P, pfn: Pfn, order: u8) -> Result<(), Failed> {
    let frames = 1_u64 << order;
    for frame in [0, frames / 2, frames - 1] {
        let leaf = place.leaf(pfn.add(frame));
        equal(
            "bytes of the leaf that reaches a hidden frame",
            leaf.unwrap_or(0),
            0,
        )?;
    }
    Ok(())
}

/// The extent is all zero, as far as 64 bytes of each page show.
pub(crate) fn zeroed<P: Place>(place: &mut P, extent: &Extent<Clean>) -> Result<(), Failed> {
    let machine = place.machine();
    for page in 0..extent.frames() {
        let mut bytes = [1; 64];
        let offset = page * PAGE_SIZE + (page * 64) % PAGE_SIZE;
        let read = place.with(|_, windows| extent.read(&machine, windows, offset, &mut bytes));
        must("an extent can be read by its owner", read.is_ok())?;
        let dirty = bytes.iter().filter(|byte| **byte != 0).count();
        equal("bytes that are not zero in new memory", dirty as u64, 0)?;
    }
    Ok(())
}
