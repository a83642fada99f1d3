//! Magazines: single hidden frames ready on a CPU, in front of the pool.
//!
//! Whoever allocates takes a zeroed frame from the stack of its CPU, whoever frees puts a used one on another; neither touches anything
//! that CPUs share. Only when the first is empty the used ones are scrubbed, all through one window, and only when there are none the
//! pool is asked for a batch. So two users that alternate, one taking what the other gives back, flush nothing.

use heapless::Vec;

use crate::frame::extent::{Clean, Dirty, Extent};
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::window::Windows;

use super::{Growing, Grown, PrivateError};

/// Frames that go to and from the pool at once. The pool's lock is one atomic write to take and one to release, and a region, which two
/// more takes get, fills four batches: with those, too, there is one write in 46 operations. Half of it would be one in 27.
const BATCH: usize = 128;
/// Frames that are ready at most. Twice a batch: after a batch came or went, it takes as many operations until the next.
const READY: usize = 2 * BATCH;

/// One CPU's hidden frames. Owned by that CPU; [`Magazine::drain`] empties it.
#[derive(Debug, Default)]
#[must_use = "frames in a magazine that is dropped are lost"]
pub struct Magazine {
    ready: Vec<Extent<Clean>, READY>,
    used: Vec<Extent<Dirty>, BATCH>,
    /// Counted here and added to the pool's counters when that is at hand.
    allocations: u64,
    frees: u64,
    scrubbed: u64,
}

impl Magazine {
    /// Frames that go to and from the pool at once.
    pub const BATCH: usize = BATCH;

    /// An empty magazine.
    pub const fn new() -> Self {
        Self {
            ready: Vec::new(),
            used: Vec::new(),
            allocations: 0,
            frees: 0,
            scrubbed: 0,
        }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.ready.len() + self.used.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a zeroed frame; `None` when none is ready: then [`Magazine::refill`].
    pub fn take(&mut self) -> Option<Extent<Clean>> {
        let extent = self.ready.pop()?;
        self.allocations += 1;
        Some(extent)
    }

    /// The same for a guest's memory, which is not counted as the pool's allocations are. Used frames are made ready first if they must be.
    pub(crate) fn take_for_guest<M: Machine>(
        &mut self,
        machine: &M,
        windows: &mut Windows,
    ) -> Option<Extent<Clean>> {
        if self.ready.is_empty() {
            self.settle(machine, windows);
        }
        self.ready.pop()
    }

    /// Puts a used frame in.
    ///
    /// # Errors
    /// Gives it back when there is no room (then [`Magazine::settle`]), or when it is not a single frame.
    pub fn put(&mut self, extent: Extent<Dirty>) -> Result<(), Extent<Dirty>> {
        if extent.order() != 0 {
            return Err(extent);
        }
        self.used.push(extent)?;
        self.frees += 1;
        Ok(())
    }

    /// Scrubs the used frames through one window and makes them ready, as far as there is room. Needs no lock.
    pub fn settle<M: Machine>(&mut self, machine: &M, windows: &mut Windows) {
        let count = self.used.len().min(READY - self.ready.len());
        let first = self.used.len() - count;
        let mut window = windows.open_pages(machine);
        for extent in &self.used[first..] {
            let added = window.add(extent.pfn(), 0);
            assert!(added, "broken invariant: a magazine is larger than a window");
        }
        self.scrubbed += window.zero();
        drop(window);
        while self.used.len() > first
            && let Some(extent) = self.used.pop()
        {
            // There is room: `count` says so.
            if let Err(extent) = self.ready.push(extent.scrubbed()) {
                drop(extent);
                break;
            }
        }
    }

    /// Makes frames ready: the used ones, or else a batch from the pool, which grows if it has to. It waits for the flush with all of memory
    /// in its hands: whoever shares that with other CPUs takes the steps one by one ([`Magazine::settle`], [`Magazine::restock`]).
    ///
    /// # Errors
    /// When there is no used frame and the pool has none, either.
    pub fn refill<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> Result<(), PrivateError> {
        self.settle(machine, windows);
        match self.restock(memory, machine)? {
            None => Ok(()),
            Some(growing) => {
                self.grown(growing.wait(machine), memory, machine, windows);
                Ok(())
            }
        }
    }

    /// Makes a batch ready from what the pool has. `None` when there is something ready now; otherwise the pool grows, for
    /// [`Magazine::grown`].
    ///
    /// # Errors
    /// When the pool has none and can't grow.
    pub fn restock<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
    ) -> Result<Option<Growing>, PrivateError> {
        self.report(memory);
        self.fill(memory);
        if self.ready.is_empty() {
            memory.grow(machine, 0).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Makes a batch ready from what the pool has grown by; at most 2 MiB of work.
    pub fn grown<M: Machine>(
        &mut self,
        grown: Grown,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) {
        let extent = grown.finish(memory, machine, windows);
        memory.stats.pool_allocations -= 1;
        if let Err(extent) = self.ready.push(extent) {
            memory.give_back(machine, extent);
            memory.stats.pool_frees -= 1;
        }
        self.fill(memory);
    }

    /// Fills up to a batch without growing the pool.
    fn fill(&mut self, memory: &mut HostMemory<'_>) {
        while self.ready.len() < BATCH
            && let Some(extent) = memory.take_private(0)
        {
            memory.stats.pool_allocations -= 1;
            if let Err(extent) = self.ready.push(extent) {
                // There is room: the length says so.
                drop(extent);
                break;
            }
        }
    }

    /// Gives frames back to the pool until at most `keep` are ready and none is used.
    pub fn trim<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        keep: usize,
    ) {
        self.report(memory);
        while let Some(extent) = self.used.pop() {
            memory.free_private(machine, windows, extent);
            memory.stats.pool_frees -= 1;
        }
        while self.ready.len() > keep
            && let Some(extent) = self.ready.pop()
        {
            memory.give_back(machine, extent);
            memory.stats.pool_frees -= 1;
        }
    }

    /// Gives everything back to the pool.
    pub fn drain<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M, windows: &mut Windows) {
        self.trim(memory, machine, windows, 0);
    }

    /// Adds what it has counted to the pool's counters.
    pub(crate) fn report(&mut self, memory: &mut HostMemory<'_>) {
        memory.stats.pool_allocations += core::mem::take(&mut self.allocations);
        memory.stats.pool_frees += core::mem::take(&mut self.frees);
        memory.stats.bytes_scrubbed += core::mem::take(&mut self.scrubbed);
    }
}
