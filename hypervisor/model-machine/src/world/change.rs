//! What guests change in their memory while they live, and what is known of it without asking the code that does it.

use std::collections::BTreeMap;
use std::ops::Range;

use memory::address::{Gfn, Gpa, PAGE_SIZE};
use memory::guest::{Change, ChangeError, Kept, MOST_TAKEN, PageState, Progress};

use super::{Guest, Stage, World, judged};
use crate::check::{Rule, Violation};
use crate::guests::SHARED_BIT;

/// Whether pages keep their frames and what they hold.
fn is_in_place(change: Change) -> bool {
    matches!(change, Change::ShareInPlace | Change::UnshareInPlace)
}

/// What must be in a guest's memory.
#[derive(Default)]
pub(super) struct Known {
    /// What it, or the host for it, has written, by address; with the shared bit where that is set.
    pub(super) written: BTreeMap<u64, u64>,
    /// Pages that are not accepted, by number.
    pages: BTreeMap<u64, PageState>,
    /// What is being done to which pages.
    in_flight: Option<(Change, Range<u64>)>,
}

impl Known {
    /// What a page must be; `None` while it is being changed.
    pub(super) fn page(&self, at: u64) -> Option<PageState> {
        let page = at / PAGE_SIZE;
        match &self.in_flight {
            Some((_, pages)) if pages.contains(&page) => None,
            _ => Some(*self.pages.get(&page).unwrap_or(&PageState::Accepted)),
        }
    }

    /// The alias through which a page that is being changed can still be reached by an old translation.
    pub(super) fn old_alias(&self) -> Option<u64> {
        match self.in_flight {
            Some((Change::Share | Change::ShareInPlace | Change::GiveBack, _)) => Some(0),
            Some((Change::Unshare | Change::UnshareInPlace, _)) => Some(SHARED_BIT),
            _ => None,
        }
    }

    /// Whether a change is right, by the table in docs/guest-abi.md.
    fn allows(&self, change: Change, pages: Range<u64>) -> bool {
        pages.clone().all(|page| {
            let state = self.pages.get(&page).unwrap_or(&PageState::Accepted);
            match change {
                Change::Share | Change::GiveBack => matches!(state, PageState::Accepted | PageState::Pending),
                Change::TakeAgain => *state == PageState::Absent,
                Change::Unshare => *state == PageState::Shared,
                Change::Accept => *state == PageState::Pending,
                Change::ShareInPlace => *state == PageState::Accepted,
                Change::UnshareInPlace => *state == PageState::SharedInPlace,
            }
        })
    }

    /// One of the pages that are not accepted, those behind it that are alike, and what takes them back.
    fn run_back(&self, which: usize) -> Option<(Change, Range<u64>)> {
        let mut others: Vec<(u64, PageState)> =
            self.pages.iter().map(|(page, state)| (*page, *state)).collect();
        others.retain(|(_, state)| *state != PageState::Accepted);
        let (first, state) = *others.get(which.checked_rem(others.len())?)?;
        let change = match state {
            PageState::Shared => Change::Unshare,
            PageState::SharedInPlace => Change::UnshareInPlace,
            PageState::Pending => Change::Accept,
            PageState::Absent => Change::TakeAgain,
            PageState::Accepted | PageState::Outside => return None,
        };
        let end = (first..).find(|page| self.pages.get(page) != Some(&state))?;
        Some((change, first..end))
    }

    /// A change is done.
    fn done(&mut self, change: Change, pages: Range<u64>) {
        let bytes = pages.start * PAGE_SIZE..pages.end * PAGE_SIZE;
        let (alias, state) = match change {
            Change::Share => (0, PageState::Shared),
            Change::Unshare => (SHARED_BIT, PageState::Pending),
            Change::Accept | Change::UnshareInPlace => (0, PageState::Accepted),
            Change::ShareInPlace => (SHARED_BIT, PageState::SharedInPlace),
            Change::GiveBack => (0, PageState::Absent),
            Change::TakeAgain => (0, PageState::Pending),
        };
        if is_in_place(change) {
            // What was there is there, at the other alias.
            let moved = |at: &u64| at & SHARED_BIT != alias && bytes.contains(&(at & !SHARED_BIT));
            let kept: Vec<_> = self.written.extract_if(.., |at, _| moved(at)).collect();
            self.written
                .extend(kept.into_iter().map(|(at, value)| (at ^ SHARED_BIT, value)));
        } else {
            self.written
                .retain(|at, _| at & SHARED_BIT != alias || !bytes.contains(&(at & !SHARED_BIT)));
        }
        self.pages.extend(pages.map(|page| (page, state)));
    }
}

impl World<'_> {
    /// A guest asks for a change, or one that it has asked for goes on, by some steps.
    pub(super) fn change(
        &mut self,
        cpu: usize,
        guest: usize,
        (change, at, pages): (Change, u64, u64),
        steps: usize,
    ) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        if self.guests[index].known.in_flight.is_none() {
            // What the host would hoard after a step is not the change's doing.
            self.take_all();
            let before = (self.snapshot(), self.marks(index));
            self.restocked = false;
            let ready = self.ready_frames();
            self.begin(cpu, index, (change, at, pages))?;
            for _ in 0..steps {
                if let Some(Err(_)) = self.go_on(cpu, index)?
                    && !self.has_shrunk(&before.0)
                {
                    // What the magazine got stays hidden, for others; what came from it is the pool's now.
                    if !self.restocked && self.ready_frames() == ready {
                        self.unchanged(&before.0, "a change was refused")?;
                    }
                    assert_eq!(before.1, self.marks(index), "after a change was refused");
                }
            }
            return Ok(());
        }
        for _ in 0..steps {
            self.go_on(cpu, index)?;
        }
        Ok(())
    }

    /// A guest takes back some of what it shares, or accepts some of what is pending.
    pub(super) fn take_back(
        &mut self,
        cpu: usize,
        guest: usize,
        which: usize,
        steps: usize,
    ) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        match self.guests[index].known.run_back(which) {
            Some((change, pages)) => {
                let count = pages.end - pages.start;
                self.change(cpu, guest, (change, pages.start, count), steps)
            }
            None => Ok(()),
        }
    }

    /// Frames in all magazines.
    fn ready_frames(&self) -> usize {
        self.magazines.iter().map(memory::region::Magazine::len).sum()
    }

    /// Memory is low: what is kept for pages of guests is taken. What a page is, and what is in it, does not change by that.
    pub(super) fn take_kept(&mut self, cpu: usize, guest: usize, which: Kept) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let (cpu, mut next) = (self.cpu(cpu), Gfn::default());
        let taken = self.memory.stats().kept_frames_taken;
        while let Stage::Alive(memory) = &mut self.guests[index].stage
            && let Some(frames) = memory.take_kept(&mut self.memory, &cpu, &mut next, which)
        {
            self.kept_taken += frames;
            self.take_all();
            self.judge()?;
        }
        if self.guests[index].known.in_flight.is_some() {
            assert_eq!(
                self.memory.stats().kept_frames_taken,
                taken,
                "taken from a guest that changes its memory"
            );
        }
        Ok(())
    }

    /// Hidden frames that a guest can't reach.
    fn marks(&self, index: usize) -> Vec<(memory::address::Pfn, u64)> {
        match &self.guests[index].stage {
            Stage::Alive(memory) => memory.unreachable(&self.machine.cpu(0)).collect(),
            _ => Vec::new(),
        }
    }

    fn begin(
        &mut self,
        cpu: usize,
        index: usize,
        (change, at, pages): (Change, u64, u64),
    ) -> Result<(), Vec<Violation>> {
        let Guest {
            bytes, stage, known, ..
        } = &mut self.guests[index];
        let Stage::Alive(memory) = stage else {
            return Ok(());
        };
        let size = *bytes / PAGE_SIZE;
        // Now and then beyond the end.
        let first = at % (size + 2);
        let last = first + pages;
        let result = memory.begin(change, Gpa::new(first * PAGE_SIZE), pages * PAGE_SIZE);
        let expected = match result {
            Ok(()) => pages > 0 && last <= size,
            Err(ChangeError::Unaligned) => pages == 0,
            Err(ChangeError::Range(_)) => last > size,
            Err(ChangeError::TooMuch) => change == Change::TakeAgain && pages * PAGE_SIZE > MOST_TAKEN,
            Err(_) => false,
        };
        assert!(
            expected,
            "{change:?} of {first} to {last} of {size} pages: {result:?}"
        );
        if result.is_ok() {
            known.in_flight = Some((change, first..last));
        }
        let cpu = self.cpu(cpu);
        if let Stage::Alive(memory) = &mut self.guests[index].stage
            && memory.is_changing()
        {
            // One at a time.
            let again = memory.begin(Change::Accept, Gpa::new(0), PAGE_SIZE);
            assert_eq!(again, Err(ChangeError::Busy), "CPU {}", cpu.index());
        }
        self.judge()
    }

    /// One step; what came of it, when it was the last.
    fn go_on(&mut self, cpu: usize, index: usize) -> Result<Option<Result<(), ChangeError>>, Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let Guest { id, stage, known, .. } = &mut self.guests[index];
        let Stage::Alive(memory) = stage else {
            return Ok(None);
        };
        let Some((change, pages)) = known.in_flight.clone() else {
            return Ok(None);
        };
        let mut ended = None;
        let magazine = &mut self.magazines[cpu.index()];
        match memory.go_on(&mut self.memory, &cpu, windows, magazine) {
            Progress::More => {}
            Progress::Restock => {
                self.restocked = true;
                if let Err(error) = magazine.refill(&mut self.memory, &cpu, windows) {
                    memory.starve(&self.memory, error);
                }
            }
            Progress::Flush => {
                let receipt = self.machine.translations_flushed(*id);
                memory.flushed(&mut self.memory, receipt);
            }
            Progress::Hide => {
                if let Some(posted) = memory.hiding() {
                    let receipt = posted.wait(&cpu);
                    memory.hidden(&mut self.memory, &cpu, receipt);
                }
            }
            Progress::Done(result) => {
                known.in_flight = None;
                let allowed = known.allows(change, pages.clone());
                let expected = match result {
                    Ok(()) => allowed,
                    Err(ChangeError::State) => !allowed,
                    Err(ChangeError::OutOfMemory(_)) => allowed,
                    Err(_) => false,
                };
                assert!(expected, "{change:?} of {pages:?}: {result:?}");
                if result.is_ok() {
                    known.done(change, pages.clone());
                    self.changed += 1;
                } else {
                    self.refused += 1;
                }
                ended = Some((change, pages, result));
            }
        }
        self.take_all();
        self.judge()?;
        let Some((change, pages, result)) = ended else {
            return Ok(None);
        };
        if result.is_ok() && is_in_place(change) {
            self.reads_the_same(cpu.index(), index, &pages)?;
        } else if result.is_ok() && matches!(change, Change::Share | Change::Accept) {
            self.reads_zero(cpu.index(), index, change, pages)?;
        }
        Ok(Some(result))
    }

    /// Nothing of what was there before is to be read, on either side.
    fn reads_zero(
        &mut self,
        cpu: usize,
        index: usize,
        change: Change,
        pages: Range<u64>,
    ) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let Stage::Alive(guest) = &self.guests[index].stage else {
            return Ok(());
        };
        let frames = &self.memory.frames;
        for page in pages {
            let (at, mut data) = (Gpa::new(page * PAGE_SIZE), [1; PAGE_SIZE as usize]);
            let read = if change == Change::Share {
                guest.read_shared(&cpu, frames, windows, at, &mut data).is_ok()
            } else {
                guest.read(&cpu, frames, windows, at, &mut data).is_ok()
            };
            if !read || data.iter().any(|byte| *byte != 0) {
                let what = format!("page {page} is not zero after {change:?}");
                return judged(vec![Violation {
                    rule: Rule::NothingLeaks,
                    what,
                }]);
            }
        }
        Ok(())
    }
}
