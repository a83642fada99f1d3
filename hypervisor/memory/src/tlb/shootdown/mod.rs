//! The shootdown protocol: how all CPUs stop using what a change took out of the host's tables, by one round for a whole batch.
//!
//! A request is a new *generation*, counted up after the tables were changed. Each CPU says in its line ([`CpuLine`]) which generation it
//! has really flushed for, and its [`Mode`]. Nothing else is shared, no lock is taken, and nobody writes another CPU's line but to
//! note that it has been interrupted.
//!
//! 1. [`Cpu::request`] counts up (under the lock of whatever the batch belongs to).
//! 2. [`Cpu::wait`] (without any lock) interrupts the CPUs that are in the host, flushes its own, and looks at each CPU until that one has
//!    flushed, or is seen away: in a guest, asleep, or not started. While it waits it answers the requests of others, so requesters that
//!    wait for each other all get on, and one flush answers all requests made before it.
//! 3. A CPU that is away owes the flush: the generation is its flag. `presence` has its side: on the way back, before it touches
//!    anything but memory that is mapped for ever, it compares the generation with its own and flushes.
//!
//! Nobody can be missed between the two: each side writes, fences, then reads what the other wrote.
//!
//! ```text
//!  requester                                CPU on its way back
//!  clear entries                            mode := host
//!  generation += 1                          fence
//!  fence                                    read generation: new? flush, flushed := generation
//!  read mode: away? flagged                 use translations
//! ```
//!
//! In every order either the CPU sees the new generation, or the requester sees it in the host and waits for its flush. The fences are
//! sequentially consistent, on hardware too: a store and a later load of something else may change places on x86 (SDM vol. 3A,
//! 9.2.3.4; APM vol. 2, 7.1.1).
//!
//! A flag is enough for a region to be hidden, not for a table frame to be freed: a CPU in a guest may walk the old table on speculation.
//! [`Shootdown::all_flushed`] says when every CPU has really flushed for a generation.
//!
//! All this is about the host's own translations. `guest` has those of a living guest's second stage.

mod guest;
mod presence;

pub use guest::{GuestPosted, GuestReceipt, GuestTlb, Inside, Kicker, LastFlush, Reached, StillInside};
pub use presence::{JoinError, Visit};

use core::fmt;

use crate::stats::Stats;

use super::atomics::{AtomicU32, AtomicU64, Ordering, const_unless_modelled, fence};

/// The number of a CPU: its place among the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuIndex(u32);

impl CpuIndex {
    /// The CPU with this number.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}", self.0)
    }
}

/// Which request a flush answers: all that were made up to it. A count that never comes round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// What a CPU does, as far as flushing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// It has no translations: not started, or stopped by an INIT.
    Absent = 0,
    /// On its way to its first [`Cpu::join`]; it may have translations already, but touches only what is mapped for ever.
    Starting = 1,
    /// It runs the host and may use any translation.
    Host = 2,
    /// It runs a guest.
    Guest = 3,
    /// It is halted, and an interrupt will wake it.
    Asleep = 4,
    /// It did not come in time, and must not join any more; it may still be on its way.
    GivenUp = 5,
}

impl Mode {
    const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Absent,
            1 => Self::Starting,
            3 => Self::Guest,
            4 => Self::Asleep,
            5 => Self::GivenUp,
            // The mode in which nothing is owed to it.
            _ => Self::Host,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "not started",
            Self::Starting => "starting",
            Self::Host => "in the host",
            Self::Guest => "in a guest",
            Self::Asleep => "asleep",
            Self::GivenUp => "given up",
        })
    }
}

/// One CPU's state: a cache line of its own, so that a CPU that enters and leaves guests writes to no line that others read meanwhile.
///
/// Lines are touched before a CPU has flushed, so they lie in memory whose mapping never changes and that is not reached through the
/// direct map.
#[derive(Debug)]
#[repr(align(64))]
pub struct CpuLine {
    /// A [`Mode`]. Written by the CPU itself; before it joins and when it is given up, by whoever starts it.
    mode: AtomicU32,
    /// 1 while an interrupt is on its way to the CPU that its handler has not begun to answer.
    interrupted: AtomicU32,
    /// The generation up to which it has really flushed. Written by the CPU itself.
    flushed: AtomicU64,
    /// The guest that it is inside, or [`guest::OUTSIDE`]. Written by the CPU itself, as is the next.
    guest: AtomicU64,
    /// The generation of that guest's tables that it has flushed for, or will have when it is in guest mode.
    guest_flushed: AtomicU64,
}

impl CpuLine {
    const_unless_modelled! {
        /// The line of a CPU that is not started.
        #[allow(clippy::new_without_default, reason = "an array of these is made in a constant")]
        pub fn new() -> Self {
            Self {
                mode: AtomicU32::new(Mode::Absent as u32),
                interrupted: AtomicU32::new(0),
                flushed: AtomicU64::new(0),
                guest: AtomicU64::new(guest::OUTSIDE),
                guest_flushed: AtomicU64::new(0),
            }
        }
    }

    fn mode(&self) -> Mode {
        // Acquire: what the CPU did in the host before it went away comes before what follows here.
        Mode::from_word(self.mode.load(Ordering::Acquire))
    }

    fn flushed(&self) -> Generation {
        // Acquire: what the CPU did with old translations comes before what follows here.
        Generation(self.flushed.load(Ordering::Acquire))
    }

    /// Whether the CPU can't use a translation that was removed before `generation` was asked for.
    fn acknowledges(&self, generation: Generation) -> bool {
        self.flushed() >= generation || self.mode() != Mode::Host
    }
}

/// What the protocol needs of the CPU that calls.
pub trait Processor {
    /// Drops every host translation of this CPU and its copies of table entries.
    fn flush(&self);

    /// Interrupts another CPU, which calls [`Cpu::answer`] in the handler. The interrupt must not get lost; it may come late.
    fn interrupt(&self, cpu: CpuIndex);

    /// Called over and over while an acknowledgement is outstanding. Pauses for a moment; after as many polls as it finds reasonable it
    /// reports what is outstanding.
    fn pause(&self, outstanding: &Outstanding);

    /// Called right before another CPU's mode is read, to decide whether it is interrupted: for those who count that it is right.
    fn looks_at(&self, _cpu: CpuIndex) {}

    /// Called before a wait begins, whether or not anything will be outstanding: the place to look whether this CPU may wait now.
    fn may_wait(&self) {}
}

/// An acknowledgement that has not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Whose.
    pub cpu: CpuIndex,
    /// What that CPU does.
    pub mode: Mode,
    /// The generation up to which it has flushed.
    pub flushed: Generation,
    /// The generation that is waited for.
    pub wanted: Generation,
    /// Whether it has been interrupted and its handler has not begun to answer.
    pub interrupted: bool,
    /// How often it has been looked at in this wait.
    pub polls: u64,
}

impl fmt::Display for Outstanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            mode,
            flushed: Generation(flushed),
            wanted: Generation(wanted),
            interrupted,
            polls,
        } = self;
        let interrupt = if *interrupted {
            "has not taken the interrupt"
        } else {
            "has taken the interrupt"
        };
        write!(
            f,
            "{cpu} has not acknowledged flush {wanted} after {polls} polls: it is {mode}, {interrupt}, last flush {flushed}"
        )
    }
}

/// A request that was made and is to be waited for.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "nothing is hidden before the request was waited for"]
pub struct Request(Generation);

impl Request {
    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.0
    }
}

/// Every CPU has acknowledged a request: it has flushed, or it is away and flushes before it touches anything that could have been
/// taken out of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The request's generation.
    pub generation: Generation,
    /// CPUs that were interrupted for it.
    pub interrupted: u32,
    /// CPUs that were away, so that nobody disturbed them.
    pub flagged: u32,
    /// Other CPUs that needed neither: they had flushed already, had an interrupt on its way, or are not started.
    pub spared: u32,
}

impl Acknowledged {
    /// Adds whom it reached to the counters.
    pub(crate) fn count(&self, stats: &mut Stats) {
        stats.cpus_interrupted += u64::from(self.interrupted);
        stats.cpus_flagged += u64::from(self.flagged);
        stats.cpus_spared += u64::from(self.spared);
    }
}

/// The state of the protocol for all CPUs.
#[derive(Debug)]
#[repr(align(64))]
pub struct Shootdown<'c> {
    /// The last generation that was asked for.
    generation: AtomicU64,
    cpus: &'c [CpuLine],
}

/// One CPU in the protocol. To be used by that CPU only, except where a method says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Cpu<'c> {
    all: &'c Shootdown<'c>,
    line: &'c CpuLine,
    index: CpuIndex,
}

impl<'c> Shootdown<'c> {
    const_unless_modelled! {
        /// No CPU is started yet, not even the one that calls: it joins, too.
        pub fn new(cpus: &'c [CpuLine]) -> Self {
            Self {
                generation: AtomicU64::new(0),
                cpus,
            }
        }
    }

    /// One of the CPUs; `None` when there is no such line.
    pub fn cpu(&'c self, index: CpuIndex) -> Option<Cpu<'c>> {
        Some(Cpu {
            all: self,
            line: self.cpus.get(index.0 as usize)?,
            index,
        })
    }

    /// What a CPU does at the moment; for reports. `None` when there is no such line.
    pub fn mode(&self, index: CpuIndex) -> Option<Mode> {
        Some(self.cpus.get(index.0 as usize)?.mode())
    }

    /// Whether every CPU has really flushed for a request, or has no translations at all: what was unlinked before it is not walked any
    /// more, not even on speculation. May be asked by anyone after the request.
    pub fn all_flushed(&self, generation: Generation) -> bool {
        self.cpus
            .iter()
            .all(|line| line.flushed() >= generation || line.mode() == Mode::Absent)
    }
}

impl<'c> Cpu<'c> {
    /// Its number.
    pub fn index(self) -> CpuIndex {
        self.index
    }

    /// The protocol that it takes part in.
    pub fn shootdown(self) -> &'c Shootdown<'c> {
        self.all
    }

    /// Asks every CPU to stop using what the tables no longer say. Whoever asks has written the tables before, and waits next.
    pub fn request(self) -> Request {
        // Release: who sees the generation sees the tables as they are now.
        let before = self.all.generation.fetch_add(1, Ordering::AcqRel);
        // Before anyone's mode is read: see the drawing above.
        fence(Ordering::SeqCst);
        Request(Generation(before + 1))
    }

    /// Interrupts whom it must, flushes this CPU, and waits until every CPU has acknowledged. To be called in the host, and without a lock
    /// that another CPU might wait for with interrupts masked; interrupts may be masked here.
    pub fn wait<P: Processor>(self, processor: &P, request: Request) -> Acknowledged {
        processor.may_wait();
        let Request(generation) = request;
        let mut acknowledged = Acknowledged {
            generation,
            interrupted: 0,
            flagged: 0,
            spared: 0,
        };
        for (index, line) in self.others() {
            processor.looks_at(index);
            let count = match line.mode() {
                _ if line.flushed() >= generation => &mut acknowledged.spared,
                Mode::Absent => &mut acknowledged.spared,
                Mode::Starting | Mode::GivenUp | Mode::Guest | Mode::Asleep => &mut acknowledged.flagged,
                // A handler that has not begun reads the generation after this, so one interrupt serves all who asked.
                Mode::Host if line.interrupted.swap(1, Ordering::AcqRel) != 0 => &mut acknowledged.spared,
                Mode::Host => {
                    processor.interrupt(index);
                    &mut acknowledged.interrupted
                }
            };
            *count += 1;
        }
        // While the interrupts travel.
        self.catch_up(processor);
        for (index, line) in self.others() {
            let mut polls = 0;
            while !line.acknowledges(generation) {
                // Others may wait for this CPU just now, and its interrupts may be masked.
                self.catch_up(processor);
                polls += 1;
                processor.pause(&Outstanding {
                    cpu: index,
                    mode: line.mode(),
                    flushed: line.flushed(),
                    wanted: generation,
                    interrupted: line.interrupted.load(Ordering::Relaxed) != 0,
                    polls,
                });
            }
        }
        acknowledged
    }

    fn others(self) -> impl Iterator<Item = (CpuIndex, &'c CpuLine)> {
        let lines = self.all.cpus.iter();
        (0..)
            .map(CpuIndex)
            .zip(lines)
            .filter(move |(index, _)| *index != self.index)
    }
}
