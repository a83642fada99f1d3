//! What a change does to the pages of one part: revoked before the guest's translations are flushed, finished after it. Nothing here can fail.

use crate::address::{Gfn, Level, REGION_ORDER};
use crate::frame::table_frame::TableList;
use crate::guest::GuestMemory;
use crate::guest::second_stage::{Part, Promotion};
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::paging::mark::Mark;
use crate::window::Windows;

use super::Change;
use super::changing::Changing;

impl GuestMemory {
    pub(super) fn revoke_part<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        part: Part,
    ) {
        let mark = match changing.change {
            Change::Share => Mark::Kept,
            Change::ShareInPlace => Mark::InPlace,
            Change::GiveBack => Mark::Given,
            Change::UnshareInPlace => return self.tables.unmap_in_place(machine, part),
            Change::Unshare | Change::Accept | Change::TakeAgain => {
                return self.tables.unmap_shared(machine, part);
            }
        };
        let (frames, tables) = (&mut memory.frames, &mut changing.tables);
        self.tables.mark(machine, frames, part, mark, tables);
        memory.stats.second_stage_splits += self.tables.take_splits();
    }

    pub(super) fn finish_part<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        changing: &mut Changing,
        part: Part,
    ) {
        let Changing {
            change,
            reserve,
            tables,
            drawn,
            ..
        } = changing;
        match change {
            Change::Share => {
                self.scrub(memory, machine, windows, part);
                let frames = &mut memory.frames;
                self.tables
                    .map_shared(machine, frames, self.id, part, tables, reserve);
                self.shared += part.frames;
                memory.stats.pages_shared += part.frames;
            }
            Change::Unshare => {
                self.tables.free_shared(machine, &mut memory.frames, part);
                self.provide(memory, machine, (*change, drawn), part, tables);
                let frames = &mut memory.frames;
                self.tables.mark(machine, frames, part, Mark::Pending, tables);
                self.shared -= part.frames;
                memory.stats.pages_unshared += part.frames;
            }
            Change::GiveBack => {
                self.scrub(memory, machine, windows, part);
                self.leave_region(memory, machine, part, tables);
            }
            Change::TakeAgain => {
                self.provide(memory, machine, (*change, drawn), part, tables);
                let frames = &mut memory.frames;
                self.tables.mark(machine, frames, part, Mark::Pending, tables);
            }
            Change::Accept => {
                self.accept(memory, machine, part, tables, Mark::Pending);
                memory.stats.pages_accepted += part.frames;
            }
            Change::ShareInPlace => {
                let frames = &mut memory.frames;
                self.tables.map_in_place(machine, frames, self.id, part, tables);
                self.shared += part.frames;
                memory.stats.pages_shared_in_place += part.frames;
            }
            Change::UnshareInPlace => {
                self.accept(memory, machine, part, tables, Mark::InPlace);
                self.shared -= part.frames;
                memory.stats.pages_unshared_in_place += part.frames;
            }
        }
    }

    /// Lets the guest use the pages of a part at the private alias, all of which are marked like this.
    fn accept<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        part: Part,
        tables: &mut TableList,
        from: Mark,
    ) {
        match self
            .tables
            .accept(machine, &mut memory.frames, part, tables, from)
        {
            Promotion::NotDue => {}
            Promotion::Done => {
                memory.stats.second_stage_collapses += 1;
                self.tables_made = self.tables_made.saturating_sub(1);
            }
            Promotion::Executable => memory.stats.promotions_blocked.executable += 1,
            Promotion::Blocked(_) => memory.stats.promotions_blocked.address += 1,
        }
    }

    /// Zeroes the hidden frames of a part that the guest can't reach any more.
    fn scrub<M: Machine>(&self, memory: &mut HostMemory<'_>, machine: &M, windows: &mut Windows, part: Part) {
        let backing = |gfn: Gfn| match self.tables.backing(machine, gfn) {
            Some(pfn) => pfn,
            None => panic!("broken invariant: guest frame {gfn} has lost its hidden frame"),
        };
        let region = part.is_whole().then(|| backing(part.start));
        let region = region
            .filter(|first| first.is_aligned(Level::L2.frames()) && !memory.frames.frames_differ(*first));
        let mut window = match region {
            Some(first) => windows.open(machine, first, REGION_ORDER),
            None => windows.open_pages(machine),
        };
        if region.is_none() {
            for gfn in part.gfns() {
                let added = window.add(backing(gfn), 0);
                assert!(added, "broken invariant: a part of 2 MiB does not fit a window");
            }
        }
        memory.stats.bytes_scrubbed += window.zero();
    }
}
