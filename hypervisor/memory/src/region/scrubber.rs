//! Zeroing hidden memory through windows, 2 MiB a step.

use crate::address::{Pfn, REGION_ORDER};
use crate::frame::FrameTable;
use crate::frame::extent::{Clean, Dirty, Extent};
use crate::frame::extent_list::ExtentList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::Opened;
use crate::window::Windows;

/// Memory that is to be zeroed, and what of it is.
#[derive(Debug, Default)]
#[must_use = "memory in a scrubber that is dropped is lost"]
pub(crate) struct Scrubber {
    /// Out of the direct map, and flushed: to become dirty.
    opened: Opened,
    pub(crate) dirty: ExtentList<Dirty>,
    pub(crate) clean: ExtentList<Clean>,
    /// An extent of more than one region, and how many of its regions are zeroed.
    current: Option<(Extent<Dirty>, u64)>,
}

impl HostMemory<'_> {
    /// Overwrites hidden memory with zeros, through windows.
    pub fn scrub<M: Machine>(
        &mut self,
        machine: &M,
        windows: &mut Windows,
        extent: Extent<Dirty>,
    ) -> Extent<Clean> {
        let mut scrubber = Scrubber::default();
        scrubber.dirty.push(&mut self.frames, extent);
        while scrubber.step(self, machine, windows) {}
        match scrubber.clean.pop(&self.frames) {
            Some(extent) => extent,
            None => panic!("broken invariant: an extent was lost in its scrub"),
        }
    }

    /// Takes hidden memory back from its user: zeroes it and puts it into the pool. All of it is zeroed with all of memory in its hands:
    /// whoever shares that with other CPUs takes more than 2 MiB back step by step ([`Freeing`]).
    pub fn free_private<M: Machine>(&mut self, machine: &M, windows: &mut Windows, extent: Extent<Dirty>) {
        let mut freeing = Freeing::new(self, extent);
        while freeing.step(self, machine, windows) {}
    }
}

/// Hidden memory on its way back into the pool: to be zeroed.
#[derive(Debug)]
#[must_use = "hidden memory comes back only through the pool"]
pub struct Freeing(Scrubber);

impl Freeing {
    /// Takes hidden memory back from its user.
    pub fn new(memory: &mut HostMemory<'_>, extent: Extent<Dirty>) -> Self {
        let mut scrubber = Scrubber::default();
        scrubber.dirty.push(&mut memory.frames, extent);
        Self(scrubber)
    }

    /// One step: zeroes 2 MiB, or puts all of it into the pool. False when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if self.0.step(memory, machine, windows) {
            return true;
        }
        let Some(extent) = self.0.clean.pop(&memory.frames) else {
            return false;
        };
        memory.give_back(machine, extent);
        true
    }
}

impl Scrubber {
    /// A scrubber with nothing to do; `clean` was zeroed before.
    pub(crate) fn new(clean: ExtentList<Clean>) -> Self {
        Self {
            clean,
            ..Self::default()
        }
    }

    /// First frame and order of all that it has.
    pub(crate) fn extents<'a>(
        &self,
        frames: &'a FrameTable<'_>,
    ) -> impl Iterator<Item = (Pfn, u8)> + use<'a> {
        let current = self
            .current
            .as_ref()
            .map(|(extent, _)| (extent.pfn(), extent.order()));
        let listed = self.dirty.extents(frames).chain(self.clean.extents(frames));
        listed.chain(current)
    }

    /// Takes over all that another one has.
    pub(crate) fn append(&mut self, frames: &mut FrameTable<'_>, other: &mut Self) {
        self.dirty.append(frames, core::mem::take(&mut other.dirty));
        self.clean.append(frames, core::mem::take(&mut other.clean));
        if let Some((extent, _)) = other.current.take() {
            self.dirty.push(frames, extent);
        }
    }

    /// Takes extents from a batch whose flush was acknowledged, the first of them at once.
    pub(crate) fn open(&mut self, frames: &mut FrameTable<'_>, mut opened: Opened) {
        self.dirty = opened.take_some(frames);
        self.opened = opened;
    }

    /// Zeroes one region, or smaller extents of as much in all, through one window; or takes some more extents from an opened batch. False when nothing
    /// was left to do.
    pub(crate) fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        let start = machine.now();
        let next = self
            .current
            .take()
            .or_else(|| self.dirty.pop(&memory.frames).map(|extent| (extent, 0)));
        let Some((extent, done)) = next else {
            let opened = core::mem::take(&mut self.opened);
            self.open(&mut memory.frames, opened);
            return !self.dirty.is_empty();
        };
        if extent.is_regions() {
            let pfn = extent.pfn().add(done << REGION_ORDER);
            memory.stats.bytes_scrubbed += windows.open(machine, pfn, REGION_ORDER).zero();
            if (done + 1) << REGION_ORDER < extent.frames() {
                self.current = Some((extent, done + 1));
            } else {
                self.clean.push(&mut memory.frames, extent.scrubbed());
            }
        } else {
            self.pieces(memory, machine, windows, extent);
        }
        memory.costs.scrub += machine.now().wrapping_sub(start);
        true
    }

    /// Zeroes `first` and as many more extents below a region as a window has room for.
    fn pieces<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        first: Extent<Dirty>,
    ) {
        let mut shown = ExtentList::new();
        let mut window = windows.open_pages(machine);
        let mut next = Some(first);
        while let Some(extent) = next.take() {
            if window.add(extent.pfn(), extent.order()) {
                shown.push(&mut memory.frames, extent);
                next = self.dirty.pop(&memory.frames);
            } else {
                self.current = Some((extent, 0));
            }
        }
        memory.stats.bytes_scrubbed += window.zero();
        drop(window);
        while let Some(extent) = shown.pop(&memory.frames) {
            self.clean.push(&mut memory.frames, extent.scrubbed());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::{Fake, TICK};

    #[test]
    fn the_time_of_each_step_is_added_up() {
        let (machine, mut memory, mut windows) = Fake::boot();
        memory.costs.scrub = 5;
        for round in 1..=2 {
            // Not cached, so it is hidden anew.
            let clean = memory.allocate_private(machine, &mut windows, 0).unwrap();
            let before = memory.costs.scrub;
            memory.free_private(machine, &mut windows, clean.used());
            assert_eq!(memory.costs.scrub, before + TICK, "round {round}");
            assert_eq!(memory.costs.scrub, 5 + round * 2 * TICK);
        }
    }
}
