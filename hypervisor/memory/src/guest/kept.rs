//! The hidden frames that are kept, zeroed, for pages that are shared or given back, and what becomes of them when memory is low.
//!
//! ```text
//!                        the frame                               later, when the page is to be private again
//! shared, given back     kept, the guest's, out of its reach     its own frame: 2 MiB are one leaf again when all are private
//! taken by pressure      the pool's: somebody else's             another frame: 512 pages alike get a region, others single frames
//! ```
//!
//! Single frames come from the magazine of the CPU that does the change, so that of 512 pages at most one has to wait for a flush of the direct map;
//! regions by `balloon`'s way, and where no more are free, single frames for them, too. All is had before anything changes, or the range is refused.

use crate::address::{Gfn, Level, Pfn, REGION_ORDER};
use crate::direct_map::HideCause;
use crate::frame::extent::{Clean, Extent};
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::frame::state::FrameState;
use crate::frame::table_frame::TableList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::{Magazine, PrivateError};
use crate::window::Windows;

use super::GuestMemory;
use super::balloon::Drawn;
use super::change::Change;
use super::second_stage::{PageState, Part};

/// Which kept frames are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Where none of 2 MiB is in use: so that memory leaves hiding by regions.
    Regions,
    /// All: the rest of their 2 MiB stays hidden, and what is taken serves others that want hidden memory.
    Pages,
}

/// What a part lacks before its pages can be private.
enum Lack {
    /// A region, for all of its 2 MiB.
    Region,
    /// So many single frames.
    Pages(u64),
}

/// Single frames that are drawn in one step.
const DRAWN_AT_ONCE: u64 = Level::L2.frames();

impl GuestMemory {
    /// Takes frames that are kept for pages of the guest, in the 2 MiB around `next`, which goes on behind them. Returns how many; `None` at the end
    /// of the guest's memory, or while a change of it is under way.
    pub fn take_kept<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        next: &mut Gfn,
        which: Kept,
    ) -> Option<u64> {
        if self.changing.is_some() || next.gpa().get() >= self.bytes {
            return None;
        }
        let around = self.tables.alike(machine, *next);
        if around.2 > Level::L2.frames() {
            // A leaf of a gigabyte.
            *next = next.add(around.2);
            return Some(0);
        }
        let part = Part::first_of(*next, next.add(1)).whole();
        *next = part.end();
        let is_used = |(state, _, _)| !matches!(state, PageState::Shared | PageState::Absent);
        if which == Kept::Regions && self.tables.runs(machine, part).any(is_used) {
            return Some(0);
        }
        // Without a table to restore a part of it by, a gigablock stays whole.
        let first = self.tables.runs(machine, part).find_map(kept);
        if !first.is_some_and(|pfn| memory.can_be_cut_at(machine, pfn)) {
            return Some(0);
        }
        let taken = self.release_kept(memory, machine, part);
        memory.stats.kept_frames_taken += taken;
        Some(taken)
    }

    /// Gives the pool the frames that are kept for the pages of a part: of all that are shared or given back. Whole regions leave as such. They
    /// are zeroed, and nobody has reached them since. Returns how many.
    pub(super) fn release_kept<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        part: Part,
    ) -> u64 {
        let whole = self.whole_region(memory, machine, part);
        let mut released = ExtentList::new();
        for gfn in part.gfns() {
            let Some(pfn) = kept(self.tables.alike(machine, gfn)) else {
                continue;
            };
            let frames = &mut memory.frames;
            if !matches!(frames.state(pfn), FrameState::Private { .. }) {
                // Released with the first page of its region.
                continue;
            }
            frames.cut_private(pfn);
            // An extent below 2 MiB may reach into pages that stay.
            if !whole {
                frames.break_private(pfn);
            }
            let Some(extent) = Extent::claim(frames, pfn, self.id, gfn) else {
                panic!(
                    "broken invariant: {} is kept for guest frame {gfn}, and not its own",
                    pfn.hpa()
                )
            };
            let clean = extent.revoked(frames).scrubbed();
            released.push(frames, clean);
        }
        let count = released.frames();
        self.tables.forget(machine, part);
        while let Some(extent) = released.pop(&memory.frames) {
            memory.put_away(machine, extent);
        }
        count
    }

    /// Whether a part is 2 MiB that are backed by one region, all of whose frames are kept.
    fn whole_region<M: Machine>(&self, memory: &HostMemory<'_>, machine: &M, part: Part) -> bool {
        let first = self.tables.backing(machine, part.start);
        let state = first.map(|first| memory.frames.state(first));
        matches!(state, Some(FrameState::Private { order, .. }) if order >= REGION_ORDER)
            && part.is_whole()
            && self.tables.runs(machine, part).all(|run| kept(run).is_some())
    }

    /// Counts what a part lacks.
    pub(super) fn count_lack<M: Machine>(&self, machine: &M, change: Change, part: Part, drawn: &mut Drawn) {
        match self.lack(machine, change, part) {
            Lack::Region => drawn.wanted += 1,
            Lack::Pages(pages) => drawn.pages_wanted += pages,
        }
    }

    fn lack<M: Machine>(&self, machine: &M, change: Change, part: Part) -> Lack {
        // Of absent pages without memory the others get some, too, and keep it.
        let (state, around) = match change {
            Change::TakeAgain => (PageState::Absent, part.whole()),
            Change::Unshare => (PageState::Shared, part),
            _ => return Lack::Pages(0),
        };
        if around.is_whole() && self.tables.is_bare(machine, around, state) {
            return Lack::Region;
        }
        Lack::Pages(self.tables.bare_pages(machine, part))
    }

    /// Gives each page of a part that has no hidden frame one of those that were drawn.
    pub(super) fn provide<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        (change, drawn): (Change, &mut Drawn),
        part: Part,
        tables: &mut TableList,
    ) {
        let (id, frames) = (self.id, &mut memory.frames);
        match self.lack(machine, change, part) {
            Lack::Region => {
                let whole = part.whole();
                memory.stats.regions_taken_again += 1;
                match drawn.region(frames) {
                    Some(region) => {
                        let region = region.assign(frames, id, whole.start);
                        self.tables.keep_region(machine, whole, region.pfn());
                    }
                    None => self.provide_pages(memory, machine, drawn, whole, tables),
                }
            }
            Lack::Pages(0) => {}
            Lack::Pages(_) => self.provide_pages(memory, machine, drawn, part, tables),
        }
    }

    /// The same by single frames.
    fn provide_pages<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        drawn: &mut Drawn,
        part: Part,
        tables: &mut TableList,
    ) {
        let (id, mut supplied) = (self.id, 0);
        self.tables
            .keep(machine, &mut memory.frames, part, tables, |frames, gfn| {
                supplied += 1;
                drawn.page(frames).assign(frames, id, gfn).pfn()
            });
        memory.stats.frames_supplied += supplied;
    }

    /// There is no memory for the magazine that [`Progress::Restock`](super::Progress::Restock) speaks of: the change is refused.
    pub fn starve(&mut self, memory: &HostMemory<'_>, error: PrivateError) {
        if let Some(changing) = &mut self.changing {
            let error = match error {
                PrivateError::OutOfMemory(error) | PrivateError::Hide(HideCause::OutOfMemory(error)) => error,
                _ => memory.frames.out_of_memory(1),
            };
            changing.refuse(error);
        }
    }
}

/// The first hidden frame that is kept for pages that are alike, if one is.
fn kept((state, pfn, _): (PageState, Option<Pfn>, u64)) -> Option<Pfn> {
    pfn.filter(|_| matches!(state, PageState::Shared | PageState::Absent))
}

impl Drawn {
    /// Takes single frames from a magazine, as many as are wanted and it has, 2 MiB at most. False when it has none.
    pub(super) fn draw_pages<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        magazine: &mut Magazine,
    ) -> bool {
        let mut drawn = 0;
        while drawn < DRAWN_AT_ONCE.min(self.pages_wanted) {
            let Some(extent) = magazine.take_for_guest(machine, windows) else {
                break;
            };
            self.scrubber.clean.push(&mut memory.frames, extent);
            drawn += 1;
        }
        if drawn == 0 {
            // The change may be refused for that, and then has changed nothing, the counters included.
            return false;
        }
        magazine.report(memory);
        self.pages_wanted -= drawn;
        true
    }

    /// One of the regions that were drawn; `None` when single frames were drawn for the rest.
    fn region(&mut self, frames: &mut FrameTable<'_>) -> Option<Extent<Clean>> {
        let mut extent = self.scrubber.clean.pop_regions(frames)?;
        loop {
            match extent.halves(frames) {
                Ok((lower, upper)) => {
                    self.scrubber.clean.push(frames, upper);
                    extent = lower;
                }
                Err(region) => return Some(region),
            }
        }
    }

    /// One of the single frames.
    fn page(&mut self, frames: &FrameTable<'_>) -> Extent<Clean> {
        match self.scrubber.clean.pop_piece(frames) {
            Some(extent) => extent,
            None => panic!("broken invariant: too few frames were taken for a guest"),
        }
    }
}

impl HostMemory<'_> {
    /// Gets the table that is needed to cut a guest's gigablock around a frame up, if one is; false when there is none.
    fn can_be_cut_at<M: Machine>(&mut self, machine: &M, pfn: Pfn) -> bool {
        if !self.frames.is_uncut(pfn) {
            return true;
        }
        let table = self.frames.reserve_tables(machine, 1);
        let Some(table) = table.ok().and_then(|mut tables| tables.pop(&self.frames)) else {
            return false;
        };
        self.frames.park(pfn, table);
        true
    }
}
