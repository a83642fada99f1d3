//! Hidden memory without a guest: the pool, its cache, and the magazines.

use memory::address::Pfn;
use memory::frame::FrameState;
use memory::frame::extent::{Clean, Dirty, Extent};
use memory::region::{Growing, Grown, PrivateError};

use super::{World, judged};
use crate::check::{Rule, Violation};
use crate::tags::Writer;

/// Hidden memory on its way into the pool.
pub(super) enum Growth {
    Growing(Growing),
    Grown(Grown),
}

/// Hidden memory that somebody holds.
pub(super) enum Private {
    /// As it was handed out.
    Clean(Extent<Clean>),
    /// With something in it.
    Used(Extent<Dirty>),
}

impl Private {
    fn extent(&self) -> (Pfn, u64) {
        match self {
            Self::Clean(extent) => (extent.pfn(), extent.frames()),
            Self::Used(extent) => (extent.pfn(), extent.frames()),
        }
    }
}

impl World<'_> {
    pub(super) fn grow(&mut self, cpu: usize, order: u8) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let before = self.snapshot();
        match self.memory.grow(&cpu, order) {
            Ok(growing) => {
                self.growing.push(Growth::Growing(growing));
                Ok(())
            }
            Err(_) if self.has_shrunk(&before) => self.grow(cpu.index(), order),
            Err(error) => self.refused_private(&before, error),
        }
    }

    fn refused_private(
        &mut self,
        before: &crate::Snapshot,
        error: PrivateError,
    ) -> Result<(), Vec<Violation>> {
        self.refused += 1;
        self.unchanged(before, &format!("the pool could not grow ({error})"))
    }

    pub(super) fn advance_growth(&mut self, cpu: usize, which: usize) -> Result<(), Vec<Violation>> {
        if self.growing.is_empty() {
            return Ok(());
        }
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let which = which % self.growing.len();
        match self.growing.swap_remove(which) {
            Growth::Growing(growing) => self.growing.push(Growth::Grown(growing.wait(&cpu))),
            Growth::Grown(mut grown) => {
                if grown.step(&mut self.memory, &cpu, windows) {
                    self.growing.push(Growth::Grown(grown));
                } else {
                    let extent = grown.finish(&mut self.memory, &cpu, windows);
                    self.handed_out(extent)?;
                }
            }
        }
        self.judge()
    }

    pub(super) fn take_private(&mut self, cpu: usize, order: u8) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let before = self.snapshot();
        let windows = &mut self.windows[cpu.index()];
        match self.memory.allocate_private(&cpu, windows, order) {
            Ok(extent) => self.handed_out(extent),
            Err(_) if self.has_shrunk(&before) => self.take_private(cpu.index(), order),
            Err(error) => self.refused_private(&before, error),
        }
    }

    /// What is handed out is hidden, zeroed, and nobody else's.
    fn handed_out(&mut self, extent: Extent<Clean>) -> Result<(), Vec<Violation>> {
        let mut broken = Vec::new();
        let (first, frames) = (extent.pfn(), extent.frames());
        for pfn in (0..frames).map(|frame| first.add(frame)) {
            let writer = self.machine.writer(pfn);
            if writer != Writer::Zeroed {
                let what = format!("{} is handed out, written last by {writer:?}", pfn.hpa());
                broken.push(Violation {
                    rule: Rule::NothingLeaks,
                    what,
                });
            }
            let state = self.memory.frames.state(pfn);
            if !matches!(state, FrameState::Hidden { .. }) {
                let what = format!("{} is handed out as hidden and is {state:?}", pfn.hpa());
                broken.push(Violation {
                    rule: Rule::Records,
                    what,
                });
            }
        }
        let overlaps = |other: &Private| {
            let (start, length) = other.extent();
            start < first.add(frames) && first < start.add(length)
        };
        if self.private.iter().any(overlaps) {
            let what = format!("{} is handed out twice", first.hpa());
            broken.push(Violation {
                rule: Rule::OneOwner,
                what,
            });
        }
        self.private.push(Private::Clean(extent));
        judged(broken)
    }

    pub(super) fn use_private(&mut self, which: usize) {
        if self.private.is_empty() {
            return;
        }
        let which = which % self.private.len();
        let used = match self.private.swap_remove(which) {
            Private::Clean(extent) => {
                self.machine.used_by_guest(extent.pfn(), extent.frames());
                extent.used()
            }
            Private::Used(extent) => extent,
        };
        self.private.push(Private::Used(used));
    }

    pub(super) fn free_private(&mut self, cpu: usize, which: usize) {
        if self.private.is_empty() {
            return;
        }
        let cpu = self.cpu(cpu);
        let which = which % self.private.len();
        match self.private.swap_remove(which) {
            Private::Clean(extent) => self.memory.give_back(&cpu, extent),
            Private::Used(extent) => {
                let windows = &mut self.windows[cpu.index()];
                self.memory.free_private(&cpu, windows, extent);
            }
        }
        // What comes back is gone again at once.
        self.take_all();
    }

    pub(super) fn take_frame(&mut self, cpu: usize) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let magazine = &mut self.magazines[cpu.index()];
        if magazine.is_empty() {
            let before = crate::Snapshot::of(self.machine, &self.memory);
            if let Err(error) = magazine.refill(&mut self.memory, &cpu, windows) {
                if self.has_shrunk(&before) {
                    return self.take_frame(cpu.index());
                }
                self.refused += 1;
                let difference = before.difference(&self.snapshot());
                // What the magazine had counted by itself is among the counters now.
                return match difference.filter(|difference| !difference.starts_with("counters")) {
                    None => Ok(()),
                    Some(difference) => judged(vec![Violation {
                        rule: Rule::RefusedChangesNothing,
                        what: format!("after a magazine could not be filled ({error}): {difference}"),
                    }]),
                };
            }
        }
        if self.magazines[cpu.index()]
            .take()
            .map(|extent| self.handed_out(extent))
            .transpose()?
            .is_none()
        {
            // Only used frames.
            let windows = &mut self.windows[cpu.index()];
            self.magazines[cpu.index()].settle(&cpu, windows);
        }
        Ok(())
    }

    pub(super) fn put_frame(&mut self, cpu: usize, which: usize) {
        self.use_private(which);
        let Some(Private::Used(extent)) = self.private.pop() else {
            return;
        };
        let cpu = self.cpu(cpu);
        let magazine = &mut self.magazines[cpu.index()];
        if let Err(extent) = magazine.put(extent) {
            magazine.settle(&cpu, &mut self.windows[cpu.index()]);
            self.private.push(Private::Used(extent));
        }
    }

    pub(super) fn trim_magazine(&mut self, cpu: usize, keep: usize) {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        self.magazines[cpu.index()].trim(&mut self.memory, &cpu, windows, keep);
        self.take_all();
    }

    /// Empties the cache; the flush that others left for later is done.
    pub(super) fn drain(&mut self, cpu: usize) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let restored = self.memory.drain(&cpu);
        self.judge()?;
        let flushed = restored.wait(&cpu);
        self.judge()?;
        flushed.release(&mut self.memory, &cpu);
        self.judge()
    }

    /// Everything is given back, and nothing is kept.
    pub(super) fn end_pool(&mut self) -> Result<(), Vec<Violation>> {
        while !self.growing.is_empty() {
            self.advance_growth(0, 0)?;
        }
        while !self.private.is_empty() {
            self.free_private(0, 0);
            self.judge()?;
        }
        for cpu in 0..self.machine.cpus() {
            self.trim_magazine(cpu, 0);
            self.judge()?;
        }
        self.memory.set_cache(0);
        self.drain(0)
    }
}
