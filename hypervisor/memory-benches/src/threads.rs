//! Small private allocations by several CPUs, each with its magazine, a thread for each; and how often they write to what they share.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use memory::HostMemory;
use memory::frame::extent::{Clean, Extent};
use memory::region::{Magazine, PrivateError};
use spin::Mutex;

use crate::board::{Board, OtherCpu, storage};

/// RAM: enough for what the threads hold, 5.5 MiB each.
const RAM: u64 = 4 << 30;
/// Frames that a thread takes before it gives them back: eight batches, so that most of them come from the pool and go there again. It is
/// the worst case: two users that alternate never get that far.
const HELD: usize = 8 * Magazine::BATCH;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contention {
    /// Frames taken, and frames given back, by all threads.
    pub operations: u64,
    /// Takes of the lock of the memory subsystem.
    pub locks: u64,
    /// Atomic writes to the lock: attempts to take it, and releases.
    pub writes: u64,
    /// From the moment that all were ready to the end of the last.
    pub time: Duration,
}

/// One CPU with its magazine.
struct Worker {
    cpu: OtherCpu,
    magazine: Magazine,
    held: Vec<Extent<Clean>>,
    counts: Contention,
}

impl Worker {
    fn with<R>(
        &mut self,
        memory: &Mutex<HostMemory<'_>>,
        work: impl FnOnce(&mut Self, &mut HostMemory<'_>) -> R,
    ) -> R {
        loop {
            self.counts.writes += 1;
            if let Some(mut memory) = memory.try_lock() {
                self.counts.locks += 1;
                // The release.
                self.counts.writes += 1;
                return work(self, &mut memory);
            }
            while memory.is_locked() {
                std::hint::spin_loop();
            }
        }
    }

    /// Takes a frame, as the hypervisor does.
    fn take(&mut self, memory: &Mutex<HostMemory<'_>>) -> Result<Extent<Clean>, PrivateError> {
        loop {
            if let Some(extent) = self.magazine.take() {
                return Ok(extent);
            }
            self.magazine.settle(&self.cpu.machine, &mut self.cpu.windows);
            if let Some(extent) = self.magazine.take() {
                return Ok(extent);
            }
            let growing = self.with(memory, |this, memory| {
                this.magazine.restock(memory, &this.cpu.machine)
            })?;
            if let Some(growing) = growing {
                let grown = growing.wait(&self.cpu.machine);
                self.with(memory, |this, memory| {
                    let OtherCpu { machine, windows } = &mut this.cpu;
                    this.magazine.grown(grown, memory, machine, windows);
                });
            }
        }
    }

    /// Gives a frame back that was used.
    fn give(&mut self, memory: &Mutex<HostMemory<'_>>, extent: Extent<Clean>) {
        let Err(extent) = self.magazine.put(extent.used()) else {
            return;
        };
        self.magazine.settle(&self.cpu.machine, &mut self.cpu.windows);
        let Err(extent) = self.magazine.put(extent) else {
            return;
        };
        self.with(memory, |this, memory| {
            let OtherCpu { machine, windows } = &mut this.cpu;
            this.magazine.trim(memory, machine, windows, Magazine::BATCH);
            if let Err(extent) = this.magazine.put(extent) {
                memory.free_private(machine, windows, extent);
            }
        });
    }

    /// At least so many operations: whole rounds of taking and giving back.
    fn work(&mut self, memory: &Mutex<HostMemory<'_>>, operations: u64) -> Result<(), PrivateError> {
        while self.counts.operations < operations {
            while self.held.len() < HELD {
                let extent = self.take(memory)?;
                self.held.push(extent);
            }
            while let Some(extent) = self.held.pop() {
                self.give(memory, extent);
            }
            self.counts.operations += 2 * HELD as u64;
        }
        Ok(())
    }
}

/// Lets so many threads take and give back frames, at least so many times each. Nothing is zeroed: that needs no lock, and would hide
/// what the lock costs.
///
/// # Errors
/// When there is no memory.
pub fn contend(threads: u32, operations: u64) -> Result<Contention, PrivateError> {
    let mut storage = storage(RAM);
    let (board, others) = Board::with_others(RAM, &mut storage, threads);
    let Board { memory, machine, .. } = board;
    let free = memory.frames.free_frames();
    let memory = Mutex::new(memory);
    let ready = Barrier::new(threads as usize);
    let results: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = others
            .into_iter()
            .map(|cpu| {
                let (memory, ready) = (&memory, &ready);
                scope.spawn(move || {
                    let mut worker = Worker {
                        cpu,
                        magazine: Magazine::new(),
                        held: Vec::with_capacity(HELD),
                        counts: Contention::default(),
                    };
                    ready.wait();
                    let start = Instant::now();
                    let done = worker.work(memory, operations);
                    let end = Instant::now();
                    let counts = worker.counts;
                    worker.with(memory, |this, memory| {
                        let OtherCpu { machine, windows } = &mut this.cpu;
                        this.magazine.drain(memory, machine, windows);
                    });
                    done.map(|()| (counts, start, end))
                })
            })
            .collect();
        let joined = started.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => panic!("a thread has panicked"),
        });
        joined.collect::<Result<_, _>>()
    })?;
    let mut memory = memory.into_inner();
    let restored = memory.drain(&machine).wait(&machine);
    restored.release(&mut memory, &machine);
    // The CPUs stay asleep, so a table that was merged away waits for ever.
    let now = memory.frames.free_frames() + memory.waiting_tables();
    assert_eq!(now, free, "every frame is free again");
    let start = results.iter().map(|(_, start, _)| *start).min();
    let end = results.iter().map(|(.., end)| *end).max();
    let mut all = Contention {
        time: end.zip(start).map(|(end, start)| end - start).unwrap_or_default(),
        ..Contention::default()
    };
    for (counts, ..) in &results {
        all.operations += counts.operations;
        all.locks += counts.locks;
        all.writes += counts.writes;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_to_what_is_shared_serves_32_operations() {
        for threads in [1, 2, 4] {
            let all = contend(threads, 20_000).unwrap();
            assert!(all.operations >= u64::from(threads) * 20_000);
            assert!(all.locks > 0 && all.writes >= 2 * all.locks, "{all:?}");
            // Attempts that fail are writes, too, but few: on a busy machine as on an idle one.
            assert!(all.locks * 2 * 32 <= all.operations, "{threads} threads: {all:?}");
        }
    }
}
