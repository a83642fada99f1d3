//! Windows: how a CPU reaches a hidden region for a moment.
//!
//! Each CPU has its own top-level table; its window slot leads to tables that no other CPU's top-level table knows, so no other CPU
//! can reach, or even speculate, through an open window. Opening writes an absent entry and costs no flush; closing clears it and
//! drops the one translation on this CPU. A window borrows its CPU's [`Windows`], so it cannot be open twice, leave the CPU,
//! or stay open when the CPU enters a guest (entering needs the CPU, too).

use core::marker::PhantomData;

use crate::address::{Hva, Level, Pfn};
use crate::layout::WINDOW_BASE;
use crate::machine::{Machine, WindowSpan};
use crate::paging::build::{BuildError, TableBuilder};
use crate::paging::edit::Slot;
use crate::paging::format::{Attributes, LongMode};

/// Bytes that a window shows.
pub const WINDOW_BYTES: u64 = Level::L2.bytes();

/// One CPU's windows. Not `Send`: it belongs to the CPU whose top-level table leads to it.
#[derive(Debug)]
pub struct Windows {
    /// The level-2 table below the window slot.
    table: Pfn,
    /// Windows closed: one local invalidation each.
    invalidations: u64,
    not_send: PhantomData<*const ()>,
}

impl Windows {
    /// Makes the tables of a CPU's window slot in its own top-level table, at boot.
    ///
    /// # Errors
    /// When a table frame is missing.
    pub fn new<M: Machine, A: FnMut() -> Option<Pfn>>(
        builder: &mut TableBuilder<'_, M, A>,
    ) -> Result<Self, BuildError> {
        let table = builder.table_for(WINDOW_BASE, Level::L2)?;
        Ok(Self {
            table,
            invalidations: 0,
            not_send: PhantomData,
        })
    }

    /// Local invalidations so far, one for each window closed.
    pub fn invalidations(&self) -> u64 {
        self.invalidations
    }

    /// Opens a window on a region. Crate-private: whoever opens one must own the region or the guest.
    pub(crate) fn open<'w, M: Machine>(&'w mut self, machine: &'w M, region: Pfn) -> Window<'w, M> {
        let slot = Slot::of(machine, self.table, WINDOW_BASE.index(2), Level::L2);
        let filled = slot.fill::<LongMode>(region, Attributes::DATA);
        assert!(
            filled,
            "broken invariant: a window is open already, or {} is no region",
            region.hpa()
        );
        Window {
            windows: self,
            machine,
        }
    }
}

/// An open window on 2 MiB; closed when dropped, which invalidates one translation on this CPU.
pub(crate) struct Window<'w, M: Machine> {
    windows: &'w mut Windows,
    machine: &'w M,
}

impl<M: Machine> Window<'_, M> {
    /// Overwrites the whole region with zeros.
    pub(crate) fn zero(&mut self) {
        self.machine.zero(self.span(0, WINDOW_BYTES as usize));
    }

    /// Writes at a byte offset; the caller keeps within the region.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.machine.copy_in(self.span(offset, data.len()), data);
    }

    /// Reads from a byte offset; the caller keeps within the region.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        self.machine.copy_out(self.span(offset, data.len()), data);
    }

    fn span(&self, offset: u64, len: usize) -> WindowSpan {
        assert!(
            offset
                .checked_add(len as u64)
                .is_some_and(|end| end <= WINDOW_BYTES),
            "broken invariant: access past the end of a window"
        );
        WindowSpan::new(Hva::new(WINDOW_BASE.get() + offset), len)
    }
}

impl<M: Machine> Drop for Window<'_, M> {
    fn drop(&mut self) {
        Slot::of(self.machine, self.windows.table, WINDOW_BASE.index(2), Level::L2).clear();
        self.machine.invalidate(WINDOW_BASE);
        self.windows.invalidations += 1;
    }
}
