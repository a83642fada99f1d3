//! Giving a new guest its memory: carve, hide, flush, scrub, assign, map.

use core::fmt;

use crate::address::{Gfn, Level};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::list::{Cursor, Dirty, RegionList};
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{Posted, Receipt};
use crate::window::Windows;

use super::GuestMemory;
use super::second_stage::{MAX_BYTES, SecondStage, SecondStageKind, tables_for};

/// Why a guest got no memory. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The size is 0 or not a multiple of 2 MiB.
    BadSize(u64),
    /// The size exceeds what one guest's tables cover.
    TooLarge(u64),
    /// Regions or tables are missing.
    OutOfMemory(OutOfMemory),
    /// A region cannot be hidden.
    Hide(HideCause),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize(bytes) => {
                write!(
                    f,
                    "guest memory of {bytes} bytes: it must be a multiple of 2 MiB and not 0"
                )
            }
            Self::TooLarge(bytes) => {
                write!(
                    f,
                    "guest memory of {} MiB: at most {} MiB are supported",
                    bytes >> 20,
                    MAX_BYTES >> 20
                )
            }
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Hide(cause) => cause.fmt(f),
        }
    }
}

/// A launch whose memory is out of the direct map, and for which a flush was asked. Nothing from here on can fail.
#[derive(Debug)]
#[must_use = "unmapped memory comes back only through the guest that it is meant for"]
pub struct Hiding {
    guest: GuestMemory,
    posted: Posted,
}

impl Hiding {
    /// Waits for the flush, without the lock of the memory subsystem.
    pub fn wait<M: Machine>(self, machine: &M) -> Launching {
        Launching {
            guest: self.guest,
            receipt: Some(self.posted.wait(machine)),
            dirty: RegionList::new(),
            next: Gfn::default(),
            to_map: None,
        }
    }
}

/// A launch on its way: all memory is hidden, none of it is the guest's yet. It goes on in steps, so that whoever drives it holds no lock
/// for longer than the zeroing of 2 MiB takes.
#[derive(Debug)]
#[must_use = "hidden memory comes back only through the guest that it is meant for"]
pub struct Launching {
    guest: GuestMemory,
    /// Until the first step has opened it.
    receipt: Option<Receipt>,
    dirty: RegionList<Dirty>,
    /// Where the next region that becomes the guest's goes.
    next: Gfn,
    /// The next region to map, once all are the guest's.
    to_map: Option<Cursor>,
}

impl Launching {
    /// One step: opens the batch, then scrubs a region and makes it the guest's, or, when all are, maps up to 512 of them, one second-stage table's worth.
    /// False when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if let Some(receipt) = self.receipt.take() {
            let start = machine.now();
            let waited = receipt.ticks();
            self.dirty = memory.complete(machine, receipt);
            memory.costs.hide += waited + machine.now().wrapping_sub(start);
            return true;
        }
        let (start, scrubbed) = (machine.now(), memory.costs.scrub);
        let more = self.advance(memory, machine, windows);
        memory.costs.map += machine.now().wrapping_sub(start) - (memory.costs.scrub - scrubbed);
        more
    }

    fn advance<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        let Some(region) = self.dirty.pop(&memory.frames) else {
            return self.map_table(memory, machine);
        };
        let region = memory.scrub(machine, windows, region);
        let region = region.assign(&mut memory.frames, self.guest.id, self.next);
        self.guest.regions.push(&mut memory.frames, region);
        self.next = self.next.add(Level::L2.frames());
        true
    }

    fn map_table<M: Machine>(&mut self, memory: &HostMemory<'_>, machine: &M) -> bool {
        let (frames, guest) = (&memory.frames, &self.guest);
        let cursor = self.to_map.get_or_insert_with(|| guest.regions.start());
        let Some(first) = guest.regions.next(frames, cursor) else {
            return false;
        };
        let Some(table) = guest.tables.table_at(machine, first.gfn) else {
            panic!(
                "broken invariant: a new guest has no table for its frame {}",
                first.gfn
            )
        };
        let mut region = first;
        loop {
            let mapped = guest.tables.map(machine, guest.id, table, &region);
            assert!(
                mapped,
                "broken invariant: guest frame {} of a new guest is mapped already",
                region.gfn
            );
            // The next one begins another table where its frame is the first of a GiB.
            let mut ahead = *cursor;
            match guest.regions.next(frames, &mut ahead) {
                Some(next) if !next.gfn.is_aligned(Level::L3.frames()) => (region, *cursor) = (next, ahead),
                _ => return true,
            }
        }
    }

    /// Does what is left; the guest's memory is complete, private and zero.
    pub fn finish<M: Machine>(
        mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> GuestMemory {
        while self.step(memory, machine, windows) {}
        self.guest
    }
}

impl HostMemory<'_> {
    /// Takes `bytes` bytes of memory for a guest, takes them out of the direct map, and asks for the one flush that hides them. This is one piece of work: about
    /// 200 instructions a region (measured on TCG), so that 2 GiB take less than the zeroing of 2 MiB. `kind` is the layout of the
    /// tables that will lead the guest to it.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn launch<M: Machine>(
        &mut self,
        machine: &M,
        kind: SecondStageKind,
        id: GuestId,
        bytes: u64,
    ) -> Result<Hiding, LaunchError> {
        if bytes == 0 || !bytes.is_multiple_of(Level::L2.bytes()) {
            return Err(LaunchError::BadSize(bytes));
        }
        if bytes > MAX_BYTES {
            return Err(LaunchError::TooLarge(bytes));
        }
        let start = machine.now();
        // Everything that can fail: regions, second-stage tables, tables for splitting.
        let regions = self
            .frames
            .carve(bytes / Level::L2.bytes())
            .map_err(LaunchError::OutOfMemory)?;
        let mut reserve = match self.frames.reserve_tables(machine, tables_for(kind, bytes)) {
            Ok(reserve) => reserve,
            Err(error) => {
                self.frames.uncarve(regions);
                return Err(LaunchError::OutOfMemory(error));
            }
        };
        let batch = match self
            .direct_map
            .hide(machine, &mut self.frames, &mut self.stats, regions)
        {
            Ok(batch) => batch,
            Err(error) => {
                self.frames.uncarve(error.regions);
                while let Some(table) = reserve.pop(&self.frames) {
                    self.frames.free_table(table);
                }
                return Err(LaunchError::Hide(error.cause));
            }
        };
        // From here on nothing can fail.
        let posted = self.post(machine, batch);
        let hidden = machine.now();
        self.costs.hide += hidden.wrapping_sub(start);
        let Some(tables) = SecondStage::new(machine, kind, &mut self.frames, reserve, bytes) else {
            panic!("broken invariant: too few second-stage tables were reserved")
        };
        let guest = GuestMemory {
            id,
            bytes,
            tables,
            regions: RegionList::new(),
        };
        self.costs.map += machine.now().wrapping_sub(hidden);
        Ok(Hiding { guest, posted })
    }
}
