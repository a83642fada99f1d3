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

use core::fmt;

use crate::address::{Gfn, Gpa, Level, PAGE_SIZE};
use crate::frame::allocator::OutOfMemory;
use crate::frame::table_frame::TableList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::paging::mark::Mark;
use crate::region::Magazine;
use crate::tlb::shootdown::GuestReceipt;
use crate::window::Windows;

use super::balloon::Drawn;
use super::second_stage::{PageState, Part, Promotion};
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

    /// What comes when everything is there that it needs.
    const fn first_phase(self) -> Phase {
        match self {
            Self::Accept | Self::TakeAgain => Phase::Finish,
            _ => Phase::Revoke,
        }
    }

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

#[derive(Clone, Copy, Debug)]
enum Phase {
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

/// A change on its way.
#[derive(Debug)]
pub(super) struct Changing {
    change: Change,
    start: Gfn,
    end: Gfn,
    phase: Phase,
    /// Where the phase goes on.
    next: Gfn,
    /// Zeroed frames that will be shared.
    reserve: TableList,
    tables: TableList,
    /// How many of them were taken.
    tables_taken: u64,
    /// Hidden memory that the guest gets.
    pub(super) drawn: Drawn,
}

/// What a change had taken for the guest and not put to use yet.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    /// Zeroed frames that would have been shared.
    pub(super) pages: TableList,
    pub(super) tables: TableList,
    pub(super) drawn: Drawn,
}

/// Bytes that a guest can take again by one change. All of it leaves the direct map together, for one flush, and a gigablock's worth of regions is
/// what is carved, checked and hidden in one step of a launch.
pub const MOST_TAKEN: u64 = Level::L3.bytes();

/// Frames that are given back in one step of a refusal.
const RELEASED_AT_ONCE: u64 = Level::L2.frames();

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
        self.changing = Some(Changing {
            change,
            start: start.gfn(),
            end: start.gfn().add(bytes / PAGE_SIZE),
            phase: Phase::Check,
            next: start.gfn(),
            reserve: TableList::new(),
            tables: TableList::new(),
            tables_taken: 0,
            drawn: Drawn::default(),
        });
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

    /// Goes on with the change that was begun, by at most 2 MiB. Single hidden frames that it needs come from the CPU's magazine.
    pub fn go_on<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        magazine: &mut Magazine,
    ) -> Progress {
        let Some(mut changing) = self.changing.take() else {
            return Progress::Done(Ok(()));
        };
        self.tables.release_some(&mut memory.frames);
        let progress = self.step(memory, machine, windows, magazine, &mut changing);
        match progress {
            Progress::Done(result) => {
                if result.is_ok() {
                    self.tables_made += changing.tables_taken - changing.tables.len();
                }
                memory.frames.free_tables(changing.tables);
                memory.frames.free_tables(changing.reserve);
            }
            Progress::More | Progress::Flush | Progress::Hide | Progress::Restock => {
                self.changing = Some(changing);
            }
        }
        progress
    }

    /// The guest's translations were flushed, as [`Progress::Flush`] asked: only the shootdown of them makes a receipt.
    ///
    /// # Panics
    /// When it is another guest's.
    pub fn flushed(&mut self, memory: &mut HostMemory<'_>, receipt: GuestReceipt<()>) {
        let guest = receipt.guest();
        receipt.open(&mut memory.stats);
        assert!(guest == self.id, "broken invariant: the wrong guest was flushed");
        memory.stats.guest_flushes += 1;
        self.tables.flushed(&mut memory.frames);
        if let Some(changing) = &mut self.changing
            && matches!(changing.phase, Phase::Flush)
        {
            changing.enter(Phase::Finish);
        }
    }

    fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        magazine: &mut Magazine,
        changing: &mut Changing,
    ) -> Progress {
        let part = Part::first_of(changing.next, changing.end);
        match changing.phase {
            Phase::Check => {
                if !self
                    .tables
                    .all(machine, part, |state| changing.change.fits(state))
                {
                    changing.phase = Phase::Refuse(ChangeError::State);
                    return Progress::More;
                }
                self.count_lack(machine, changing.change, part, &mut changing.drawn);
                if changing.advance(part) {
                    changing.enter(match changing.change {
                        change if change.shares() && self.shared + changing.pages() > self.most_shared => {
                            Phase::Refuse(ChangeError::Limit)
                        }
                        _ => Phase::Reserve,
                    });
                }
            }
            Phase::Reserve => match self.reserve(memory, machine, changing, part) {
                Err(error) => changing.phase = Phase::Refuse(error),
                Ok(()) if changing.advance(part) => changing.enter(match &changing.drawn {
                    Drawn {
                        wanted: 0,
                        pages_wanted: 0,
                        ..
                    } => changing.change.first_phase(),
                    _ => Phase::DrawPages,
                }),
                Ok(()) => {}
            },
            Phase::DrawPages if changing.drawn.pages_wanted > 0 => {
                let drawn = &mut changing.drawn;
                if !drawn.draw_pages(memory, machine, windows, magazine) {
                    match memory.may_grow(drawn.pages_wanted) {
                        Ok(()) => return Progress::Restock,
                        Err(error) => changing.refuse(error),
                    }
                }
            }
            Phase::DrawPages => changing.phase = Phase::Draw,
            Phase::Draw if changing.drawn.wanted > 0 => match memory.draw(machine, &mut changing.drawn) {
                // No whole regions: single frames do, too.
                Err(error) => match self.reserve_for_pages(memory, machine, changing) {
                    Ok(()) => changing.phase = Phase::DrawPages,
                    Err(_) => changing.refuse(error),
                },
                Ok(()) if changing.drawn.posted.is_some() => {
                    changing.phase = Phase::Hide;
                    // At once: who asked waits for it before it rests, so whoever looks meanwhile finds no batch that is on its way.
                    return Progress::Hide;
                }
                Ok(()) => {}
            },
            Phase::Draw => changing.phase = Phase::Scrub,
            Phase::Hide if changing.drawn.posted.is_some() => return Progress::Hide,
            // All that was to be waited for is hidden.
            Phase::Hide => changing.phase = Phase::Draw,
            Phase::Scrub => {
                if !changing.drawn.scrubber.step(memory, machine, windows) {
                    changing.enter(changing.change.first_phase());
                }
            }
            Phase::Revoke => {
                self.revoke_part(memory, machine, changing, part);
                if changing.advance(part) {
                    changing.enter(Phase::Flush);
                }
            }
            Phase::Flush => return Progress::Flush,
            Phase::Finish => {
                self.finish_part(memory, machine, windows, changing, part);
                if changing.advance(part) {
                    return Progress::Done(Ok(()));
                }
            }
            Phase::Refuse(error) => {
                if changing.drawn.release_some(memory, machine, windows) {
                    return Progress::More;
                }
                for _ in 0..RELEASED_AT_ONCE {
                    let next = changing.reserve.pop(&memory.frames);
                    let Some(frame) = next.or_else(|| changing.tables.pop(&memory.frames)) else {
                        return Progress::Done(Err(error));
                    };
                    memory.frames.free_table(frame);
                }
            }
        }
        Progress::More
    }

    /// Takes what the part needs: tables, and frames to share.
    fn reserve<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        part: Part,
    ) -> Result<(), ChangeError> {
        let first = part.start == changing.start;
        let mut tables = self.tables.private_tables_for(machine, part, first);
        let mut pages = 0;
        if changing.change.shares() {
            tables += self.tables.shared_tables_for(machine, part, first);
        }
        if changing.change == Change::Share {
            pages = part.frames;
        }
        if changing.change == Change::GiveBack {
            tables += self.tables_to_cut(machine, &memory.frames, part, first);
        }
        if tables + pages == 0 {
            return Ok(());
        }
        self.take(memory, machine, changing, (tables, pages))
    }

    /// Takes tables so that 2 MiB which were to get regions can have single frames instead.
    fn reserve_for_pages<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
    ) -> Result<(), ChangeError> {
        // So many that reserving their tables is no more than 2 MiB of work; the others come again to this.
        let regions = changing.drawn.wanted.min(Level::L2.frames());
        // Where leaves may be split anyway, a table for each waits since the launch.
        let tables = if self.tables.splits() { 0 } else { regions };
        let pages = regions * Level::L2.frames();
        if tables + pages > memory.spare_frames() {
            let error = memory.frames.out_of_memory(pages);
            return Err(ChangeError::OutOfMemory(error));
        }
        self.take(memory, machine, changing, (tables, 0))?;
        changing.drawn.pages_wanted += pages;
        changing.drawn.wanted -= regions;
        Ok(())
    }

    /// Takes tables, and frames to share, as far as the guest may have them and the host keeps its reserve.
    fn take<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        (tables, pages): (u64, u64),
    ) -> Result<(), ChangeError> {
        if self.tables_made + changing.tables_taken + tables > self.most_tables {
            return Err(ChangeError::Tables);
        }
        changing.tables_taken += tables;
        memory.relieve(machine);
        if tables + pages > memory.spare_frames() {
            let error = memory.frames.out_of_memory(tables + pages);
            return Err(ChangeError::OutOfMemory(error));
        }
        let tables = memory.frames.reserve_tables(machine, tables);
        let tables = tables.map_err(ChangeError::OutOfMemory)?;
        changing.tables.append(&mut memory.frames, tables);
        let pages = memory.frames.reserve_pages(machine, pages);
        let pages = pages.map_err(ChangeError::OutOfMemory)?;
        changing.reserve.append(&mut memory.frames, pages);
        Ok(())
    }

    fn revoke_part<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        changing: &mut Changing,
        part: Part,
    ) {
        let mark = match changing.change {
            Change::Share => Mark::Kept,
            Change::ShareInPlace => Mark::InPlace,
            Change::GiveBack => Mark::Given,
            Change::UnshareInPlace => return self.tables.unmap_in_place(machine, part),
            Change::Unshare | Change::Accept | Change::TakeAgain => {
                return self.tables.unmap_shared(machine, part);
            }
        };
        let (frames, tables) = (&mut memory.frames, &mut changing.tables);
        self.tables.mark(machine, frames, part, mark, tables);
        memory.stats.second_stage_splits += self.tables.take_splits();
    }

    fn finish_part<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
        changing: &mut Changing,
        part: Part,
    ) {
        let Changing {
            change,
            reserve,
            tables,
            drawn,
            ..
        } = changing;
        match change {
            Change::Share => {
                self.scrub(memory, machine, windows, part);
                let frames = &mut memory.frames;
                self.tables
                    .map_shared(machine, frames, self.id, part, tables, reserve);
                self.shared += part.frames;
                memory.stats.pages_shared += part.frames;
            }
            Change::Unshare => {
                self.tables.free_shared(machine, &mut memory.frames, part);
                self.provide(memory, machine, (*change, drawn), part, tables);
                let frames = &mut memory.frames;
                self.tables.mark(machine, frames, part, Mark::Pending, tables);
                self.shared -= part.frames;
                memory.stats.pages_unshared += part.frames;
            }
            Change::GiveBack => {
                self.scrub(memory, machine, windows, part);
                self.leave_region(memory, machine, part, tables);
            }
            Change::TakeAgain => {
                self.provide(memory, machine, (*change, drawn), part, tables);
                let frames = &mut memory.frames;
                self.tables.mark(machine, frames, part, Mark::Pending, tables);
            }
            Change::Accept => {
                self.accept(memory, machine, part, tables, Mark::Pending);
                memory.stats.pages_accepted += part.frames;
            }
            Change::ShareInPlace => {
                let frames = &mut memory.frames;
                self.tables.map_in_place(machine, frames, self.id, part, tables);
                self.shared += part.frames;
                memory.stats.pages_shared_in_place += part.frames;
            }
            Change::UnshareInPlace => {
                self.accept(memory, machine, part, tables, Mark::InPlace);
                self.shared -= part.frames;
                memory.stats.pages_unshared_in_place += part.frames;
            }
        }
    }

    /// Lets the guest use the pages of a part at the private alias, all of which are marked like this.
    fn accept<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        part: Part,
        tables: &mut TableList,
        from: Mark,
    ) {
        match self
            .tables
            .accept(machine, &mut memory.frames, part, tables, from)
        {
            Promotion::NotDue => {}
            Promotion::Done => {
                memory.stats.second_stage_collapses += 1;
                self.tables_made = self.tables_made.saturating_sub(1);
            }
            Promotion::Executable => memory.stats.promotions_blocked.executable += 1,
            Promotion::Blocked(_) => memory.stats.promotions_blocked.address += 1,
        }
    }

    /// Zeroes the hidden frames of a part that the guest can't reach any more.
    fn scrub<M: Machine>(&self, memory: &mut HostMemory<'_>, machine: &M, windows: &mut Windows, part: Part) {
        let backing = |gfn: Gfn| match self.tables.backing(machine, gfn) {
            Some(pfn) => pfn,
            None => panic!("broken invariant: guest frame {gfn} has lost its hidden frame"),
        };
        let region = part.is_whole().then(|| backing(part.start));
        let region = region
            .filter(|first| first.is_aligned(Level::L2.frames()) && !memory.frames.frames_differ(*first));
        let mut window = match region {
            Some(first) => windows.open(machine, first, crate::address::REGION_ORDER),
            None => windows.open_pages(machine),
        };
        if region.is_none() {
            for gfn in part.gfns() {
                let added = window.add(backing(gfn), 0);
                assert!(added, "broken invariant: a part of 2 MiB does not fit a window");
            }
        }
        memory.stats.bytes_scrubbed += window.zero();
    }
}

impl Changing {
    /// Goes on behind a part; whether that was the last.
    fn advance(&mut self, part: Part) -> bool {
        self.next = part.end();
        self.next == self.end
    }

    /// Pages of the whole range.
    fn pages(&self) -> u64 {
        self.end.get() - self.start.get()
    }

    /// There is too little memory.
    pub(super) fn refuse(&mut self, error: OutOfMemory) {
        self.phase = Phase::Refuse(ChangeError::OutOfMemory(error));
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.next = self.start;
    }

    /// What was reserved and is not used yet.
    pub(super) fn into_reserved(self) -> Reserved {
        Reserved {
            pages: self.reserve,
            tables: self.tables,
            drawn: self.drawn,
        }
    }
}
