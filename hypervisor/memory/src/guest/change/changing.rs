//! A change on its way: how far it is, and what it has taken.

use crate::address::Gfn;
use crate::frame::allocator::OutOfMemory;
use crate::frame::table_frame::TableList;
use crate::guest::balloon::Drawn;
use crate::guest::second_stage::Part;

use super::{Change, ChangeError};

/// What the next step does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Check,
    Reserve,
    /// Takes single hidden frames.
    DrawPages,
    /// Takes hidden regions.
    Draw,
    Hide,
    Scrub,
    Revoke,
    Flush,
    Finish,
    /// Gives back what was reserved.
    Refuse(ChangeError),
}

impl Phase {
    /// The first one when everything is there that a change needs.
    pub(super) const fn when_ready(change: Change) -> Self {
        match change {
            Change::Accept | Change::TakeAgain => Self::Finish,
            _ => Self::Revoke,
        }
    }
}

/// A change on its way.
#[derive(Debug)]
pub(in crate::guest) struct Changing {
    pub(super) change: Change,
    pub(super) start: Gfn,
    pub(super) end: Gfn,
    pub(super) phase: Phase,
    /// Where the phase goes on.
    pub(super) next: Gfn,
    /// Zeroed frames that will be shared.
    pub(super) reserve: TableList,
    pub(super) tables: TableList,
    /// How many of them were taken.
    pub(super) tables_taken: u64,
    /// Hidden memory that the guest gets.
    pub(in crate::guest) drawn: Drawn,
}

/// What a change had taken for the guest and not put to use yet.
#[derive(Debug, Default)]
pub(in crate::guest) struct Reserved {
    /// Zeroed frames that would have been shared.
    pub(in crate::guest) pages: TableList,
    pub(in crate::guest) tables: TableList,
    pub(in crate::guest) drawn: Drawn,
}

impl Changing {
    /// One of so many pages from `start` on, of which nothing is looked at yet.
    pub(super) fn new(change: Change, start: Gfn, pages: u64) -> Self {
        Self {
            change,
            start,
            end: start.add(pages),
            phase: Phase::Check,
            next: start,
            reserve: TableList::new(),
            tables: TableList::new(),
            tables_taken: 0,
            drawn: Drawn::default(),
        }
    }

    /// Goes on behind a part; whether that was the last.
    pub(super) fn advance(&mut self, part: Part) -> bool {
        self.next = part.end();
        self.next == self.end
    }

    /// Pages of the whole range.
    pub(super) fn pages(&self) -> u64 {
        self.end.get() - self.start.get()
    }

    /// There is too little memory.
    pub(in crate::guest) fn refuse(&mut self, error: OutOfMemory) {
        self.phase = Phase::Refuse(ChangeError::OutOfMemory(error));
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.next = self.start;
    }

    /// What was reserved and is not used yet.
    pub(in crate::guest) fn into_reserved(self) -> Reserved {
        Reserved {
            pages: self.reserve,
            tables: self.tables,
            drawn: self.drawn,
        }
    }
}
