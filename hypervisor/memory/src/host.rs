//! All of the host's memory: what the parts of this crate do together.

use crate::address::{PAGE_SIZE, Pfn};
use crate::direct_map::DirectMap;
use crate::frame::FrameTable;
use crate::guest::MOST_GUEST_BITS;
use crate::machine::Machine;
use crate::region::{Pool, Watermarks};
use crate::stats::{Costs, Stats};
use crate::tlb::{FlushBatch, Flusher, Opened, Posted, Receipt};
use crate::trace::{Action, Traced};

/// The frames, the direct map over them, and what waits for a flush.
pub struct HostMemory<'m> {
    /// The state of every frame, and the host's allocator.
    pub frames: FrameTable<'m>,
    pub(crate) direct_map: DirectMap,
    pub(crate) flusher: Flusher,
    pub(crate) pool: Pool,
    /// Whether second-stage tables may have 1G leaves.
    pub(crate) large_guest_leaves: bool,
    /// The bit that tells a guest's shared alias from its private one.
    pub(crate) shared_bit: u8,
    pub(crate) stats: Stats,
    pub(crate) costs: Costs,
}

impl<'m> HostMemory<'m> {
    /// Takes over RAM and the direct map under the top-level table `root`, as the boot built it.
    pub fn new<M: Machine>(machine: &M, mut frames: FrameTable<'m>, root: Pfn) -> Self {
        let direct_map = DirectMap::adopt(machine, &mut frames, root);
        let marks = Watermarks::for_frames(frames.frames());
        Self {
            frames,
            direct_map,
            flusher: Flusher::new(),
            pool: Pool::new(marks),
            large_guest_leaves: false,
            shared_bit: MOST_GUEST_BITS - 1,
            stats: Stats::default(),
            costs: Costs::default(),
        }
    }

    /// The counters since boot.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Where the time went since boot.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Table frames that wait for a flush by every CPU.
    pub fn waiting_tables(&self) -> u64 {
        self.flusher.waiting()
    }

    /// Frees table frames that waited for CPUs which have flushed meanwhile, at most 512 (what 2 MiB are made of). True when there may be
    /// more: whoever wants all of them calls again, and lets the lock go in between.
    pub fn settle<M: Machine>(&mut self, machine: &M) -> bool {
        self.flusher.release(machine.cpu(), &mut self.frames)
    }

    /// Asks for the flush of a batch.
    pub(crate) fn post<M: Machine>(&mut self, machine: &M, batch: FlushBatch) -> Posted {
        self.flusher
            .post(machine.cpu(), &mut self.frames, &mut self.stats, batch)
    }

    /// Opens a batch after its flush.
    pub(crate) fn complete<M: Machine>(&mut self, machine: &M, receipt: Receipt) -> Opened {
        let flushed = receipt.asked();
        let opened = self
            .flusher
            .complete(machine.cpu(), &mut self.frames, &mut self.stats, receipt);
        if flushed && let Some(tracer) = machine.tracer() {
            tracer.note(Traced {
                time: machine.now(),
                action: Action::Flush,
                address: 0,
                bytes: opened.frames() * PAGE_SIZE,
            });
        }
        opened
    }
}
