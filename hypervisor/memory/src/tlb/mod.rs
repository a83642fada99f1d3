//! Flushes, batched.
//!
//! Whatever a change leaves behind that a CPU may still reach through stale translations travels in a [`FlushBatch`]: regions
//! whose entry is cleared, tables that are unlinked. One round of the shootdown protocol ([`shootdown`]) serves all of it, in three steps
//! of which each takes what the one before returns: [`Flusher::post`] asks, under the lock of the memory subsystem; [`Posted::wait`] waits,
//! without it; [`Flusher::complete`] opens the batch again, under the lock, for the [`Receipt`].
//!
//! A region is hidden once every CPU has *acknowledged* (it cannot use a stale translation any more); a table frame
//! is freed once every CPU has *really flushed*, because hardware may walk an old table on speculation whatever software
//! does. Table frames wait in the [`Flusher`] until then.

pub mod atomics;
pub mod shootdown;

use crate::frame::list::{Dirty, RegionList, TableFrame, TableList, Unmapped};
use crate::frame::records::FrameTable;
use crate::machine::Machine;
use crate::stats::Stats;
use shootdown::{Acknowledged, Cpu, Generation, Request};

/// Regions on their way through a flush.
///
/// # Panics
/// Dropping it with something in it is a broken invariant and panics: there is no way to ignore a batch.
#[derive(Debug, Default)]
struct InFlight(RegionList<Unmapped>);

impl InFlight {
    fn take(&mut self) -> RegionList<Unmapped> {
        core::mem::take(&mut self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        assert!(
            self.0.is_empty(),
            "broken invariant: a flush batch was dropped before its flush"
        );
    }
}

/// Regions and tables that must not be reused before a flush.
///
/// # Panics
/// Dropping a batch with something in it is a broken invariant and panics: there is no way to ignore a batch.
#[derive(Debug, Default)]
#[must_use = "what a batch holds comes out only through a flush"]
pub struct FlushBatch {
    regions: InFlight,
    tables: TableList,
}

impl FlushBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            regions: InFlight(RegionList::new()),
            tables: TableList::new(),
        }
    }

    /// Regions in the batch.
    pub fn regions(&self) -> u64 {
        self.regions.0.len()
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.regions.0.is_empty() && self.tables.is_empty()
    }

    /// Adds regions whose entries have just been cleared.
    pub(crate) fn push_regions(&mut self, frames: &mut FrameTable<'_>, regions: RegionList<Unmapped>) {
        self.regions.0.append(frames, regions);
    }

    /// Adds a table that has just been unlinked.
    pub(crate) fn push_table(&mut self, frames: &mut FrameTable<'_>, table: TableFrame) {
        self.tables.push(frames, table);
    }
}

impl Drop for FlushBatch {
    fn drop(&mut self) {
        assert!(
            self.tables.is_empty(),
            "broken invariant: a flush batch was dropped before its flush"
        );
    }
}

/// A batch whose flush was asked for. Dropping it with regions in it panics, as for a [`FlushBatch`].
#[derive(Debug)]
#[must_use = "a flush is waited for"]
pub struct Posted {
    request: Option<Request>,
    regions: InFlight,
}

impl Posted {
    /// Waits until every CPU has acknowledged. To be called without the lock of the memory subsystem, or of anything else that another CPU
    /// might wait for with interrupts masked.
    pub fn wait<M: Machine>(self, machine: &M) -> Receipt {
        let start = machine.now();
        let acknowledged = self.request.map(|request| machine.cpu().wait(machine, request));
        Receipt {
            acknowledged,
            ticks: machine.now().wrapping_sub(start),
            regions: self.regions,
        }
    }
}

/// Every CPU has acknowledged the flush of a batch. Dropping it with regions in it panics, as for a [`FlushBatch`].
#[derive(Debug)]
#[must_use = "what a batch holds comes out only through its receipt"]
pub struct Receipt {
    acknowledged: Option<Acknowledged>,
    ticks: u64,
    regions: InFlight,
}

impl Receipt {
    /// How long the round took, in ticks of [`Machine::now`].
    pub fn ticks(&self) -> u64 {
        self.ticks
    }
}

/// Table frames that wait for every CPU to have flushed for one generation.
#[derive(Debug, Default)]
struct Waiting {
    tables: TableList,
    after: Generation,
}

/// Flushes batches and keeps the table frames that wait.
#[derive(Debug, Default)]
pub struct Flusher {
    /// Their generation stays the same until they are freed, however many batches come meanwhile.
    first: Waiting,
    /// Those that came since, with the latest generation of all of them.
    second: Waiting,
}

impl Flusher {
    /// A flusher with nothing waiting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Table frames that wait until every CPU has really flushed.
    pub fn waiting(&self) -> u64 {
        self.first.tables.len() + self.second.tables.len()
    }

    /// Asks for one shootdown for the whole batch; for none if the batch is empty.
    pub fn post(
        &mut self,
        cpu: Cpu<'_>,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        mut batch: FlushBatch,
    ) -> Posted {
        let mut request = None;
        if !batch.is_empty() {
            stats.flushes += 1;
            let tables = core::mem::take(&mut batch.tables);
            let asked = request.insert(cpu.request());
            let list = if self.first.tables.is_empty() {
                &mut self.first
            } else {
                &mut self.second
            };
            if !tables.is_empty() {
                list.tables.append(frames, tables);
                list.after = asked.generation();
            }
        }
        Posted {
            request,
            regions: core::mem::take(&mut batch.regions),
        }
    }

    /// Opens a batch whose flush is acknowledged: returns its regions, which are hidden from now on, and frees what table frames it
    /// can, this batch's or others'.
    pub fn complete(
        &mut self,
        cpu: Cpu<'_>,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        mut receipt: Receipt,
    ) -> RegionList<Dirty> {
        if let Some(acknowledged) = receipt.acknowledged {
            stats.cpus_interrupted += u64::from(acknowledged.interrupted);
            stats.cpus_flagged += u64::from(acknowledged.flagged);
            stats.cpus_spared += u64::from(acknowledged.spared);
        }
        self.release(cpu, frames);
        receipt.regions.take().acknowledged(frames)
    }

    /// Frees the table frames for which every CPU has flushed meanwhile.
    fn release(&mut self, cpu: Cpu<'_>, frames: &mut FrameTable<'_>) {
        while !self.first.tables.is_empty() && cpu.shootdown().all_flushed(self.first.after) {
            while let Some(table) = self.first.tables.pop(frames) {
                frames.free_table(table);
            }
            self.first = core::mem::take(&mut self.second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::host::HostMemory;

    /// A batch with one region in it, on a machine with one CPU.
    fn batch() -> (&'static Fake, HostMemory<'static>, FlushBatch) {
        let (machine, mut memory, _) = Fake::boot();
        let regions = memory.frames.carve(1).unwrap();
        let batch = memory
            .direct_map
            .hide(machine, &mut memory.frames, &mut memory.stats, regions)
            .unwrap();
        (machine, memory, batch)
    }

    #[test]
    #[should_panic(expected = "a flush batch was dropped before its flush")]
    fn a_batch_cannot_be_ignored() {
        let (_, _, batch) = batch();
        drop(batch);
    }

    #[test]
    #[should_panic(expected = "a flush batch was dropped before its flush")]
    fn a_posted_batch_cannot_be_ignored() {
        let (machine, mut memory, batch) = batch();
        drop(
            memory
                .flusher
                .post(machine.cpu(), &mut memory.frames, &mut memory.stats, batch),
        );
    }

    #[test]
    #[should_panic(expected = "a flush batch was dropped before its flush")]
    fn a_receipt_cannot_be_ignored() {
        let (machine, mut memory, batch) = batch();
        let posted = memory
            .flusher
            .post(machine.cpu(), &mut memory.frames, &mut memory.stats, batch);
        drop(posted.wait(machine));
    }

    #[test]
    fn an_empty_batch_costs_no_flush() {
        let (machine, mut memory, _) = Fake::boot();
        let posted = memory.flusher.post(
            machine.cpu(),
            &mut memory.frames,
            &mut memory.stats,
            FlushBatch::new(),
        );
        let receipt = posted.wait(machine);
        let hidden = memory
            .flusher
            .complete(machine.cpu(), &mut memory.frames, &mut memory.stats, receipt);
        assert!(hidden.is_empty());
        assert_eq!(memory.stats.flushes, 0);
    }
}
