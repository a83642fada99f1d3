//! The last steps of giving memory back: the flush after which merged tables are freed.

use crate::host::HostMemory;
use crate::machine::Machine;
use crate::tlb::{Posted, Receipt};

/// Memory is the host's again; the flush after it was asked for.
#[derive(Debug)]
#[must_use = "the flush is to be waited for"]
pub struct Restored {
    posted: Posted,
}

impl Restored {
    pub(crate) fn new(posted: Posted) -> Self {
        Self { posted }
    }

    /// Waits for the flush, without the lock of the memory subsystem.
    pub fn wait<M: Machine>(self, machine: &M) -> Flushed {
        Flushed {
            receipt: self.posted.wait(machine),
        }
    }
}

/// The flush was acknowledged.
#[derive(Debug)]
#[must_use = "tables are freed by its last step"]
pub struct Flushed {
    receipt: Receipt,
}

impl Flushed {
    /// Frees the tables of the host that were merged away, as soon as every CPU has really flushed: 512 of them now; where there are more
    /// (one for each gigablock, so after half a TiB), [`HostMemory::settle`] goes on.
    pub fn release<M: Machine>(self, memory: &mut HostMemory<'_>, machine: &M) {
        let start = machine.now();
        let waited = self.receipt.ticks();
        let opened = memory.complete(machine, self.receipt);
        debug_assert!(opened.is_empty());
        memory.costs.restore += waited + machine.now().wrapping_sub(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, TICK};
    use crate::tlb::FlushBatch;

    #[test]
    fn the_wait_and_the_release_are_added_up() {
        let (machine, mut memory, _) = Fake::boot();
        let table = memory.frames.allocate_table(|_| {}).unwrap();
        let mut batch = FlushBatch::new();
        batch.push_table(&mut memory.frames, table);
        let flushed = Restored::new(memory.post(machine, batch)).wait(machine);
        let waited = flushed.receipt.ticks();
        assert!(waited > 0);
        memory.costs.restore = 5;
        flushed.release(&mut memory, machine);
        // The flush is noted, which takes a look at the clock, and so does the end.
        assert_eq!(memory.costs.restore, 5 + waited + 2 * TICK);
    }
}
