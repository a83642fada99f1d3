//! A guest's memory, from launch to teardown.
//!
//! `prepare` takes what the pool has, carves, and hides, everything that can fail first; `launch` flushes, scrubs, assigns and maps.
//! `second_stage` has the tables that lead the guest to it. While the guest lives, [`GuestMemory`] is the only way to its bytes, through
//! windows; it shares pages with the host and takes them back (`change`), and `shared` is how the host reads those; it gives pages back and takes them
//! again (`balloon`); what frames are kept for that serves others when memory is low (`kept`). `teardown` goes the other way and cannot fail: revoke, flush the guest's translations, scrub, restore, merge, free. Both go
//! in steps: scrubbing takes one region a step, mapping a table's worth, restoring those of one gigablock. Flushes are waited for between steps.

mod balloon;
mod change;
mod kept;
mod launch;
mod prepare;
mod second_stage;
mod shared;
mod teardown;

pub use crate::region::{Flushed, Restored};
pub use change::{Change, ChangeError, MOST_TAKEN, Progress};
pub use kept::Kept;
pub use launch::{Hiding, LaunchError, Launching};
pub use prepare::{Prepared, Preparing};
pub(crate) use second_stage::MOST_GUEST_BITS;
pub use second_stage::{PageState, SecondStageKind};
pub use shared::{Alias, NotShared, Page};
pub use teardown::{GuestFlushed, Revoked, Teardown};

use core::fmt;

use crate::address::{Gfn, Gpa, Hpa, PAGE_SIZE, Pfn, REGION_ORDER};
use crate::frame::FrameTable;
use crate::frame::extent::{Extent, Private};
use crate::frame::state::{FrameState, GuestId};
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::window::Windows;
use change::{Changing, Reserved};
use second_stage::SecondStage;

/// The memory of one guest: guest-physical 0 up to its size. All of it is private at first.
#[derive(Debug)]
#[must_use = "a guest's memory comes back only through its teardown"]
pub struct GuestMemory {
    id: GuestId,
    bytes: u64,
    /// Knows all extents that back it: they are on no list, so that any of them can be given back.
    tables: SecondStage,
    /// Pages that are shared now, and the most that may be.
    shared: u64,
    most_shared: u64,
    /// Tables that changes have made the host allocate beyond those of the launch, and the most that may be.
    tables_made: u64,
    most_tables: u64,
    /// What the guest has asked for and is not done yet.
    changing: Option<Changing>,
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

impl core::error::Error for NotGuestMemory {}

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

    /// The regions that back it, first frame each, by their addresses in the guest. All of its memory unless no whole regions were free at launch,
    /// or the guest has given some back.
    pub fn regions<M: Machine>(&self, machine: &M, frames: &FrameTable<'_>) -> impl Iterator<Item = Pfn> {
        let extents = self.extents(machine, frames);
        let extents = extents.filter(|(_, order)| *order >= REGION_ORDER);
        extents.flat_map(|(pfn, order)| {
            (0..1 << (order - REGION_ORDER)).map(move |region: u64| pfn.add(region << REGION_ORDER))
        })
    }

    /// First frame and order of the extents below 2 MiB that back the rest.
    pub fn pieces<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
    ) -> impl Iterator<Item = (Pfn, u8)> {
        let extents = self.extents(machine, frames);
        extents.filter(|(_, order)| *order < REGION_ORDER)
    }

    /// First frame and order of all extents that back it, as the second stage has them.
    fn extents<M: Machine>(&self, machine: &M, frames: &FrameTable<'_>) -> impl Iterator<Item = (Pfn, u8)> {
        let mut next = Gfn::default();
        core::iter::from_fn(move || {
            let extent = self.next_extent(machine, frames, &mut next)?;
            Some((extent.pfn(), extent.order()))
        })
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
            let (pfn, order, offset) = self.reach(machine, frames, Gpa::new(at))?;
            let room = ((PAGE_SIZE << order) - offset) as usize;
            let (piece, rest) = data.split_at(data.len().min(room));
            windows.open(machine, pfn, order).write(offset, piece);
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
            let (pfn, order, offset) = self.reach(machine, frames, Gpa::new(at))?;
            let room = ((PAGE_SIZE << order) - offset) as usize;
            let (piece, rest) = data.split_at_mut(data.len().min(room));
            windows.open(machine, pfn, order).read(offset, piece);
            at += piece.len() as u64;
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

    /// What to open a window on for an address: first frame, order, and the address' offset in it. What the second stage says, if the frame
    /// records agree.
    fn reach<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        at: Gpa,
    ) -> Result<(Pfn, u8, u64), NotGuestMemory> {
        let backed = self
            .tables
            .translate(machine, at.gfn())
            .and_then(|pfn| match frames.state(pfn) {
                FrameState::Private { owner, gfn, order } if (owner, gfn) == (self.id, at.gfn()) => {
                    let order = if order < REGION_ORDER { 0 } else { REGION_ORDER };
                    let first = Pfn::new(pfn.get() & !((1 << order) - 1));
                    Some((
                        first,
                        order,
                        pfn.hpa().get() - first.hpa().get() + at.get() % PAGE_SIZE,
                    ))
                }
                _ => None,
            });
        backed.ok_or(NotGuestMemory { start: at, bytes: 1 })
    }

    /// Takes the memory out of use for good, because the guest's vCPUs cannot be shown to have stopped. Returns its bytes.
    pub fn quarantine<M: Machine>(mut self, memory: &mut HostMemory<'_>, machine: &M) -> u64 {
        let mut bytes = 0;
        let mut next = Gfn::default();
        while let Some(extent) = self.next_extent(machine, &memory.frames, &mut next) {
            bytes += extent.quarantine(&mut memory.frames);
        }
        if let Some(changing) = self.changing.take() {
            let Reserved {
                pages, tables, drawn, ..
            } = changing.into_reserved();
            memory.frames.free_tables(pages);
            memory.frames.free_tables(tables);
            bytes += drawn.quarantine(memory, machine);
        }
        // Its tables stay as they are: a vCPU may still walk them.
        memory.stats.frames_quarantined += bytes / PAGE_SIZE;
        bytes
    }

    /// The next extent from a guest frame on, which goes on behind it.
    fn next_extent<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        next: &mut Gfn,
    ) -> Option<Extent<Private>> {
        while next.gpa().get() < self.bytes {
            let (at, (_, pfn, alike)) = (*next, self.tables.alike(machine, *next));
            let extent = pfn.and_then(|pfn| Extent::claim(frames, pfn, self.id, at));
            *next = at.add(extent.as_ref().map_or(alike, Extent::frames));
            if extent.is_some() {
                return extent;
            }
        }
        None
    }
}
