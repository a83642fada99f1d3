//! What the memory subsystem needs of the machine under it.
//!
//! The hypervisor implements this with real instructions, tests with the model machine. Nothing else in this crate
//! depends on where it runs.

use core::sync::atomic::AtomicU64;

use crate::address::{ENTRIES, Hva, Pfn};

/// A 4 KiB frame as a translation table: 512 entries that hardware may read, and mark accessed and dirty, at any time.
pub type Table = [AtomicU64; ENTRIES];

/// How far a shootdown got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// Every CPU has dropped its translations and its copies of table entries.
    Flushed,
    /// Every CPU has either flushed or has been flagged while it runs a guest or sleeps: it can't use a host translation before it
    /// flushes, but may still walk old tables on speculation.
    Flagged,
}

/// The machine as seen by the CPU that calls.
pub trait Machine {
    /// The frame as a table, through the direct map. Only frames that are never hidden (tables) are asked for.
    fn table(&self, pfn: Pfn) -> &Table;

    /// Fills `bytes` bytes from `at` with zeros. `at` lies in an open window of this CPU.
    fn zero(&self, at: Hva, bytes: usize);

    /// Copies `data` to `at`, which lies in an open window of this CPU.
    fn copy_in(&self, at: Hva, data: &[u8]);

    /// Copies from `at`, which lies in an open window of this CPU.
    fn copy_out(&self, at: Hva, data: &mut [u8]);

    /// Drops this CPU's translation of the page at `at` and its copies of the table entries that lead there (INVLPG; SDM
    /// vol. 3A, 4.10.4.1; APM vol. 2, 5.5.2).
    fn invalidate(&self, at: Hva);

    /// A clock for the counters of costs: cycles on hardware, instructions where the machine counts those. It need not be the same
    /// on two CPUs.
    fn now(&self) -> u64;

    /// Makes every CPU stop using host translations and table entries that were changed before the call.
    fn shootdown(&self) -> Acknowledged;
}
