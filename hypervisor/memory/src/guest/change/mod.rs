//! What a guest changes in its memory while it runs: it shares pages with the host, makes them private again, accepts them.
//!
//! A change covers a range and goes in steps of at most 2 MiB, so that no lock is held for longer; it can rest between any two. It is
//! checked as a whole, then everything that it needs is reserved, and until then it can be refused and has changed nothing. What follows cannot fail:
//!
//! ```text
//!            check     reserve              revoke                       flush   finish
//! share      accepted, frames and tables    private: absent, kept        once    scrub the hidden frames; map the shared ones
//!            pending
//! unshare    shared    tables, what is not  shared: absent, leaving      once    free the ordinary frames; private: pending
//!                      kept any more
//! accept     pending   tables               -                            -       private: mapped; promote
//! in place   accepted  tables               private: absent, marked      once    shared: the same frames
//! and back   in place  tables               shared: absent               once    private: mapped; promote
//! ```
//!
//! The hidden frames stay the guest's all the while, so a page that becomes private again has the frame that it had at launch, and the records
//! of the frames do not change, unless memory is low: `kept`. The direct map is not touched. Giving memory back and taking it again are changes, too:
//! `balloon`.
//!
//! This file says what changes there are and begins one; `changing` is one on its way, which `steps` takes from phase to phase; `reserve` takes what it
//! needs, and `apply` does it.

mod apply;
mod changing;
mod reserve;
mod steps;

pub(super) use changing::{Changing, Reserved};

use core::fmt;

use crate::address::{Gpa, Level, PAGE_SIZE};
use crate::frame::allocator::OutOfMemory;

use super::second_stage::PageState;
use super::{GuestMemory, NotGuestMemory};

/// What becomes of the pages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From private to shared: zeroed ordinary frames take the place of the hidden ones.
    Share,
    /// From shared to private: pending, and zero.
    Unshare,
    /// From pending to accepted.
    Accept,
    /// From accepted to shared in place: the hidden frames themselves, with what they hold, at the shared alias.
    ShareInPlace,
    /// From shared in place to accepted again, with what the pages hold then.
    UnshareInPlace,
    /// From private to absent: the memory goes back to the host, 2 MiB at a time.
    GiveBack,
    /// From absent to private: pending, and zero.
    TakeAgain,
}

impl Change {
    /// Whether a page in this state can be changed like this.
    const fn fits(self, state: PageState) -> bool {
        match self {
            Self::Share => matches!(state, PageState::Accepted | PageState::Pending),
            Self::Unshare => matches!(state, PageState::Shared),
            Self::Accept => matches!(state, PageState::Pending),
            Self::ShareInPlace => matches!(state, PageState::Accepted),
            Self::UnshareInPlace => matches!(state, PageState::SharedInPlace),
            Self::GiveBack => matches!(state, PageState::Accepted | PageState::Pending),
            Self::TakeAgain => matches!(state, PageState::Absent),
        }
    }

    /// Every change there is.
    pub const ALL: [Self; 7] = [
        Self::Share,
        Self::Unshare,
        Self::Accept,
        Self::ShareInPlace,
        Self::UnshareInPlace,
        Self::GiveBack,
        Self::TakeAgain,
    ];

    /// Whether the host can read more afterwards.
    const fn shares(self) -> bool {
        matches!(self, Self::Share | Self::ShareInPlace)
    }
}

/// Why a range was not changed. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Not whole pages.
    Unaligned,
    /// Not all the guest's memory.
    Range(NotGuestMemory),
    /// More than [`MOST_TAKEN`] is to be taken again at once.
    TooMuch,
    /// A page is in a state from which it can't be changed like this.
    State,
    /// An ordinary frame or a table is missing, or would leave the host too little.
    OutOfMemory(OutOfMemory),
    /// More would be shared than the guest may share.
    Limit,
    /// It would take more tables than the guest may have.
    Tables,
    /// Another change of this guest's memory is under way.
    Busy,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned => f.write_str("a range that is empty or not made of whole pages"),
            Self::Range(error) => error.fmt(f),
            Self::TooMuch => write!(f, "more than {} MiB to be taken again at once", MOST_TAKEN >> 20),
            Self::State => f.write_str("a page of the range is in another state"),
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Limit => f.write_str("more would be shared than the guest may share"),
            Self::Tables => f.write_str("it would take more tables than the guest may have"),
            Self::Busy => f.write_str("another change of the guest's memory is under way"),
        }
    }
}

impl core::error::Error for ChangeError {}

/// How far a change is.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// There is more to do: [`GuestMemory::go_on`].
    More,
    /// The guest's translations are to be flushed, and [`GuestMemory::flushed`] to be told.
    Flush,
    /// The direct map is to be flushed: [`GuestMemory::hiding`] is to be waited for, and its receipt to go to [`GuestMemory::hidden`].
    Hide,
    /// The magazine has nothing ready: it is to be restocked, or [`GuestMemory::starve`] to be told why it can't be.
    Restock,
    /// It is done, or was refused.
    Done(Result<(), ChangeError>),
}

/// Bytes that a guest can take again by one change. All of it leaves the direct map together, for one flush, and a gigablock's worth of regions is
/// what is carved, checked and hidden in one step of a launch.
pub const MOST_TAKEN: u64 = Level::L3.bytes();

impl GuestMemory {
    /// Begins to change a range of the guest's memory, named by its addresses at the private alias.
    ///
    /// # Errors
    /// See [`ChangeError`]. More may come up in [`GuestMemory::go_on`].
    pub fn begin(&mut self, change: Change, start: Gpa, bytes: u64) -> Result<(), ChangeError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || !start.is_aligned(PAGE_SIZE) {
            return Err(ChangeError::Unaligned);
        }
        self.check(start, bytes).map_err(ChangeError::Range)?;
        if change == Change::TakeAgain && bytes > MOST_TAKEN {
            return Err(ChangeError::TooMuch);
        }
        if self.changing.is_some() {
            return Err(ChangeError::Busy);
        }
        self.changing = Some(Changing::new(change, start.gfn(), bytes / PAGE_SIZE));
        Ok(())
    }

    /// Says how many bytes the guest may share with the host at a time, rounded down to pages; at first all. What is shared already stays.
    pub fn limit_sharing(&mut self, bytes: u64) {
        self.most_shared = bytes / PAGE_SIZE;
    }

    /// Says how many tables the guest's changes may make the host allocate, beyond those of the launch; at first any number. What was allocated
    /// already stays.
    pub fn limit_tables(&mut self, tables: u64) {
        self.most_tables = tables;
    }

    /// Whether a change is under way.
    pub fn is_changing(&self) -> bool {
        self.changing.is_some()
    }
}
