//! Taking a guest's memory back: revoke, flush, scrub, keep or restore, merge, free. Nothing here can fail, allocates, or splits.
//! [`Revoked`], [`Teardown`], [`Restored`], [`Flushed`](crate::region::Flushed) are the steps; nothing is locked while the flush is waited for.
//!
//! However large the guest is, no step of a [`Teardown`] does more than about what zeroing 2 MiB takes: it frees the frames behind 2 MiB of shared
//! pages, zeroes 2 MiB, puts up to 512 extents into the pool, restores the regions of one gigablock, or frees the tables of one gigabyte. What is
//! done outside of the steps is the same for every guest, but for the flush, which carries no more tables than are linked in one step.

use crate::address::{ENTRIES, Gfn, Level, PAGE_SIZE};
use crate::frame::extent::{Clean, Extent, Private};
use crate::frame::extent_list::ExtentList;
use crate::frame::pool::EmptyBlock;
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::{Restored, Scrubber};
use crate::tlb::FlushBatch;
use crate::window::Windows;

use super::GuestMemory;
use super::change::{Changing, Reserved};
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
    /// Guest frames whose extents are still to be taken back.
    left: core::ops::Range<u64>,
    /// What a change that was under way had reserved.
    reserved: Reserved,
}

impl GuestMemory {
    /// Cuts the second stage. The guest's vCPUs must not run again. To be called without the lock of the memory subsystem: a flush of the
    /// direct map that a change of the guest's memory has asked for is waited for.
    pub fn revoke<M: Machine>(self, machine: &M) -> Revoked {
        let start = machine.now();
        let mut reserved = self.changing.map(Changing::into_reserved).unwrap_or_default();
        reserved.drawn.wait(machine);
        let tables = self.tables.cut(machine);
        Revoked {
            id: self.id,
            ticks: machine.now().wrapping_sub(start),
            tables,
            left: 0..self.bytes / PAGE_SIZE,
            reserved,
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
        Teardown::new(self, Scrubber::default())
    }

    /// Starts giving back the memory of a launch that is cancelled: what is mapped, and what is in its scrubber. No translation leads to it, as no vCPU
    /// has run.
    pub(super) fn of_launch(self, scrubber: Scrubber) -> Teardown {
        Teardown::new(self, scrubber)
    }

    /// The extent at the next guest frame, which only the second stage knows; goes on behind it, or where the next entry stands if there is none.
    fn next_extent<M: Machine>(&mut self, memory: &HostMemory<'_>, machine: &M) -> Option<Extent<Private>> {
        let at = Gfn::new(self.left.start);
        let (pfn, alike) = self.tables.backing(machine, at);
        let extent = pfn.and_then(|pfn| Extent::claim(&memory.frames, pfn, self.id, at));
        self.left.start += extent.as_ref().map_or(alike, Extent::frames);
        extent
    }
}

/// Extents of regions that one step hands to the pool.
const LEAVE_AT_ONCE: u64 = Level::L2.frames();

/// A teardown on its way, in steps, so that whoever drives it holds no lock for longer than the zeroing of 2 MiB takes.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct Teardown {
    revoked: Revoked,
    scrubber: Scrubber,
    /// What leaves the pool.
    given_back: ExtentList<Clean>,
    batch: FlushBatch,
}

impl Teardown {
    fn new(revoked: Revoked, scrubber: Scrubber) -> Self {
        Self {
            revoked,
            scrubber,
            given_back: ExtentList::new(),
            batch: FlushBatch::new(),
        }
    }

    /// One step, bounded as the module says: frees 2 MiB of what was shared, then scrubs a region; when all are clean, hands some of them to the
    /// pool; then puts those of one gigablock back into the direct map and frees them; then frees some of the guest's tables. False when nothing
    /// was left to do.
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
        if self.free_ordinary(memory, machine) {
            return true;
        }
        if self.scrubber.step(memory, machine, windows) {
            return true;
        }
        let more = self.revoke_some(memory, machine);
        if self.scrubber.step(memory, machine, windows) || more {
            return true;
        }
        if self.leave_guest(memory) {
            return true;
        }
        let HostMemory {
            frames,
            direct_map,
            stats,
            ..
        } = memory;
        direct_map.restore(machine, frames, stats, &mut self.given_back, &mut self.batch)
            || self.revoked.tables.free_some(machine, frames)
    }

    /// Frees some of the ordinary frames that the guest shared with the host, or was about to: 2 MiB at most. False when there are none. What it
    /// was about to take again is scrubbed with the rest.
    fn free_ordinary<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) -> bool {
        let Revoked { tables, reserved, .. } = &mut self.revoked;
        reserved.drawn.open(memory, machine);
        let (frames, drawn) = (&mut memory.frames, &mut reserved.drawn.scrubber);
        self.scrubber.append(frames, drawn);
        let mut freed = frames.free_some_tables(&mut reserved.pages, Level::L2.frames());
        freed += frames.free_some_tables(&mut reserved.tables, Level::L2.frames() - freed);
        freed > 0 || tables.free_shared_some(machine, &mut memory.frames)
    }

    /// Revokes one extent of regions, or as many smaller ones as are scrubbed at once; looks at 512 entries at most. False when none are left.
    fn revoke_some<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) -> bool {
        let Self {
            revoked, scrubber, ..
        } = self;
        let mut looks = 0;
        while scrubber.dirty.frames() < Level::L2.frames() && looks < ENTRIES && !revoked.left.is_empty() {
            looks += 1;
            if let Some(extent) = revoked.next_extent(memory, machine) {
                let extent = extent.revoked(&mut memory.frames);
                scrubber.dirty.push(&mut memory.frames, extent);
            }
        }
        looks > 0
    }

    /// Everything is clean: the cache keeps what it has room for, the rest leaves the pool. Of whole regions 512 extents at once; of smaller ones
    /// as many as are 2 MiB, and none after one with which a block became empty, as that brings all the block's pieces. False when there
    /// were none.
    fn leave_guest(&mut self, memory: &mut HostMemory<'_>) -> bool {
        let clean = &mut self.scrubber.clean;
        let mut some = ExtentList::new();
        for _ in 0..LEAVE_AT_ONCE {
            let Some(extent) = clean.pop_regions(&memory.frames) else {
                break;
            };
            some.push(&mut memory.frames, extent);
        }
        if !some.is_empty() {
            memory.keep(&mut some);
            self.given_back.append(&mut memory.frames, some);
            return true;
        }
        let mut left = 0;
        while left < Level::L2.frames()
            && let Some(extent) = clean.pop_piece(&memory.frames)
        {
            left += extent.frames();
            let mut empty = match memory.frames.pool_put(extent) {
                None => continue,
                Some(EmptyBlock::Region(region)) => {
                    some.push(&mut memory.frames, region);
                    memory.keep(&mut some);
                    some
                }
                Some(EmptyBlock::Pieces(pieces)) => pieces,
            };
            self.given_back
                .append(&mut memory.frames, core::mem::take(&mut empty));
            return true;
        }
        left > 0
    }

    /// Does what is left, frees the last two of the guest's tables, and asks for the one flush after which the host's tables that were merged away
    /// are freed.
    pub fn finish<M: Machine>(
        mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> Restored {
        while self.step(memory, machine, windows) {}
        let start = machine.now();
        let Revoked { ticks, tables, .. } = self.revoked;
        tables.free(machine, &mut memory.frames);
        let posted = memory.post(machine, self.batch);
        memory.costs.restore += ticks + machine.now().wrapping_sub(start);
        Restored::new(posted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, TICK};
    use crate::guest::SecondStageKind;

    /// Whatever time passes inside of the calls is in one of the costs: the clock of this machine goes on only when somebody looks at it, so
    /// what is missing at the end are the first looks, one for each call, and for each step that finds nothing to scrub.
    #[test]
    fn all_the_time_of_a_life_is_in_the_costs() {
        let (machine, mut memory, mut windows) = Fake::boot();
        let begin = machine.now();
        let id = GuestId::new(1).unwrap();
        let mut launching = memory
            .launch(machine, SecondStageKind::Nested, id, 4 << 20)
            .unwrap()
            .wait(machine);
        while launching.step(&mut memory, machine, &mut windows) {}
        let costs = memory.costs;
        assert!(
            costs.hide > 0 && costs.scrub > 0 && costs.map > 0 && costs.restore == 0,
            "{costs:?}"
        );
        let up = machine.now();
        let sum = |costs: crate::stats::Costs| costs.hide + costs.scrub + costs.map + costs.restore;
        // Of the preparation: two steps each to take regions and tables, one for no pieces, to check, to build, and two to hide. Then of the
        // wait, the batch, two scrubs, two times nothing to scrub, one table, one time nothing to map, and this look.
        assert_eq!((up - begin) - sum(costs), (9 + 9) * TICK);
        let guest = launching.finish(&mut memory, machine, &mut windows);
        let (begin, before) = (machine.now(), memory.costs);
        let mut teardown = guest.revoke(machine).reclaim(GuestFlushed::new(id));
        while teardown.step(&mut memory, machine, &mut windows) {}
        let restored = teardown.finish(&mut memory, machine, &mut windows);
        restored.wait(machine).release(&mut memory, machine);
        let (costs, after) = (memory.costs, machine.now());
        assert_eq!((costs.hide, costs.map), (before.hide, before.map));
        assert!(costs.scrub > before.scrub && costs.restore > 0, "{costs:?}");
        // Of the revocation, two scrubs, one time to the pool, one restore, one time tables, two steps with nothing to do, the end, the wait, the
        // release, and this look.
        assert_eq!((after - begin) - (sum(costs) - sum(before)), 12 * TICK);
    }
}
