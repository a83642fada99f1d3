//! The two aliases of a guest's addresses, and the host's way to what is shared.
//!
//! The host has no other way to a guest's memory than [`GuestMemory::read_shared`] and [`GuestMemory::write_shared`], and, for the guest's own
//! vCPU, the windows of [`GuestMemory::read`]; none gives out a reference. A copy and a change of the same pages exclude each other: one borrows
//! the guest's memory, the other borrows it alone. Ordinary frames are reached in the direct map, those that are shared in place through windows.

use core::fmt;

use crate::address::{Gfn, Gpa, Hva, Level, PAGE_SIZE, Pfn};
use crate::frame::FrameTable;
use crate::layout::direct;
use crate::machine::{Machine, WindowSpan};
use crate::window::Windows;

use super::{GuestMemory, NotGuestMemory, PageState};

/// By which of its two addresses a page is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// With the shared bit clear: for hidden frames.
    Private,
    /// With the shared bit set: for what the host reaches, too.
    Shared,
}

/// What a guest-physical address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its first byte, at the private alias.
    pub start: Gpa,
    /// By which alias the address names it.
    pub alias: Alias,
    /// What it is.
    pub state: PageState,
}

/// A range that the host may not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotShared {
    /// Not all the guest's memory.
    Range(NotGuestMemory),
    /// This page of it, by its address at the private alias, is not shared.
    Page(Gpa),
}

impl fmt::Display for NotShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Page(page) => write!(f, "the page at guest-physical {page} is not shared"),
        }
    }
}

impl core::error::Error for NotShared {}

impl GuestMemory {
    /// The number of the bit that is set in addresses of the shared alias.
    pub fn shared_bit(&self) -> u8 {
        self.tables.shared_bit()
    }

    /// What a guest-physical address of either alias names.
    pub fn page<M: Machine>(&self, machine: &M, at: Gpa) -> Page {
        let bit = 1 << self.shared_bit();
        let alias = if at.get() & bit == 0 {
            Alias::Private
        } else {
            Alias::Shared
        };
        let start = Gpa::new(at.get() & !bit).align_down(PAGE_SIZE);
        let state = match self.check(start, PAGE_SIZE) {
            Ok(()) => self.tables.state(machine, start.gfn()),
            Err(_) => PageState::Outside,
        };
        Page { start, alias, state }
    }

    /// Bytes of its memory that it reaches, at the private alias, through leaves of 2 MiB or more. Looks at each entry for 2 MiB.
    pub fn bytes_in_large_leaves<M: Machine>(&self, machine: &M) -> u64 {
        let region = Level::L2.frames();
        let (mut next, mut pages) = (Gfn::default(), 0);
        while next.gpa().get() < self.bytes {
            let (state, _, alike) = self.tables.alike(machine, next);
            if state == PageState::Accepted && alike >= region {
                pages += alike;
            }
            // Where an entry is for one page, all of the 2 MiB are in such entries.
            next = next.add(alike.max(region));
        }
        pages * PAGE_SIZE
    }

    /// Hidden frames of the guest that it can't reach: pending, kept for pages that are shared or given back, or on the way from one alias to the other. First
    /// frame and number of each run.
    pub fn unreachable<M: Machine>(&self, machine: &M) -> impl Iterator<Item = (Pfn, u64)> {
        self.hidden_runs(machine, |state, gfn| match state {
            // Absent with a frame: given back, and others of its 2 MiB are not.
            PageState::Pending | PageState::Shared | PageState::Absent => true,
            PageState::SharedInPlace => self.tables.mapped_in_place(machine, gfn).is_none(),
            PageState::Accepted | PageState::Outside => false,
        })
    }

    /// Hidden frames of the guest that it reaches at the shared alias. First frame and number of each run.
    pub fn shared_in_place<M: Machine>(&self, machine: &M) -> impl Iterator<Item = (Pfn, u64)> {
        self.hidden_runs(machine, |state, gfn| {
            state == PageState::SharedInPlace && self.tables.mapped_in_place(machine, gfn).is_some()
        })
    }

    /// Runs of hidden frames whose pages are in a state of interest. Those shared in place come one by one: the shared alias says more of each.
    fn hidden_runs<M: Machine>(
        &self,
        machine: &M,
        is_meant: impl Fn(PageState, Gfn) -> bool,
    ) -> impl Iterator<Item = (Pfn, u64)> {
        let mut next = Gfn::default();
        core::iter::from_fn(move || {
            while next.gpa().get() < self.bytes {
                let (state, pfn, alike) = self.tables.alike(machine, next);
                let frames = if state == PageState::SharedInPlace {
                    1
                } else {
                    alike
                };
                let at = next;
                next = next.add(frames);
                if let Some(pfn) = pfn.filter(|_| is_meant(state, at)) {
                    return Some((pfn, frames));
                }
            }
            None
        })
    }

    /// Copies what the guest shares from `at`, an address at the private alias, on. Each byte is read once: what the guest writes meanwhile
    /// is in the copy or not.
    ///
    /// # Errors
    /// When not all of the range is shared; then `data` is unchanged.
    pub fn read_shared<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        windows: &mut Windows,
        at: Gpa,
        data: &mut [u8],
    ) -> Result<(), NotShared> {
        self.check(at, data.len() as u64).map_err(NotShared::Range)?;
        self.each_shared_page(machine, frames, at, data.len(), |_, _| {})?;
        let mut rest = data;
        self.each_shared_page(machine, frames, at, rest.len(), |from, bytes| {
            let (piece, later) = core::mem::take(&mut rest).split_at_mut(bytes);
            match from {
                Place::Ordinary(from) => machine.copy_out(WindowSpan::new(from, bytes), piece),
                Place::Hidden(pfn, offset) => windows.open(machine, pfn, 0).read(offset, piece),
            }
            rest = later;
        })
    }

    /// Copies into what the guest shares.
    ///
    /// # Errors
    /// When not all of the range is shared; then nothing was written.
    pub fn write_shared<M: Machine>(
        &mut self,
        machine: &M,
        frames: &FrameTable<'_>,
        windows: &mut Windows,
        at: Gpa,
        data: &[u8],
    ) -> Result<(), NotShared> {
        self.check(at, data.len() as u64).map_err(NotShared::Range)?;
        self.each_shared_page(machine, frames, at, data.len(), |_, _| {})?;
        let mut rest = data;
        self.each_shared_page(machine, frames, at, rest.len(), |to, bytes| {
            let (piece, later) = rest.split_at(bytes);
            match to {
                Place::Ordinary(to) => machine.copy_in(WindowSpan::new(to, bytes), piece),
                Place::Hidden(pfn, offset) => windows.open(machine, pfn, 0).write(offset, piece),
            }
            rest = later;
        })
    }

    /// Visits the pieces of a range of the guest's memory in order: where each begins, and its length.
    fn each_shared_page<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        at: Gpa,
        bytes: usize,
        mut visit: impl FnMut(Place, usize),
    ) -> Result<(), NotShared> {
        let (mut at, mut left) = (at.get(), bytes);
        while left > 0 {
            let (gfn, offset) = (Gpa::new(at).gfn(), at % PAGE_SIZE);
            let place = self.shared_place(machine, frames, gfn, offset);
            let place = place.ok_or(NotShared::Page(gfn.gpa()))?;
            let piece = left.min((PAGE_SIZE - offset) as usize);
            visit(place, piece);
            at += piece as u64;
            left -= piece;
        }
        Ok(())
    }

    /// Where the host finds a byte of a shared page; `None` if the page is not shared, or the second stage and the frame's record disagree.
    fn shared_place<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        gfn: Gfn,
        offset: u64,
    ) -> Option<Place> {
        if let Some(pfn) = self.tables.shared_frame(machine, frames, self.id, gfn) {
            return Some(Place::Ordinary(direct(pfn.hpa())?.checked_add(offset)?));
        }
        let pfn = self.tables.in_place_frame(machine, frames, self.id, gfn)?;
        Some(Place::Hidden(pfn, offset))
    }
}

/// Where the host finds what is shared.
enum Place {
    /// In the direct map.
    Ordinary(Hva),
    /// In this hidden frame, at this offset.
    Hidden(Pfn, u64),
}
