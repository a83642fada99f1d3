//! Getting hidden memory that the pool does not have: from its cache, from whole free regions, or from what else is free. In steps, so that
//! nothing is locked while the flush is waited for: [`HostMemory::grow`], [`Growing::wait`], [`Grown::step`], [`Grown::finish`].

use core::fmt;

use crate::address::{GIGABLOCK_ORDER, REGION_ORDER};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::{Carved, Clean, Extent};
use crate::frame::extent_list::ExtentList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{Posted, Receipt};
use crate::window::Windows;

use super::scrubber::Scrubber;

/// Frames that are hidden at once when no whole region is free and single frames are asked for: one flush for all of them.
const PIECES_AT_ONCE: u64 = 32;

/// Why there was no hidden memory. Nothing was changed.
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
                self.scrubber.dirty = memory.complete(machine, receipt);
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
        let carved = match self.frames.carve_contiguous(order.max(REGION_ORDER)) {
            Ok(extent) => {
                let mut carved = ExtentList::new();
                carved.push(&mut self.frames, extent);
                carved
            }
            Err(error) if order >= REGION_ORDER => return Err(PrivateError::OutOfMemory(error)),
            Err(_) => self.carve_for_pool(order).map_err(PrivateError::OutOfMemory)?,
        };
        growing.posted = Some(self.hide(machine, carved).map_err(PrivateError::Hide)?);
        Ok(growing)
    }

    /// No whole region is free: takes the largest runs that there are, at least one of them of the order asked for.
    fn carve_for_pool(&mut self, order: u8) -> Result<ExtentList<Carved>, OutOfMemory> {
        let out_of_memory = self.frames.out_of_memory(1 << order);
        let largest = self.frames.largest_listed_run();
        let Some(largest) = largest.filter(|largest| *largest >= order) else {
            return Err(out_of_memory);
        };
        let low = self.pool.low_watermark();
        let spare = self.frames.free_frames().saturating_sub(low);
        let count = (1 << largest).max(PIECES_AT_ONCE).min(spare);
        if count < 1 << order {
            return Err(out_of_memory);
        }
        self.frames.carve_pieces(count)
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
