//! The two aliases of a guest's addresses, and the host's way to what is shared.
//!
//! The host has no other way to a guest's memory than [`GuestMemory::read_shared`] and, for the guest's own vCPU, the windows of
//! [`GuestMemory::read`]; neither gives out a reference. A copy and a change of the same pages exclude each other: one borrows the
//! guest's memory, the other borrows it alone.

use core::fmt;

use crate::address::{Gfn, Gpa, Hva, PAGE_SIZE};
use crate::frame::FrameTable;
use crate::layout::direct;
use crate::machine::{Machine, WindowSpan};

use super::{GuestMemory, NotGuestMemory, PageState};

/// By which of its two addresses a page is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// With the shared bit clear: for hidden frames.
    Private,
    /// With the shared bit set: for ordinary frames, which the host reaches, too.
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
            Err(_) => PageState::Absent,
        };
        Page { start, alias, state }
    }

    /// Hidden frames of the guest that it can't reach: pending, or kept for pages that are shared. First frame and number of each run.
    pub fn unreachable<M: Machine>(&self, machine: &M) -> impl Iterator<Item = (crate::address::Pfn, u64)> {
        let mut next = Gfn::default();
        core::iter::from_fn(move || {
            while next.gpa().get() < self.bytes {
                let (state, pfn, alike) = self.tables.alike(machine, next);
                next = next.add(alike);
                if let (PageState::Pending | PageState::Shared, Some(pfn)) = (state, pfn) {
                    return Some((pfn, alike));
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
        at: Gpa,
        data: &mut [u8],
    ) -> Result<(), NotShared> {
        self.check(at, data.len() as u64).map_err(NotShared::Range)?;
        self.each_shared_page(machine, frames, at, data.len(), |_, _| {})?;
        let mut rest = data;
        self.each_shared_page(machine, frames, at, rest.len(), |from, bytes| {
            let (piece, later) = core::mem::take(&mut rest).split_at_mut(bytes);
            machine.copy_out(WindowSpan::new(from, bytes), piece);
            rest = later;
        })
    }

    /// Visits the pieces of a range of the guest's memory in order: where each begins in the direct map, and its length.
    fn each_shared_page<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        at: Gpa,
        bytes: usize,
        mut visit: impl FnMut(Hva, usize),
    ) -> Result<(), NotShared> {
        let (mut at, mut left) = (at.get(), bytes);
        while left > 0 {
            let (gfn, offset) = (Gpa::new(at).gfn(), at % PAGE_SIZE);
            let pfn = self.tables.shared_frame(machine, frames, self.id, gfn);
            let from = pfn.and_then(|pfn| direct(pfn.hpa())?.checked_add(offset));
            let from = from.ok_or(NotShared::Page(gfn.gpa()))?;
            let piece = left.min((PAGE_SIZE - offset) as usize);
            visit(from, piece);
            at += piece as u64;
            left -= piece;
        }
        Ok(())
    }
}
