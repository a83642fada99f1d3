//! A guest gives private memory back, and takes it again: two of the changes of `change`, with what they alone do.
//!
//! ```text
//!              check               reserve   revoke                  flush   finish
//! give back    accepted, pending   tables    private: absent, kept   once    scrub; 2 MiB that are all absent: their region to the pool
//! take again   absent              tables    -                       -       a region where there is none; private: pending
//! ```
//!
//! A page that is given back stays reserved in its region until the other 511 are absent, too; then the region goes back to the pool, which caches it
//! or restores it to the direct map. Taking a page again whose 2 MiB have no memory gets a region for all of them. All regions that a range lacks are
//! taken between `reserve` and `finish`, zeroed, by one flush of the direct map for each gigabyte at most; if they can't be had, the whole range is
//! refused. `kept` is about what becomes of the reserved frames when memory is low.

use crate::address::{GIGABLOCK_ORDER, Gpa, Level, PAGE_SIZE, Pfn};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::Carved;
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::frame::state::FrameState;
use crate::frame::table_frame::TableList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::Scrubber;
use crate::tlb::{Posted, Receipt};
use crate::window::Windows;

use super::GuestMemory;
use super::second_stage::{PageState, Part};

/// Regions that are taken at once: fewer than a gigablock has, as one that is hidden by a single entry could not be cut up without a table.
const TAKEN_AT_ONCE: u64 = Level::L3.frames() / Level::L2.frames() - 1;

/// Regions that leave the direct map by one flush: as many as one change takes again ([`MOST_TAKEN`](super::MOST_TAKEN)).
const MOST_DRAWN: u64 = super::MOST_TAKEN / Level::L2.bytes();

/// Hidden memory on its way to a guest.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// Regions that are still wanted.
    pub(super) wanted: u64,
    /// Single frames that are.
    pub(super) pages_wanted: u64,
    pub(super) posted: Option<Posted>,
    pub(super) receipt: Option<Receipt>,
    pub(super) scrubber: Scrubber,
}

impl Drawn {
    /// Waits for the flush that was asked for, if nobody has: the guest ends in between.
    pub(super) fn wait<M: Machine>(&mut self, machine: &M) {
        if let Some(posted) = self.posted.take() {
            self.receipt = Some(posted.wait(machine));
        }
    }

    /// Opens the batch after its flush.
    pub(super) fn open<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) {
        if let Some(receipt) = self.receipt.take() {
            let hidden = memory.complete(machine, receipt).take(&mut memory.frames);
            self.scrubber.dirty.append(&mut memory.frames, hidden);
        }
    }

    /// Gives up to 2 MiB of it back, zeroed first, or as many regions as a gigablock has. False when there was none.
    pub(super) fn release_some<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if self.scrubber.step(memory, machine, windows) {
            return true;
        }
        let any = !self.scrubber.clean.is_empty();
        for _ in 0..Level::L2.frames() {
            match self.scrubber.clean.pop(&memory.frames) {
                Some(extent) => memory.put_away(machine, extent),
                None => break,
            }
        }
        any
    }

    /// Takes the regions out of use for good. Returns their bytes.
    pub(super) fn quarantine<M: Machine>(mut self, memory: &mut HostMemory<'_>, machine: &M) -> u64 {
        self.wait(machine);
        self.open(memory, machine);
        let mut bytes = 0;
        while let Some(extent) = self.scrubber.dirty.pop(&memory.frames) {
            bytes += extent.quarantine(&mut memory.frames);
        }
        while let Some(extent) = self.scrubber.clean.pop(&memory.frames) {
            bytes += extent.quarantine(&mut memory.frames);
        }
        bytes
    }
}

impl GuestMemory {
    /// The flush of the direct map that [`Progress::Hide`](super::Progress::Hide) speaks of: to be waited for without the lock of the memory
    /// subsystem, and its receipt to be given to [`Self::hidden`].
    pub fn hiding(&mut self) -> Option<Posted> {
        self.changing.as_mut()?.drawn.posted.take()
    }

    /// The flush was acknowledged: what the guest takes again is out of the direct map.
    ///
    /// # Panics
    /// When the guest takes nothing again.
    pub fn hidden<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M, receipt: Receipt) {
        let Some(changing) = &mut self.changing else {
            panic!("broken invariant: memory was hidden for a guest that wants none")
        };
        changing.drawn.receipt = Some(receipt);
        changing.drawn.open(memory, machine);
    }

    /// The range to take again for the sake of one absent page: the aligned 2 MiB around it if there is nothing behind any of them, else the page.
    pub fn absent_around<M: Machine>(&self, machine: &M, at: Gpa) -> (Gpa, u64) {
        let page = Part::first_of(at.gfn(), at.gfn().add(1));
        if self.tables.is_bare(machine, page.whole(), PageState::Absent) {
            (page.whole().start.gpa(), Level::L2.bytes())
        } else {
            (page.start.gpa(), PAGE_SIZE)
        }
    }

    /// First frame and order of hidden memory that is on its way to the guest and nobody's yet.
    pub fn drawn<'a>(&self, frames: &'a FrameTable<'_>) -> impl Iterator<Item = (Pfn, u8)> + use<'a> {
        let changing = self.changing.iter();
        let mut drawn = changing.map(|changing| changing.drawn.scrubber.extents(frames));
        drawn.next().into_iter().flatten()
    }

    /// A table for the gigablock that a part's region is cut out of, if that was hidden by one entry. It is counted with the first part of
    /// a range (`first`) that lies in the gigablock.
    pub(super) fn tables_to_cut<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        part: Part,
        first: bool,
    ) -> u64 {
        let region = self.tables.backing(machine, part.whole().start);
        let counts = |pfn: &Pfn| first || pfn.is_aligned(Level::L3.frames());
        u64::from(region.filter(counts).is_some_and(|pfn| frames.is_uncut(pfn)))
    }

    /// A part was given back, and is zeroed: when its 2 MiB are all absent, what memory they have goes to the pool.
    pub(super) fn leave_region<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        part: Part,
        tables: &mut TableList,
    ) {
        let whole = part.whole();
        if !self
            .tables
            .all(machine, whole, |state| state == PageState::Absent)
        {
            return;
        }
        if let Some(pfn) = self.tables.backing(machine, whole.start) {
            if memory.frames.is_uncut(pfn) {
                let Some(table) = tables.pop(&memory.frames) else {
                    panic!("broken invariant: no table was reserved to cut up a gigablock")
                };
                memory.frames.park(pfn, table);
            }
            memory.frames.cut_private(pfn);
        }
        self.release_kept(memory, machine, whole);
        memory.stats.regions_given_back += 1;
    }
}

impl HostMemory<'_> {
    /// Takes whole regions for a guest, a gigablock's worth or none: from the cache, then from the host, which keeps its low watermark; those are
    /// out of the direct map when the flush is acknowledged that is asked for here.
    pub(super) fn draw<M: Machine>(&mut self, machine: &M, drawn: &mut Drawn) -> Result<(), OutOfMemory> {
        self.relieve(machine);
        let wanted = drawn.wanted.min(MOST_DRAWN);
        let mut cached = ExtentList::new();
        let left = |taken: u64| (wanted - taken / 512).min(TAKEN_AT_ONCE);
        while let count @ 1.. = left(cached.frames()) {
            let some = self.take_cached(machine, count);
            if some.is_empty() {
                break;
            }
            cached.append(&mut self.frames, some);
        }
        let missing = wanted * 512 - cached.frames();
        let posted = match missing {
            0 => Ok(None),
            _ => self.hide_regions(machine, missing).map(Some),
        };
        match posted {
            Ok(posted) => {
                drawn.posted = posted;
                drawn.scrubber.clean.append(&mut self.frames, cached);
                drawn.wanted -= wanted;
                Ok(())
            }
            Err(error) => {
                while self.put_back_some(&mut cached) {}
                Err(error)
            }
        }
    }

    /// Takes whole regions of so many frames from the host, and out of the direct map.
    fn hide_regions<M: Machine>(&mut self, machine: &M, missing: u64) -> Result<Posted, OutOfMemory> {
        let out_of_memory = self.frames.out_of_memory(missing);
        if missing > self.spare_frames() {
            return Err(out_of_memory);
        }
        let mut carved = ExtentList::<Carved>::new();
        while let count @ 1.. = ((missing - carved.frames()) / 512).min(TAKEN_AT_ONCE) {
            match self.frames.carve(count) {
                Ok(some) => carved.append(&mut self.frames, some),
                Err(_) => {
                    self.frames.uncarve(carved);
                    return Err(out_of_memory);
                }
            }
        }
        self.hide(machine, carved).map_err(|cause| match cause {
            HideCause::OutOfMemory(error) => error,
            HideCause::NotALeaf(_) => out_of_memory,
        })
    }
}

impl FrameTable<'_> {
    /// Whether a frame lies in a guest's gigablock that is hidden by one entry, without a table to restore parts of it by.
    pub(super) fn is_uncut(&self, pfn: Pfn) -> bool {
        let whole = matches!(self.state(pfn), FrameState::Private { order, .. } if order == GIGABLOCK_ORDER);
        whole
            && self
                .gigablock_of(pfn)
                .is_some_and(|index| self.gigablock(index).parked().is_none())
    }
}
