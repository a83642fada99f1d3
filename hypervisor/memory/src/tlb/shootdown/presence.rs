//! A CPU's own side of the protocol: coming, going away, coming back, answering.

use core::fmt;

use super::super::atomics::{Ordering, fence};
use super::{Cpu, Generation, Mode, Processor};

/// A CPU can't join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// Nobody announced it, or whoever did has given it up: it must halt and touch nothing.
    NotExpected,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotExpected => f.write_str("a CPU came up that nobody waits for any more: it is halted"),
        }
    }
}

impl core::error::Error for JoinError {}

impl<'c> Cpu<'c> {
    /// Announces a CPU, to be called by whoever starts it, before the CPU can load the host's tables. False when it is announced or
    /// started already.
    #[must_use]
    pub fn announce(self) -> bool {
        let announced = self.change(Mode::Absent, Mode::Starting);
        // A requester that does not see it announced has changed the tables before the CPU first reads them.
        fence(Ordering::SeqCst);
        announced
    }

    /// Gives up a CPU that was announced and did not come: it can't join any more. To be called by whoever started it, and followed by an
    /// INIT and [`Self::stopped`]; in between it may still walk tables, so none that it may know is freed. False when it has joined
    /// meanwhile.
    #[must_use]
    pub fn give_up(self) -> bool {
        self.change(Mode::Starting, Mode::GivenUp)
    }

    /// An INIT has stopped a CPU that was given up: it has no translations any more, and may be announced again. False when it was not
    /// given up.
    pub fn stopped(self) -> bool {
        self.change(Mode::GivenUp, Mode::Absent)
    }

    /// Takes part from now on: flushes what the CPU may have cached since it loaded the host's tables. Until then it touches only memory
    /// that is mapped for ever.
    ///
    /// # Errors
    /// When it was not announced, or was given up.
    pub fn join<P: Processor>(self, processor: &P) -> Result<(), JoinError> {
        if !self.change(Mode::Starting, Mode::Host) {
            return Err(JoinError::NotExpected);
        }
        fence(Ordering::SeqCst);
        let newest = self.all.generation.load(Ordering::Acquire);
        processor.flush();
        self.line.flushed.fetch_max(newest, Ordering::Release);
        Ok(())
    }

    /// The CPU goes to run a guest: from here to [`Self::back`] it touches only memory that is mapped for ever, so its acknowledgement
    /// is given by its mode.
    pub fn enter_guest(self) {
        self.go(Mode::Guest);
    }

    /// The CPU goes to halt: as for [`Self::enter_guest`]. Whatever wakes it begins with [`Self::visit`].
    pub fn sleep(self) {
        self.go(Mode::Asleep);
    }

    /// The CPU is back in the host, from a guest (also when it could not be entered) or from sleep: flushes if it owes a flush. Nothing
    /// but memory that is mapped for ever was touched since it went.
    pub fn back<P: Processor>(self, processor: &P) {
        // Relaxed: nobody concludes anything from a CPU's being in the host. The fence orders it before the look at the generation.
        self.line.mode.store(Mode::Host as u32, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.catch_up(processor);
    }

    /// Entry of an NMI, a machine check, or any other interrupt that can come while the CPU is away or between the steps of
    /// [`Self::back`]. Until the value is dropped the CPU counts as in the host; then it is again what it was.
    #[must_use = "the CPU counts as in the host while this lives"]
    pub fn visit<P: Processor>(self, processor: &P) -> Visit<'c> {
        let before = self.line.mode();
        // Also when the mode is `Host` already: what was interrupted may be between the store and the flush.
        self.back(processor);
        Visit { cpu: self, before }
    }

    /// The handler of the interrupt: flushes for every request made so far. An interrupt that comes when the flush has been done
    /// meanwhile costs none.
    pub fn answer<P: Processor>(self, processor: &P) {
        // Before the generation is read: a requester that finds it still set knows that its request will be seen.
        self.line.interrupted.swap(0, Ordering::AcqRel);
        self.catch_up(processor);
    }

    /// Flushes if anyone asked since the last flush. For loops that wait for a lock with interrupts masked, too: whoever holds the
    /// lock does not wait for this CPU, but somebody else may.
    pub fn catch_up<P: Processor>(self, processor: &P) {
        // Acquire: the tables as they were when this generation was asked for.
        let newest = self.all.generation.load(Ordering::Acquire);
        // Relaxed: its own.
        if self.line.flushed.load(Ordering::Relaxed) >= newest {
            return;
        }
        processor.flush();
        // The largest: an NMI in between may have flushed for a newer one. Release: what was done with old translations came before.
        self.line.flushed.fetch_max(newest, Ordering::Release);
    }

    /// Whether a flush was asked for that this CPU has not done yet. May be asked by anyone: for reports, and for the model machine, on
    /// which a CPU that is away may use no translation exactly while it owes a flush.
    pub fn owes_flush(self) -> bool {
        self.line.flushed() < Generation(self.all.generation.load(Ordering::Acquire))
    }

    fn go(self, mode: Mode) {
        // Release: what was done in the host came before.
        self.line.mode.store(mode as u32, Ordering::Release);
    }

    fn change(self, from: Mode, to: Mode) -> bool {
        self.line
            .mode
            .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// A CPU that counts as in the host for a while.
#[derive(Debug)]
pub struct Visit<'c> {
    cpu: Cpu<'c>,
    before: Mode,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.before != Mode::Host {
            self.cpu.go(self.before);
        }
    }
}
