//! Flushes, batched.
//!
//! Whatever a change leaves behind that a CPU may still reach through stale translations travels in a [`FlushBatch`]: extents
//! whose entries are cleared, tables that are unlinked. One round of the shootdown protocol ([`shootdown`]) serves all of it, in three steps
//! of which each takes what the one before returns: [`Flusher::post`] asks, under the lock of the memory subsystem; [`Posted::wait`] waits,
//! without it; [`Flusher::complete`] opens the batch again, under the lock, for the [`Receipt`].
//!
//! An extent is hidden once every CPU has *acknowledged* (it cannot use a stale translation any more); a table frame
//! is freed once every CPU has *really flushed*, because hardware may walk an old table on speculation whatever software
//! does. Table frames wait in the [`Flusher`] until then; those that a restore merged away wait for somebody else's flush.

pub mod atomics;
pub mod shootdown;

use crate::address::Level;
use crate::frame::extent::{Dirty, Unmapped};
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::frame::table_frame::{TableFrame, TableList};
use crate::machine::Machine;
use crate::stats::Stats;
use shootdown::{Acknowledged, Cpu, Generation, Request};

/// Table frames that are freed in one piece of work: what 2 MiB are made of.
const FREED_AT_ONCE: u64 = Level::L2.frames();

/// Extents on their way through a flush.
///
/// # Panics
/// Dropping it with something in it is a broken invariant and panics: there is no way to ignore a batch.
#[derive(Debug, Default)]
struct InFlight(ExtentList<Unmapped>);

impl InFlight {
    fn take(&mut self) -> ExtentList<Unmapped> {
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

/// Extents and tables that must not be reused before a flush.
///
/// # Panics
/// Dropping a batch with something in it is a broken invariant and panics: there is no way to ignore a batch.
#[derive(Debug, Default)]
#[must_use = "what a batch holds comes out only through a flush"]
pub struct FlushBatch {
    extents: InFlight,
    tables: TableList,
}

impl FlushBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            extents: InFlight(ExtentList::new()),
            tables: TableList::new(),
        }
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.extents.0.is_empty() && self.tables.is_empty()
    }

    /// Adds extents whose entries have just been cleared.
    pub(crate) fn push_extents(&mut self, frames: &mut FrameTable<'_>, extents: ExtentList<Unmapped>) {
        self.extents.0.append(frames, extents);
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

/// A batch whose flush was asked for. Dropping it with extents in it panics, as for a [`FlushBatch`].
#[derive(Debug)]
#[must_use = "a flush is waited for"]
pub struct Posted {
    request: Option<Request>,
    extents: InFlight,
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
            extents: self.extents,
        }
    }
}

/// Every CPU has acknowledged the flush of a batch. Dropping it with extents in it panics, as for a [`FlushBatch`].
#[derive(Debug)]
#[must_use = "what a batch holds comes out only through its receipt"]
pub struct Receipt {
    acknowledged: Option<Acknowledged>,
    ticks: u64,
    extents: InFlight,
}

impl Receipt {
    /// Whether there was anything to flush.
    pub(crate) fn asked(&self) -> bool {
        self.acknowledged.is_some()
    }

    /// How long the round took, in ticks of [`Machine::now`].
    pub fn ticks(&self) -> u64 {
        self.ticks
    }
}

/// Extents whose flush every CPU has acknowledged. Their records are brought up to date as they are taken out, some at a time.
#[derive(Debug, Default)]
#[must_use = "memory in an opened batch that is dropped is lost"]
pub struct Opened(ExtentList<Unmapped>);

impl Opened {
    /// Extents that are taken out at a time: of a gigablock in regions, all.
    const AT_ONCE: usize = 512;

    /// Takes some extents out: they are hidden.
    pub(crate) fn take_some(&mut self, frames: &mut FrameTable<'_>) -> ExtentList<Dirty> {
        let mut some = ExtentList::new();
        for _ in 0..Self::AT_ONCE {
            if self.0.is_empty() {
                break;
            }
            self.0.move_first(frames, &mut some);
        }
        some.acknowledged(frames)
    }

    /// Takes all extents out: they are hidden.
    pub fn take(self, frames: &mut FrameTable<'_>) -> ExtentList<Dirty> {
        self.0.acknowledged(frames)
    }

    /// Frames that are left.
    pub(crate) fn frames(&self) -> u64 {
        self.0.frames()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    /// Those for which nobody has asked for a flush: the next request takes them along.
    deferred: TableList,
}

impl Flusher {
    /// A flusher with nothing waiting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Table frames that wait until every CPU has really flushed.
    pub fn waiting(&self) -> u64 {
        self.first.tables.len() + self.second.tables.len() + self.deferred.len()
    }

    /// Leaves the tables of a batch for the next flush that anybody asks for: what was merged away costs none of its own.
    pub(crate) fn defer(&mut self, frames: &mut FrameTable<'_>, mut batch: FlushBatch) {
        // A batch with extents in it says so when it is dropped.
        self.deferred.append(frames, core::mem::take(&mut batch.tables));
    }

    /// A batch of the tables that nobody has asked a flush for.
    pub(crate) fn take_deferred(&mut self) -> FlushBatch {
        FlushBatch {
            extents: InFlight::default(),
            tables: core::mem::take(&mut self.deferred),
        }
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
            let mut tables = core::mem::take(&mut batch.tables);
            tables.append(frames, core::mem::take(&mut self.deferred));
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
            extents: core::mem::take(&mut batch.extents),
        }
    }

    /// Opens a batch whose flush is acknowledged: returns its extents, which are hidden from now on, and frees what table frames it
    /// can, this batch's or others', at most 512 of them.
    pub fn complete(
        &mut self,
        cpu: Cpu<'_>,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        mut receipt: Receipt,
    ) -> Opened {
        if let Some(acknowledged) = receipt.acknowledged {
            acknowledged.count(stats);
        }
        self.release(cpu, frames);
        Opened(receipt.extents.take())
    }

    /// Frees table frames for which every CPU has flushed meanwhile, at most [`FREED_AT_ONCE`]. Whether that many were there, so that there
    /// may be more.
    pub(crate) fn release(&mut self, cpu: Cpu<'_>, frames: &mut FrameTable<'_>) -> bool {
        let mut left = FREED_AT_ONCE;
        while left > 0 && !self.first.tables.is_empty() && cpu.shootdown().all_flushed(self.first.after) {
            left -= frames.free_some_tables(&mut self.first.tables, left);
            if self.first.tables.is_empty() {
                self.first = core::mem::take(&mut self.second);
            }
        }
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, TICK};
    use crate::host::HostMemory;
    use crate::trace::{Action, Traced};

    /// A batch with one extent in it, on a machine with one CPU.
    fn batch() -> (&'static Fake, HostMemory<'static>, FlushBatch) {
        let (machine, mut memory, _) = Fake::boot();
        let extents = memory.frames.carve(1).unwrap();
        let batch = memory
            .direct_map
            .hide(machine, &mut memory.frames, &mut memory.stats, extents)
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
    fn hiding_and_its_flush_are_noted_and_an_empty_batch_is_not() {
        let (machine, mut memory, batch) = batch();
        let receipt = memory.post(machine, batch).wait(machine);
        let mut hidden = memory.complete(machine, receipt).take(&mut memory.frames);
        let pfn = hidden.pop(&memory.frames).unwrap().pfn();
        let receipt = memory.post(machine, FlushBatch::new()).wait(machine);
        assert!(memory.complete(machine, receipt).is_empty());
        let noted = machine.noted.take();
        let of = |action| -> &Traced {
            let mut events = noted.iter().filter(|event| event.action == action);
            let only = events.next().unwrap();
            assert_eq!(events.next(), None);
            only
        };
        let (hide, flush) = (of(Action::Hide), of(Action::Flush));
        assert_eq!((hide.address, hide.bytes), (pfn.hpa().get(), 2 << 20));
        assert_eq!((flush.address, flush.bytes), (0, 2 << 20));
        assert!(hide.time < flush.time);
    }

    #[test]
    fn whom_a_flush_reached_is_added_up() {
        let (machine, mut memory, _) = Fake::boot();
        for rounds in 1..=2 {
            let mut receipt = memory.post(machine, FlushBatch::new()).wait(machine);
            receipt.acknowledged = Some(Acknowledged {
                generation: Generation::default(),
                interrupted: 1,
                flagged: 2,
                spared: 3,
            });
            let none = memory.complete(machine, receipt);
            assert!(none.is_empty());
            let stats = memory.stats();
            assert_eq!(
                (stats.cpus_interrupted, stats.cpus_flagged, stats.cpus_spared),
                (rounds, 2 * rounds, 3 * rounds)
            );
        }
    }

    /// A batch with one table in it.
    fn table_batch(memory: &mut HostMemory<'_>) -> FlushBatch {
        let table = memory.frames.allocate_table(|_| {}).unwrap();
        let mut batch = FlushBatch::new();
        batch.push_table(&mut memory.frames, table);
        batch
    }

    #[test]
    #[should_panic(expected = "a flush batch was dropped before its flush")]
    fn a_batch_of_tables_cannot_be_ignored() {
        let (_, mut memory, _) = Fake::boot();
        drop(table_batch(&mut memory));
    }

    #[test]
    fn a_table_waits_for_the_flush_that_was_asked_for_it() {
        let (machine, mut memory, _) = Fake::boot();
        let free = memory.frames.free_frames();
        let batch = table_batch(&mut memory);
        let first = memory.post(machine, batch).wait(machine);
        assert!(first.asked());
        assert_eq!(first.ticks(), TICK, "from one look at the clock to the next");
        // Asked for after the flush of the first, and before its tables are freed.
        let batch = table_batch(&mut memory);
        let second = memory.post(machine, batch);
        assert_eq!(memory.waiting_tables(), 2);
        let none = memory.complete(machine, first);
        assert!(none.is_empty());
        assert_eq!(
            memory.waiting_tables(),
            1,
            "the second table was freed by the first flush"
        );
        assert_eq!(memory.frames.free_frames(), free - 1);
        let third = memory.post(machine, FlushBatch::new()).wait(machine);
        assert!(!third.asked());
        let none = memory.complete(machine, third);
        assert!(none.is_empty());
        assert_eq!(memory.waiting_tables(), 1);
        let second = second.wait(machine);
        let none = memory.complete(machine, second);
        assert!(none.is_empty());
        assert_eq!((memory.waiting_tables(), memory.frames.free_frames()), (0, free));
        assert_eq!(memory.stats.flushes, 2);
    }

    #[test]
    fn deferred_tables_wait_for_the_next_flush_that_is_asked_for() {
        let (machine, mut memory, _) = Fake::boot();
        let free = memory.frames.free_frames();
        let batch = table_batch(&mut memory);
        memory.flusher.defer(&mut memory.frames, batch);
        let batch = table_batch(&mut memory);
        memory.flusher.defer(&mut memory.frames, batch);
        assert_eq!((memory.waiting_tables(), memory.stats.flushes), (2, 0));
        // An empty batch asks for none, and takes none along.
        let receipt = memory.post(machine, FlushBatch::new()).wait(machine);
        assert!(memory.complete(machine, receipt).is_empty());
        assert_eq!((memory.waiting_tables(), memory.stats.flushes), (2, 0));
        let batch = table_batch(&mut memory);
        let receipt = memory.post(machine, batch).wait(machine);
        assert_eq!((memory.waiting_tables(), memory.stats.flushes), (3, 1));
        assert!(memory.complete(machine, receipt).is_empty());
        assert_eq!((memory.waiting_tables(), memory.frames.free_frames()), (0, free));
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
