//! Which values each table entry has had, and when.
//!
//! Time is a count of stores. A value that was overwritten is kept for as long as some CPU, or some guest, has not been flushed since.

use std::collections::{HashMap, HashSet};

use memory::address::{ENTRIES, Hpa, Pfn};

use crate::ram::word;

/// A time: the number of stores to tables so far.
pub(crate) type Time = u64;

/// A value that an entry had: written at `from`, overwritten at `to`.
#[derive(Clone, Copy)]
pub(crate) struct Past {
    pub(crate) value: u64,
    pub(crate) from: Time,
    pub(crate) to: Time,
}

/// One entry.
#[derive(Clone, Default)]
pub(crate) struct Word {
    /// When the present value was written; 0 if before anyone looked.
    pub(crate) since: Time,
    /// The present value, where `since` is not 0.
    pub(crate) last: u64,
    pub(crate) past: Vec<Past>,
}

/// The entries of all tables.
#[derive(Default)]
pub(crate) struct Journal {
    now: Time,
    frames: HashMap<u64, Vec<Word>>,
    /// Whether some value ever had the bit that makes a host translation global.
    pub(crate) saw_global: bool,
}

impl Journal {
    /// The present.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The entries of one frame, if any was written lately.
    pub(crate) fn frame(&self, pfn: u64) -> Option<&[Word]> {
        self.frames.get(&pfn).map(Vec::as_slice)
    }

    /// Notes a store.
    pub(crate) fn store(&mut self, at: Hpa, old: u64, new: u64) {
        self.now += 1;
        self.saw_global |= new & (1 << 8 | 1) == (1 << 8 | 1);
        let words = self
            .frames
            .entry(at.pfn().get())
            .or_insert_with(|| vec![Word::default(); ENTRIES]);
        let word = &mut words[word(at)];
        if old != new {
            word.past.push(Past {
                value: old,
                from: word.since,
                to: self.now,
            });
            word.since = self.now;
        }
        word.last = new;
    }

    /// Forgets what ended at `host` or before, in `guest_tables` at `all` or before.
    pub(crate) fn trim(&mut self, host: Time, all: Time, guest_tables: &HashSet<u64>) {
        self.frames.retain(|pfn, words| {
            let end = if guest_tables.contains(pfn) { all } else { host };
            let mut recent = false;
            for word in words {
                word.past.retain(|past| past.to > end);
                recent |= !word.past.is_empty() || word.since > end;
            }
            recent
        });
    }

    /// Forgets what the entries of frames were that are no tables any more: there is nothing to compare with.
    pub(crate) fn forget_frames(&mut self, first: Pfn, frames: u64) {
        for frame in first.get()..first.get() + frames {
            self.frames.remove(&frame);
        }
    }

    /// Forgets what one entry was.
    pub(crate) fn forget(&mut self, at: Hpa) {
        if let Some(words) = self.frames.get_mut(&at.pfn().get()) {
            words[word(at)].past.clear();
        }
    }

    /// Forgets everything: nobody has walked yet.
    pub(crate) fn begin(&mut self) {
        self.frames.clear();
        self.saw_global = false;
    }
}
