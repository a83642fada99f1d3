//! Flushes, batched.
//!
//! Whatever a change leaves behind that a CPU may still reach through stale translations travels in a [`FlushBatch`]: regions
//! whose entry is cleared, tables that are unlinked. Only [`Flusher::flush`] opens a batch again, after one shootdown for
//! all of it. A region is hidden once every CPU has *acknowledged* (it cannot use a stale translation any more); a table frame
//! is freed once every CPU has *really flushed*, because hardware may walk an old table on speculation whatever software
//! does. Table frames that a shootdown only got flags for wait for the next one.

use crate::frame::list::{Dirty, RegionList, TableFrame, TableList, Unmapped};
use crate::frame::records::FrameTable;
use crate::machine::{Acknowledged, Machine};
use crate::stats::Stats;

/// Regions and tables that must not be reused before a flush.
///
/// # Panics
/// Dropping a batch with something in it is a broken invariant and panics: there is no way to ignore a batch.
#[derive(Debug, Default)]
#[must_use = "what a batch holds comes out only through a flush"]
pub struct FlushBatch {
    regions: RegionList<Unmapped>,
    tables: TableList,
}

impl FlushBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            regions: RegionList::new(),
            tables: TableList::new(),
        }
    }

    /// Regions in the batch.
    pub fn regions(&self) -> u64 {
        self.regions.len()
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.tables.is_empty()
    }

    /// Adds regions whose entries have just been cleared.
    pub(crate) fn push_regions(&mut self, frames: &mut FrameTable<'_>, regions: RegionList<Unmapped>) {
        self.regions.append(frames, regions);
    }

    /// Adds a table that has just been unlinked.
    pub(crate) fn push_table(&mut self, frames: &mut FrameTable<'_>, table: TableFrame) {
        self.tables.push(frames, table);
    }
}

impl Drop for FlushBatch {
    fn drop(&mut self) {
        assert!(
            self.is_empty(),
            "broken invariant: a flush batch was dropped before its flush"
        );
    }
}

/// Flushes batches and keeps the table frames that wait.
#[derive(Debug, Default)]
pub struct Flusher {
    waiting: TableList,
}

impl Flusher {
    /// A flusher with nothing waiting.
    pub const fn new() -> Self {
        Self {
            waiting: TableList::new(),
        }
    }

    /// Table frames that wait for a shootdown which every CPU answers with a flush.
    pub fn waiting(&self) -> u64 {
        self.waiting.len()
    }

    /// One shootdown for the whole batch; none for an empty one. Returns the batch's regions, which are hidden from now on.
    pub fn flush<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        mut batch: FlushBatch,
    ) -> RegionList<Dirty> {
        if batch.is_empty() {
            return RegionList::new();
        }
        self.waiting.append(frames, core::mem::take(&mut batch.tables));
        stats.flushes += 1;
        if machine.shootdown() == Acknowledged::Flushed {
            while let Some(table) = self.waiting.pop(frames) {
                frames.free_table(table);
            }
        }
        core::mem::take(&mut batch.regions).acknowledged(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Level;
    use crate::model::ModelMachine;

    #[test]
    #[should_panic(expected = "a flush batch was dropped before its flush")]
    fn a_batch_cannot_be_ignored() {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 1 << 30)], 1, Level::L3);
        let memory = &mut booted.memory;
        let regions = memory.frames.carve(1).unwrap();
        let batch = memory
            .direct_map
            .hide(&machine.cpu(0), &mut memory.frames, &mut memory.stats, regions)
            .unwrap();
        drop(batch);
    }

    #[test]
    fn an_empty_batch_costs_no_flush() {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 1 << 30)], 1, Level::L3);
        let memory = &mut booted.memory;
        let hidden = memory.flusher.flush(
            &machine.cpu(0),
            &mut memory.frames,
            &mut memory.stats,
            FlushBatch::new(),
        );
        assert!(hidden.is_empty());
        assert_eq!(memory.stats.flushes, 0);
    }
}
