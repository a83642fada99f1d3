//! Taking a guest's memory back: revoke, flush, scrub, restore, merge, free. Nothing here can fail, allocates, or splits.
//! [`Revoked`], [`Teardown`], [`Restored`], [`Flushed`] are the steps; nothing is locked while the flush is waited for.

use crate::frame::list::{Clean, Private, RegionList};
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{FlushBatch, Posted, Receipt};
use crate::window::Windows;

use super::GuestMemory;
use super::second_stage::CutSecondStage;

/// The word of the virtualization code that a guest's second-stage translations can't be used any more: all its vCPUs have stopped, and
/// its tag (ASID, VPID) is either flushed on every CPU or will be before any CPU runs under it again.
#[derive(Debug)]
#[must_use]
pub struct GuestFlushed {
    guest: GuestId,
}

impl GuestFlushed {
    /// Says so for one guest. Only the code that owns the guest's tag can know; a wrong word breaks rule 6 of the design.
    pub fn new(guest: GuestId) -> Self {
        Self { guest }
    }
}

/// A guest's memory whose second stage has been cut; cached translations may still lead to it.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct Revoked {
    id: GuestId,
    /// What cutting the second stage took; added to the costs at the end.
    ticks: u64,
    tables: CutSecondStage,
    regions: RegionList<Private>,
}

impl GuestMemory {
    /// Cuts the second stage. The guest's vCPUs must not run again.
    pub fn revoke<M: Machine>(self, machine: &M) -> Revoked {
        let start = machine.now();
        let tables = self.tables.cut(machine);
        Revoked {
            id: self.id,
            ticks: machine.now().wrapping_sub(start),
            tables,
            regions: self.regions,
        }
    }
}

impl Revoked {
    /// Starts giving the memory back, now that no translation leads to it.
    ///
    /// # Panics
    /// When the proof is another guest's.
    pub fn reclaim(self, flushed: GuestFlushed) -> Teardown {
        assert!(
            flushed.guest == self.id,
            "broken invariant: the wrong guest was flushed"
        );
        Teardown {
            ticks: self.ticks,
            tables: self.tables,
            regions: self.regions,
            clean: RegionList::new(),
            batch: FlushBatch::new(),
        }
    }
}

/// A teardown on its way, in steps, so that whoever drives it holds no lock for longer than the zeroing of 2 MiB takes.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct Teardown {
    ticks: u64,
    tables: CutSecondStage,
    regions: RegionList<Private>,
    clean: RegionList<Clean>,
    batch: FlushBatch,
}

impl Teardown {
    /// One step: scrubs a region, or, when all are clean, puts those of one gigablock back into the direct map and frees them. False
    /// when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        let (start, scrubbed) = (machine.now(), memory.costs.scrub);
        let more = self.advance(memory, machine, windows);
        memory.costs.restore += machine.now().wrapping_sub(start) - (memory.costs.scrub - scrubbed);
        more
    }

    fn advance<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if let Some(region) = self.regions.pop(&memory.frames) {
            let region = region.revoked(&mut memory.frames);
            let region = memory.scrub(machine, windows, region);
            self.clean.push(&mut memory.frames, region);
            return true;
        }
        let HostMemory {
            frames,
            direct_map,
            stats,
            ..
        } = memory;
        direct_map.restore(machine, frames, stats, &mut self.clean, &mut self.batch)
    }

    /// Does what is left, frees the guest's tables, and asks for the one flush after which the host's tables that were merged away
    /// are freed.
    pub fn finish<M: Machine>(
        mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> Restored {
        while self.step(memory, machine, windows) {}
        let start = machine.now();
        self.tables.free(machine, &mut memory.frames);
        let posted = memory.post(machine, self.batch);
        memory.costs.restore += self.ticks + machine.now().wrapping_sub(start);
        Restored { posted }
    }
}

/// A guest's memory is the host's again; the flush after it was asked for.
#[derive(Debug)]
#[must_use = "the flush is to be waited for"]
pub struct Restored {
    posted: Posted,
}

impl Restored {
    /// Waits for the flush, without the lock of the memory subsystem.
    pub fn wait<M: Machine>(self, machine: &M) -> Flushed {
        Flushed {
            receipt: self.posted.wait(machine),
        }
    }
}

/// The flush of a teardown was acknowledged.
#[derive(Debug)]
#[must_use = "tables are freed by its last step"]
pub struct Flushed {
    receipt: Receipt,
}

impl Flushed {
    /// Frees the tables of the host that were merged away, as soon as every CPU has really flushed.
    pub fn release<M: Machine>(self, memory: &mut HostMemory<'_>, machine: &M) {
        let start = machine.now();
        let waited = self.receipt.ticks();
        let hidden = memory.complete(machine, self.receipt);
        debug_assert!(hidden.is_empty());
        memory.costs.restore += waited + machine.now().wrapping_sub(start);
    }
}
