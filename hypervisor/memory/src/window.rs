//! Windows: how a CPU reaches hidden memory for a moment.
//!
//! Each CPU has its own top-level table; its window slot leads to tables that no other CPU's top-level table knows, so no other CPU
//! can reach, or even speculate, through an open window. There is one place for a window of 2 MiB and 512 for pages, which show scattered
//! frames side by side. Opening writes absent entries and costs no flush; closing clears them and drops those translations on this CPU, all
//! of a window in one batch. A window borrows its CPU's [`Windows`], so it cannot be open twice, leave the CPU, or stay open when the CPU
//! enters a guest (entering needs the CPU, too).

use core::marker::PhantomData;

use crate::address::{ENTRIES, Hva, Level, PAGE_SIZE, Pfn, REGION_ORDER};
use crate::layout::{PAGE_WINDOW_BASE, WINDOW_BASE};
use crate::machine::{Machine, WindowSpan};
use crate::paging::build::{BuildError, TableBuilder};
use crate::paging::edit::Slot;
use crate::paging::format::{Attributes, LongMode};

/// Bytes that the largest window shows.
pub const WINDOW_BYTES: u64 = Level::L2.bytes();

/// One CPU's windows. Not `Send`: it belongs to the CPU whose top-level table leads to it.
#[derive(Debug)]
pub struct Windows {
    /// The level-2 table below the window slot.
    table: Pfn,
    /// The level-1 table of the page windows.
    pages: Pfn,
    /// Translations dropped on this CPU because a window was closed.
    invalidations: u64,
    not_send: PhantomData<*const ()>,
}

impl Windows {
    /// Makes a CPU's own top-level table, at boot: a copy of the builder's, which shares everything below it, with windows that no other
    /// CPU has. Returns the table, and the windows.
    ///
    /// # Errors
    /// When a table frame is missing.
    pub fn for_cpu<M: Machine, A: FnMut() -> Option<Pfn>>(
        builder: &mut TableBuilder<'_, M, A>,
    ) -> Result<(Pfn, Self), BuildError> {
        let root = builder.copy_root()?;
        let shared = builder.switch_root(root);
        let windows = Self::in_slot(builder);
        builder.switch_root(shared);
        Ok((root, windows?))
    }

    fn in_slot<M: Machine, A: FnMut() -> Option<Pfn>>(
        builder: &mut TableBuilder<'_, M, A>,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            table: builder.table_for(WINDOW_BASE, Level::L2)?,
            pages: builder.table_for(PAGE_WINDOW_BASE, Level::L1)?,
            invalidations: 0,
            not_send: PhantomData,
        })
    }

    /// Local invalidations so far: one for each 2 MiB or page that was shown.
    pub fn invalidations(&self) -> u64 {
        self.invalidations
    }

    /// Opens a window on an extent of at most 2 MiB. Crate-private: whoever opens one must own the extent or the guest.
    pub(crate) fn open<'w, M: Machine>(&'w mut self, machine: &'w M, pfn: Pfn, order: u8) -> Window<'w, M> {
        if order < REGION_ORDER {
            let mut window = self.open_pages(machine);
            let added = window.add(pfn, order);
            assert!(
                added,
                "broken invariant: less than 2 MiB do not fit the page windows"
            );
            return window;
        }
        let slot = Slot::of(machine, self.table, WINDOW_BASE.index(2), Level::L2);
        let filled = order == REGION_ORDER && slot.fill::<LongMode>(pfn, Attributes::DATA);
        assert!(
            filled,
            "broken invariant: a window is open already, or {} is no region",
            pfn.hpa()
        );
        Window {
            windows: self,
            machine,
            start: WINDOW_BASE,
            level: Level::L2,
            shown: 1,
        }
    }

    /// Opens a window that shows nothing yet, for extents below 2 MiB side by side.
    pub(crate) fn open_pages<'w, M: Machine>(&'w mut self, machine: &'w M) -> Window<'w, M> {
        Window {
            windows: self,
            machine,
            start: PAGE_WINDOW_BASE,
            level: Level::L1,
            shown: 0,
        }
    }
}

/// An open window; closed when dropped.
pub(crate) struct Window<'w, M: Machine> {
    windows: &'w mut Windows,
    machine: &'w M,
    start: Hva,
    /// Of its leaves.
    level: Level,
    /// Leaves that are there.
    shown: usize,
}

impl<M: Machine> Window<'_, M> {
    /// Shows another extent behind those shown already. False, and nothing changed, when there is no room, or it is not below 2 MiB.
    #[must_use]
    pub(crate) fn add(&mut self, pfn: Pfn, order: u8) -> bool {
        let fits = order < REGION_ORDER && self.shown + (1 << order) <= ENTRIES;
        if self.level != Level::L1 || !fits {
            return false;
        }
        for page in 0..1 << order {
            let filled = self
                .slot(self.shown)
                .fill::<LongMode>(pfn.add(page), Attributes::DATA);
            assert!(filled, "broken invariant: a page window is open already");
            self.shown += 1;
        }
        true
    }

    /// Bytes shown.
    fn bytes(&self) -> u64 {
        self.shown as u64 * self.level.bytes()
    }

    /// Overwrites everything shown with zeros; how many bytes that were.
    pub(crate) fn zero(&mut self) -> u64 {
        let bytes = self.bytes();
        self.machine.zero(self.span(0, bytes as usize));
        bytes
    }

    /// Writes at a byte offset; the caller keeps within the window.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.machine.copy_in(self.span(offset, data.len()), data);
    }

    /// Reads from a byte offset; the caller keeps within the window.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        self.machine.copy_out(self.span(offset, data.len()), data);
    }

    fn span(&self, offset: u64, len: usize) -> WindowSpan {
        assert!(
            offset
                .checked_add(len as u64)
                .is_some_and(|end| end <= self.bytes()),
            "broken invariant: access past the end of a window"
        );
        WindowSpan::new(Hva::new(self.start.get() + offset), len)
    }

    fn slot(&self, leaf: usize) -> Slot<'_, M> {
        let at = Hva::new(self.start.get() + leaf as u64 * self.level.bytes());
        match self.level {
            Level::L1 => Slot::of(self.machine, self.windows.pages, at.index(1), Level::L1),
            _ => Slot::of(self.machine, self.windows.table, at.index(2), Level::L2),
        }
    }
}

impl<M: Machine> Drop for Window<'_, M> {
    fn drop(&mut self) {
        for leaf in 0..self.shown {
            self.slot(leaf).clear();
        }
        self.machine.invalidate_run(self.start, self.level, self.shown);
        self.windows.invalidations += self.shown as u64;
    }
}

// The page windows are one level-1 table's.
const _: () = assert!(ENTRIES as u64 * PAGE_SIZE == WINDOW_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// The entries that are there, in the table of 2 MiB windows (which leads to that of pages, too) and in that of pages.
    fn open_entries(machine: &Fake, windows: &Windows) -> (usize, usize) {
        let count = |table: Pfn| {
            let entries = machine.frame(table).iter();
            entries
                .filter(|entry| entry.load(core::sync::atomic::Ordering::Relaxed) != 0)
                .count()
        };
        (count(windows.table) - 1, count(windows.pages))
    }

    #[test]
    fn what_a_window_shows_is_gone_when_it_closes_and_counted() {
        let (machine, _, mut windows) = Fake::boot();
        let region = windows.open(machine, Pfn::new(512), REGION_ORDER);
        assert_eq!(region.bytes(), WINDOW_BYTES);
        assert_eq!(open_entries(machine, region.windows), (1, 0));
        drop(region);
        assert_eq!(open_entries(machine, &windows), (0, 0));
        assert_eq!(windows.invalidations(), 1);

        let mut pages = windows.open(machine, Pfn::new(0x300), 3);
        assert!(pages.add(Pfn::new(0x310), 4));
        assert_eq!(pages.bytes(), 24 * PAGE_SIZE);
        assert_eq!(open_entries(machine, pages.windows), (0, 24));
        assert_eq!(pages.zero(), 24 * PAGE_SIZE);
        drop(pages);
        assert_eq!(open_entries(machine, &windows), (0, 0));
        assert_eq!(windows.invalidations(), 25);
    }

    #[test]
    fn page_windows_hold_two_mebibytes_and_no_region() {
        let (machine, _, mut windows) = Fake::boot();
        let mut region = windows.open(machine, Pfn::new(512), REGION_ORDER);
        assert!(!region.add(Pfn::new(0x300), 0), "a page beside a region");
        drop(region);
        let mut pages = windows.open_pages(machine);
        assert_eq!(pages.bytes(), 0);
        assert!(!pages.add(Pfn::new(512), REGION_ORDER));
        assert!(pages.add(Pfn::new(0x300), 8));
        assert!(!pages.add(Pfn::new(0x400), 8 + 1));
        assert!(pages.add(Pfn::new(0x400), 8), "the last that fits");
        assert!(!pages.add(Pfn::new(0x500), 0));
        assert_eq!(pages.bytes(), WINDOW_BYTES);
    }

    /// Up to the last byte, and not one further.
    #[test]
    fn the_last_byte_of_a_window_can_be_read() {
        let (machine, _, mut windows) = Fake::boot();
        let window = windows.open(machine, Pfn::new(0x300), 1);
        let mut byte = [7];
        window.read(2 * PAGE_SIZE - 1, &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(
            window.span(PAGE_SIZE, 9).start(),
            Hva::new(PAGE_WINDOW_BASE.get() + PAGE_SIZE)
        );
    }

    #[test]
    #[should_panic(expected = "access past the end of a window")]
    fn a_byte_past_the_end_cannot_be_read() {
        let (machine, _, mut windows) = Fake::boot();
        let window = windows.open(machine, Pfn::new(0x300), 1);
        window.read(2 * PAGE_SIZE, &mut [0]);
    }

    #[test]
    #[should_panic(expected = "a window is open already")]
    fn an_extent_of_more_than_a_region_is_not_shown() {
        let (machine, _, mut windows) = Fake::boot();
        drop(windows.open(machine, Pfn::new(1024), REGION_ORDER + 1));
    }
}
