//! A guest's memory, from launch to teardown.
//!
//! `launch` carves, hides, flushes, scrubs, assigns and maps; everything that can fail comes first. `second_stage` has the tables that
//! lead the guest to it. While the guest lives, [`GuestMemory`] is the only way to its bytes, through windows. `teardown` goes the other
//! way and cannot fail: revoke, flush the guest's translations, scrub, restore, merge, free. Both go in steps: scrubbing takes one
//! region a step, mapping a table's worth, restoring those of one gigablock. Flushes are waited for between steps.

mod launch;
mod second_stage;
mod teardown;

pub use launch::{Hiding, LaunchError, Launching};
pub use second_stage::SecondStageKind;
pub use teardown::{Flushed, GuestFlushed, Restored, Revoked, Teardown};

use core::fmt;

use crate::address::{Gfn, Gpa, Hpa, Pfn};
use crate::frame::FrameTable;
use crate::frame::list::{Private, RegionList};
use crate::frame::state::{FrameState, GuestId};
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::window::{WINDOW_BYTES, Windows};
use second_stage::SecondStage;

/// The private memory of one guest: guest-physical 0 up to its size.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct GuestMemory {
    id: GuestId,
    bytes: u64,
    tables: SecondStage,
    regions: RegionList<Private>,
}

/// A guest-physical range that is not all the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotGuestMemory {
    /// First byte of the range.
    pub start: Gpa,
    /// Its length in bytes.
    pub bytes: u64,
}

impl fmt::Display for NotGuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at guest-physical {} are not all in the guest's memory",
            self.bytes, self.start
        )
    }
}

impl GuestMemory {
    /// Whose it is.
    pub fn id(&self) -> GuestId {
        self.id
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The top-level table of the second stage.
    pub fn second_stage(&self) -> Hpa {
        self.tables.root().hpa()
    }

    /// The regions that back it, first frame each, in no particular order.
    pub fn regions<'a>(&self, frames: &'a FrameTable<'_>) -> impl Iterator<Item = Pfn> + use<'a> {
        self.regions.pfns(frames)
    }

    /// Writes into the guest's memory, through windows.
    ///
    /// # Errors
    /// When the range is not all the guest's; then nothing was written.
    pub fn write<M: Machine>(
        &mut self,
        machine: &M,
        frames: &FrameTable<'_>,
        windows: &mut Windows,
        at: Gpa,
        mut data: &[u8],
    ) -> Result<(), NotGuestMemory> {
        self.check(at, data.len() as u64)?;
        let mut at = at.get();
        while !data.is_empty() {
            let offset = at % WINDOW_BYTES;
            let (piece, rest) = data.split_at(data.len().min((WINDOW_BYTES - offset) as usize));
            let region = self.region_at(machine, frames, Gpa::new(at))?;
            windows.open(machine, region).write(offset, piece);
            at += piece.len() as u64;
            data = rest;
        }
        Ok(())
    }

    /// Reads from the guest's memory, through windows.
    ///
    /// # Errors
    /// When the range is not all the guest's; then `data` is unchanged.
    pub fn read<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        windows: &mut Windows,
        at: Gpa,
        mut data: &mut [u8],
    ) -> Result<(), NotGuestMemory> {
        self.check(at, data.len() as u64)?;
        let mut at = at.get();
        while !data.is_empty() {
            let offset = at % WINDOW_BYTES;
            let length = data.len().min((WINDOW_BYTES - offset) as usize);
            let (piece, rest) = data.split_at_mut(length);
            let region = self.region_at(machine, frames, Gpa::new(at))?;
            windows.open(machine, region).read(offset, piece);
            at += length as u64;
            data = rest;
        }
        Ok(())
    }

    /// Lets the guest execute from the 2 MiB around an address. False, and nothing changed, when that needs no permission here or is not
    /// its memory: for tables of [`SecondStageKind::ExtendedSplit`], after a fetch through a large leaf.
    pub fn allow_fetch<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M, at: Gpa) -> bool {
        let gfn = Gfn::new(at.gfn().get() & !511);
        let split = self.tables.allow_fetch(machine, &mut memory.frames, gfn);
        memory.stats.second_stage_splits += u64::from(split);
        split
    }

    fn check(&self, start: Gpa, bytes: u64) -> Result<(), NotGuestMemory> {
        match start.get().checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(NotGuestMemory { start, bytes }),
        }
    }

    /// The region that backs an address: what the second stage says, if the frame records agree.
    fn region_at<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        at: Gpa,
    ) -> Result<Pfn, NotGuestMemory> {
        let gfn = Gfn::new(at.gfn().get() & !511);
        let backed = self
            .tables
            .translate(machine, gfn)
            .filter(|pfn| frames.state(*pfn) == FrameState::Private { owner: self.id, gfn });
        backed.ok_or(NotGuestMemory { start: at, bytes: 1 })
    }
}
