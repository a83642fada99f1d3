//! What a change needs, taken before it changes anything.

use crate::address::Level;
use crate::guest::GuestMemory;
use crate::guest::second_stage::Part;
use crate::host::HostMemory;
use crate::machine::Machine;

use super::changing::Changing;
use super::{Change, ChangeError};

impl GuestMemory {
    /// Takes what the part needs: tables, and frames to share.
    pub(super) fn reserve<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        part: Part,
    ) -> Result<(), ChangeError> {
        let first = part.start == changing.start;
        let mut tables = self.tables.private_tables_for(machine, part, first);
        let mut pages = 0;
        if changing.change.shares() {
            tables += self.tables.shared_tables_for(machine, part, first);
        }
        if changing.change == Change::Share {
            pages = part.frames;
        }
        if changing.change == Change::GiveBack {
            tables += self.tables_to_cut(machine, &memory.frames, part, first);
        }
        if tables + pages == 0 {
            return Ok(());
        }
        self.take(memory, machine, changing, (tables, pages))
    }

    /// Takes tables so that 2 MiB which were to get regions can have single frames instead.
    pub(super) fn reserve_for_pages<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
    ) -> Result<(), ChangeError> {
        // So many that reserving their tables is no more than 2 MiB of work; the others come again to this.
        let regions = changing.drawn.wanted.min(Level::L2.frames());
        // Where leaves may be split anyway, a table for each waits since the launch.
        let tables = if self.tables.splits() { 0 } else { regions };
        let pages = regions * Level::L2.frames();
        if tables + pages > memory.spare_frames() {
            let error = memory.frames.out_of_memory(pages);
            return Err(ChangeError::OutOfMemory(error));
        }
        self.take(memory, machine, changing, (tables, 0))?;
        changing.drawn.pages_wanted += pages;
        changing.drawn.wanted -= regions;
        Ok(())
    }

    /// Takes tables, and frames to share, as far as the guest may have them and the host keeps its reserve.
    fn take<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        (tables, pages): (u64, u64),
    ) -> Result<(), ChangeError> {
        if self.tables_made + changing.tables_taken + tables > self.most_tables {
            return Err(ChangeError::Tables);
        }
        changing.tables_taken += tables;
        memory.relieve(machine);
        if tables + pages > memory.spare_frames() {
            let error = memory.frames.out_of_memory(tables + pages);
            return Err(ChangeError::OutOfMemory(error));
        }
        let tables = memory.frames.reserve_tables(machine, tables);
        let tables = tables.map_err(ChangeError::OutOfMemory)?;
        changing.tables.append(&mut memory.frames, tables);
        let pages = memory.frames.reserve_pages(machine, pages);
        let pages = pages.map_err(ChangeError::OutOfMemory)?;
        changing.reserve.append(&mut memory.frames, pages);
        Ok(())
    }
}
