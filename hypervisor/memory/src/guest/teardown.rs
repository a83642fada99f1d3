//! Taking a guest's memory back: revoke, flush, scrub, restore, merge, free. Nothing here can fail, allocates, or splits.

use crate::frame::list::{Private, RegionList};
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::FlushBatch;
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
    tables: CutSecondStage,
    regions: RegionList<Private>,
}

impl GuestMemory {
    /// Cuts the second stage. The guest's vCPUs must not run again.
    pub fn revoke<M: Machine>(self, machine: &M) -> Revoked {
        Revoked {
            id: self.id,
            tables: self.tables.cut(machine),
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
            tables: self.tables,
            regions: self.regions,
            batch: FlushBatch::new(),
        }
    }
}

/// A teardown on its way, one region a step, so that whoever drives it holds no lock for longer than 2 MiB of work.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct Teardown {
    tables: CutSecondStage,
    regions: RegionList<Private>,
    batch: FlushBatch,
}

impl Teardown {
    /// Scrubs one region, puts it back into the direct map and frees it. False when none was left.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        let Some(region) = self.regions.pop(&memory.frames) else {
            return false;
        };
        let region = region.revoked(&mut memory.frames);
        let region = memory.scrub(machine, windows, region);
        memory.direct_map.restore(
            machine,
            &mut memory.frames,
            &mut memory.stats,
            region,
            &mut self.batch,
        );
        true
    }

    /// Does what is left, and frees the tables: the guest's at once, the host's that were merged away after one flush.
    pub fn finish<M: Machine>(mut self, memory: &mut HostMemory<'_>, machine: &M, windows: &mut Windows) {
        while self.step(memory, machine, windows) {}
        self.tables.free(machine, &mut memory.frames);
        let hidden = memory
            .flusher
            .flush(machine, &mut memory.frames, &mut memory.stats, self.batch);
        debug_assert!(hidden.is_empty());
    }
}
