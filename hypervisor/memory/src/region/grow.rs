//! Getting hidden memory that the pool does not have: from its cache, from whole free regions, or from what else is free. In steps, so that
//! nothing is locked while the flush is waited for: [`HostMemory::grow`], [`Growing::wait`], [`Grown::step`], [`Grown::finish`].

use core::fmt;

use crate::address::{GIGABLOCK_ORDER, REGION_ORDER};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::{Clean, Extent};
use crate::frame::extent_list::ExtentList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{Posted, Receipt};
use crate::window::Windows;

use super::scrubber::Scrubber;

/// Frames that are hidden at once when no whole region is free and single frames are asked for: one flush for all of them.
const PIECES_AT_ONCE: u64 = 32;

/// Why there was no hidden memory. Nothing was changed, but that the shrinker may have given cached regions back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateError {
    /// More than a gigablock was asked for at once.
    TooLarge {
        /// log2 of the frames asked for.
        order: u8,
    },
    /// Memory, or a table to hide it with, is missing.
    OutOfMemory(OutOfMemory),
    /// The memory found cannot be hidden.
    Hide(HideCause),
}

impl fmt::Display for PrivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { order } => {
                write!(
                    f,
                    "hidden memory of 2^{order} pages: at most 1 GiB comes in one piece"
                )
            }
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Hide(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for PrivateError {}

/// Memory on its way into the pool: out of the direct map, its flush asked for.
#[derive(Debug)]
#[must_use = "unmapped memory comes back only through the pool"]
pub struct Growing {
    order: u8,
    cached: ExtentList<Clean>,
    posted: Option<Posted>,
}

impl Growing {
    /// Waits for the flush, without the lock of the memory subsystem.
    pub fn wait<M: Machine>(self, machine: &M) -> Grown {
        Grown {
            order: self.order,
            receipt: self.posted.map(|posted| posted.wait(machine)),
            scrubber: Scrubber::new(self.cached),
        }
    }
}

/// Hidden memory on its way into the pool: to be zeroed.
#[derive(Debug)]
#[must_use = "hidden memory comes back only through the pool"]
pub struct Grown {
    order: u8,
    receipt: Option<Receipt>,
    scrubber: Scrubber,
}

impl Grown {
    /// One step: opens the batch, or zeroes 2 MiB. False when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        match self.receipt.take() {
            Some(receipt) => {
                let opened = memory.complete(machine, receipt);
                self.scrubber.open(&mut memory.frames, opened);
                true
            }
            None => self.scrubber.step(memory, machine, windows),
        }
    }

    /// Does what is left, puts the memory into the pool, and takes from it what it was got for.
    pub fn finish<M: Machine>(
        mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> Extent<Clean> {
        while self.step(memory, machine, windows) {}
        memory.stats.pool_allocations += 1;
        let mut taken = None;
        while let Some(extent) = self.scrubber.clean.pop(&memory.frames) {
            if extent.is_regions() {
                taken = Some(memory.frames.pool_open(extent, self.order));
            } else {
                memory.frames.pool_add(extent);
            }
        }
        match taken.or_else(|| memory.frames.pool_take(self.order)) {
            Some(extent) => extent,
            None => panic!("broken invariant: the pool grew by too little"),
        }
    }
}

impl HostMemory<'_> {
    /// Gets `1 << order` frames, or more, for the pool.
    ///
    /// # Errors
    /// See [`PrivateError`].
    pub fn grow<M: Machine>(&mut self, machine: &M, order: u8) -> Result<Growing, PrivateError> {
        if order > GIGABLOCK_ORDER {
            return Err(PrivateError::TooLarge { order });
        }
        self.relieve(machine);
        let mut growing = Growing {
            order,
            cached: ExtentList::new(),
            posted: None,
        };
        if order <= REGION_ORDER {
            growing.cached = self.take_cached(machine, 1);
            if !growing.cached.is_empty() {
                return Ok(growing);
            }
        }
        growing.posted = Some(match self.frames.carve_contiguous(order.max(REGION_ORDER)) {
            Ok(extent) => {
                let mut carved = ExtentList::new();
                carved.push(&mut self.frames, extent);
                self.hide(machine, carved).map_err(PrivateError::Hide)?
            }
            Err(_) => self.hide_pieces(machine, order)?,
        });
        Ok(growing)
    }

    /// Whether the pool may grow for a guest that wants so many single frames more: what nobody uses, or what leaves the host its reserve. It grows by a
    /// region where one is free.
    pub(crate) fn may_grow(&self, pages: u64) -> Result<(), OutOfMemory> {
        let unused = self.frames.pool_free_frames() > 0 || !self.pool.cached.is_empty();
        let least = if self.frames.free_regions() > 0 { 512 } else { 1 };
        if unused || self.spare_frames() >= pages.max(least) {
            Ok(())
        } else {
            Err(self.frames.out_of_memory(pages))
        }
    }

    /// Free frames beyond those that the host keeps for itself.
    pub(crate) fn spare_frames(&self) -> u64 {
        self.frames
            .free_frames()
            .saturating_sub(self.pool.low_watermark())
    }

    /// No free run of whole regions is long enough: hides the largest smaller runs that there are, at least one of them of the order asked for.
    /// Where that leaves no frames for the tables of its splits, only what was asked for.
    fn hide_pieces<M: Machine>(&mut self, machine: &M, order: u8) -> Result<Posted, PrivateError> {
        let least = 1 << order;
        let out_of_memory = self.frames.out_of_memory(least);
        let largest = self
            .frames
            .largest_listed_run()
            .filter(|largest| *largest >= order);
        let spare = self.spare_frames();
        let Some(largest) = largest.filter(|_| spare >= least) else {
            return Err(PrivateError::OutOfMemory(out_of_memory));
        };
        let many = (1 << largest).max(PIECES_AT_ONCE).min(spare);
        let pieces = self
            .frames
            .carve_pieces(many)
            .map_err(PrivateError::OutOfMemory)?;
        match self.hide(machine, pieces) {
            Err(HideCause::OutOfMemory(_)) => {
                let piece = self
                    .frames
                    .carve_pieces(least)
                    .map_err(PrivateError::OutOfMemory)?;
                self.hide(machine, piece).map_err(PrivateError::Hide)
            }
            posted => posted.map_err(PrivateError::Hide),
        }
    }

    /// Takes `1 << order` frames of hidden, zeroed memory, aligned to their size, growing the pool if it has to. It waits for the flush
    /// with all of memory in its hands: whoever shares that with other CPUs takes the steps one by one.
    ///
    /// # Errors
    /// See [`PrivateError`].
    pub fn allocate_private<M: Machine>(
        &mut self,
        machine: &M,
        windows: &mut Windows,
        order: u8,
    ) -> Result<Extent<Clean>, PrivateError> {
        match self.take_private(order) {
            Some(extent) => Ok(extent),
            None => {
                let grown = self.grow(machine, order)?.wait(machine);
                Ok(grown.finish(self, machine, windows))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::region::Watermarks;
    use std::vec::Vec;

    /// Leaves the host so many frames beyond its reserve; whether the pool may grow for so many pages then.
    fn may_grow(memory: &mut HostMemory<'_>, spare: u64, pages: u64) -> bool {
        let low = memory.frames.free_frames() - spare;
        memory.set_watermarks(Watermarks { low, high: low });
        match memory.may_grow(pages) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.wanted, pages * 4096);
                false
            }
        }
    }

    #[test]
    fn the_pool_may_grow_by_what_nobody_uses_or_what_the_host_can_spare() {
        let (machine, mut memory, mut windows) = Fake::boot();
        // It grows by a region where one is free.
        for (spare, pages, enough) in [
            (511, 1, false),
            (512, 1, true),
            (512, 512, true),
            (512, 513, false),
        ] {
            assert_eq!(may_grow(&mut memory, spare, pages), enough, "{spare} for {pages}");
        }
        let regions = memory.frames.free_regions();
        let regions = memory.frames.carve(regions).unwrap();
        for (spare, pages, enough) in [(0, 1, false), (1, 1, true), (1, 2, false)] {
            assert_eq!(may_grow(&mut memory, spare, pages), enough, "{spare} for {pages}");
        }
        memory.frames.uncarve(regions);
        // Of a region that is hidden for one frame the others are unused.
        let mut used: Vec<_> = (0..511)
            .map(|_| memory.allocate_private(machine, &mut windows, 0).unwrap())
            .collect();
        assert_eq!(memory.frames.pool_free_frames(), 1);
        assert!(may_grow(&mut memory, 0, 1000));
        used.push(memory.take_private(0).unwrap());
        assert!(!may_grow(&mut memory, 0, 1000));
        // When all of them are back, the region is cached.
        memory.set_cache(1);
        for extent in used {
            memory.give_back(machine, extent);
        }
        assert_eq!(
            (memory.frames.pool_free_frames(), memory.pool.cached_regions()),
            (0, 1)
        );
        assert!(may_grow(&mut memory, 0, 1000));
    }
}
