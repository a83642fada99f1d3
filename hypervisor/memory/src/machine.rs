//! What the memory subsystem needs of the machine under it.
//!
//! The hypervisor implements this with real instructions, tests with the model machine. Nothing else in this crate
//! depends on where it runs.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{ENTRIES, Hva, Level, Pfn};
use crate::tlb::shootdown::{Cpu, Processor};
use crate::trace::Tracer;

/// A 4 KiB frame as a translation table: 512 entries that hardware may read, and mark accessed and dirty, at any time.
pub type Table = [AtomicU64; ENTRIES];

/// The frame of a translation table. Only this crate makes one, and only of frames that are tables, or are about to be: a table
/// is never hidden, and nobody has a reference to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableAt(Pfn);

impl TableAt {
    pub(crate) const fn new(pfn: Pfn) -> Self {
        Self(pfn)
    }

    /// The frame.
    pub const fn pfn(self) -> Pfn {
        self.0
    }
}

/// Bytes inside an open window of the CPU that asks, or in a frame of the direct map that this crate has taken and nobody knows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpan {
    start: Hva,
    bytes: usize,
}

impl WindowSpan {
    pub(crate) const fn new(start: Hva, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// The first byte.
    pub const fn start(self) -> Hva {
        self.start
    }

    /// How many.
    pub const fn bytes(self) -> usize {
        self.bytes
    }
}

/// The machine as seen by the CPU that calls.
pub trait Machine: Processor {
    /// The table, through the direct map.
    fn table(&self, at: TableAt) -> &Table;

    /// Writes one entry of a table; the index is below [`ENTRIES`]. Every entry that this crate writes is written here, so that a
    /// machine for tests sees each state that hardware may see. Release: hardware, and other CPUs, see a table's contents
    /// before they see the entry that leads to it.
    fn write_entry(&self, at: TableAt, index: usize, value: u64) {
        self.table(at)[index % ENTRIES].store(value, Ordering::Release);
    }

    /// Fills a table that is not in use yet with zeros.
    fn clear(&self, at: TableAt);

    /// Fills the bytes with zeros. The span is made of whole pages.
    fn zero(&self, span: WindowSpan);

    /// Copies `data`, which is as long as the span, into it.
    fn copy_in(&self, span: WindowSpan, data: &[u8]);

    /// Copies the span into `data`, which is as long.
    fn copy_out(&self, span: WindowSpan, data: &mut [u8]);

    /// Drops this CPU's translation of the page at `at` and its copies of the table entries that lead there (INVLPG; SDM
    /// vol. 3A, 4.10.4.1; APM vol. 2, 5.5.2).
    fn invalidate(&self, at: Hva);

    /// The same for `count` pages of the size of a leaf of `level`, side by side. A machine may drop more than that.
    fn invalidate_run(&self, at: Hva, level: Level, count: usize) {
        for page in 0..count as u64 {
            self.invalidate(Hva::new(at.get() + page * level.bytes()));
        }
    }

    /// A clock for the counters of costs: cycles on hardware, instructions where the machine counts those. It need not be the same
    /// on two CPUs.
    fn now(&self) -> u64;

    /// Who wants to know what happens to memory on this CPU.
    fn tracer(&self) -> Option<&dyn Tracer> {
        None
    }

    /// This CPU in the shootdown protocol, which it has joined.
    fn cpu(&self) -> Cpu<'_>;
}
