//! Giving a new guest its memory: carve, hide, flush, scrub, assign, map.

use core::fmt;

use crate::address::{Gfn, Level};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::list::{Clean, Dirty, RegionList};
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
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

/// A launch on its way: all memory is hidden, none of it is the guest's yet. It goes on in steps, so that whoever drives it holds no lock
/// for longer than the zeroing of 2 MiB takes. Nothing from here on can fail.
#[derive(Debug)]
#[must_use = "hidden memory comes back only through the guest that it is meant for"]
pub struct Launching {
    guest: GuestMemory,
    dirty: RegionList<Dirty>,
    clean: RegionList<Clean>,
    next: Gfn,
}

impl Launching {
    /// One step: scrubs a region, or, when all are clean, makes up to 512 of them the guest's and maps them, one second-stage table's
    /// worth. False when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if let Some(region) = self.dirty.pop(&memory.frames) {
            let region = memory.scrub(machine, windows, region);
            self.clean.push(&mut memory.frames, region);
            return true;
        }
        if self.clean.is_empty() {
            return false;
        }
        let start = machine.now();
        self.map_table(memory, machine);
        memory.costs.map += machine.now().wrapping_sub(start);
        true
    }

    fn map_table<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) {
        let (frames, guest) = (&mut memory.frames, &mut self.guest);
        let Some(table) = guest.tables.table_at(machine, self.next) else {
            panic!(
                "broken invariant: a new guest has no table for its frame {}",
                self.next
            )
        };
        let end = self.next.get() / Level::L3.frames() + 1;
        while self.next.get() / Level::L3.frames() < end
            && let Some(region) = self.clean.pop(frames)
        {
            let region = region.assign(frames, guest.id, self.next);
            let mapped = guest.tables.map(machine, frames, guest.id, table, &region);
            assert!(
                mapped,
                "broken invariant: guest frame {} of a new guest is mapped already",
                self.next
            );
            guest.regions.push(frames, region);
            self.next = self.next.add(Level::L2.frames());
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
    /// Takes `bytes` bytes of memory for a guest and hides them from every CPU of the host by one flush. This is one piece of work: about
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
    ) -> Result<Launching, LaunchError> {
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
        let dirty = self
            .flusher
            .flush(machine, &mut self.frames, &mut self.stats, batch);
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
        Ok(Launching {
            guest,
            dirty,
            clean: RegionList::new(),
            next: Gfn::default(),
        })
    }
}
