//! Whom a shootdown's interrupt finds in a guest, counted by words that the protocol does not know.
//!
//! The protocol (`memory::tlb::shootdown`) reads a CPU's mode and interrupts it only in the host. Here each CPU numbers its times in guest mode by
//! a word of its own, and both ends of an interrupt are looked at:
//!
//! - whoever sends one has read that word before and after the look at the mode. One and the same time in guest mode both times, without a
//!   handler in between: the CPU was in a guest when it was looked at, and should have been left alone;
//! - whoever takes one knows whether it ended guest mode. It may have: the CPU was looked at in the host, and entered a guest before the interrupt
//!   came.
//!
//! Between the steps into guest mode and out of it an NMI can come, a kick above all. Its handler runs in the host, and the CPU says so as long:
//! an interrupt sent then finds nobody in a guest.
//!
//! ```text
//!  sender                                CPU on its way into a guest
//!                                        mode := guest; times := odd
//!  read times: odd                       NMI: visits := odd; mode := host
//!  read mode: host, so interrupt it
//!  read times: the same                  mode := guest; visits := even; enter
//! ```

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One CPU's words. They lie with its descriptor tables: they are written while the CPU may owe a flush.
#[derive(Debug)]
pub struct GuestMode {
    /// Counted up by the CPU when it has said that it goes into guest mode, and before it says that it is back: odd in between.
    times: AtomicU64,
    /// Counted up by handlers before they say that the CPU is in the host, and when they have said that it is again what it was: odd in between,
    /// but in one that interrupts another, and that one never finds the CPU on its way into a guest.
    visits: AtomicU64,
    /// `times` of the CPU that this one looked at last.
    looked: AtomicU64,
    /// And its `visits`.
    looked_visits: AtomicU64,
    /// Interrupts that it sent to CPUs in guest mode.
    misdirected: AtomicU64,
    /// Guest mode was ended by an interrupt, which is being handled.
    ended: AtomicBool,
    /// Shootdown interrupts that ended its guest mode.
    met: AtomicU64,
}

impl GuestMode {
    /// Those of a CPU that has not been in guest mode.
    pub const fn new() -> Self {
        Self {
            times: AtomicU64::new(0),
            visits: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            looked_visits: AtomicU64::new(0),
            misdirected: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            met: AtomicU64::new(0),
        }
    }

    /// This CPU has said that it goes into guest mode.
    pub fn enter(&self) {
        self.count();
    }

    /// It is about to say that it is back.
    pub fn leave(&self) {
        self.count();
    }

    fn count(&self) {
        // Nobody else writes it.
        let times = self.times.load(Ordering::Relaxed);
        self.times.store(times + 1, Ordering::Release);
    }

    /// Runs a handler as in the host: `visit` says that the CPU is in the host, and at its end that it is what it was.
    pub fn while_visited(&self, visit: impl FnOnce()) {
        // In one instruction, unlike `times`: an NMI may come in the middle of a handler.
        self.visits.fetch_add(1, Ordering::AcqRel);
        visit();
        self.visits.fetch_add(1, Ordering::AcqRel);
    }

    /// This CPU is about to read another one's mode.
    pub fn look_at(&self, other: &Self) {
        self.looked
            .store(other.times.load(Ordering::Acquire), Ordering::Relaxed);
        self.looked_visits
            .store(other.visits.load(Ordering::Acquire), Ordering::Relaxed);
    }

    /// It sends that one an interrupt, because of what it has read.
    pub fn interrupt(&self, other: &Self) {
        let looked = self.looked.load(Ordering::Relaxed);
        let visits = self.looked_visits.load(Ordering::Relaxed);
        let in_guest = looked % 2 == 1 && other.times.load(Ordering::Acquire) == looked;
        let in_handler = visits % 2 == 1 || other.visits.load(Ordering::Acquire) != visits;
        if in_guest && !in_handler {
            self.misdirected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the interrupt be handled that ended this CPU's guest mode, by `handle`.
    pub fn while_ended(&self, handle: impl FnOnce()) {
        self.ended.store(true, Ordering::Relaxed);
        handle();
        self.ended.store(false, Ordering::Relaxed);
    }

    /// A shootdown's interrupt is handled on this CPU.
    pub fn interrupted(&self) {
        if self.ended.load(Ordering::Relaxed) {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Shootdown interrupts that this CPU has sent to CPUs that were in guest mode when it looked at them: there must be none.
    pub fn misdirected(&self) -> u64 {
        self.misdirected.load(Ordering::Relaxed)
    }

    /// Shootdown interrupts that ended this CPU's guest mode.
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }
}
