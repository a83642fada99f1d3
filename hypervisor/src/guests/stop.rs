//! Stopping all CPUs for a look at everything, such as the checks after a death: each leaves its guest, puts the vCPU back, and waits.
//!
//! A CPU is *parked* while it works on nothing: it rests, or waits here, asleep as well. Between two pieces of work it passes here; whoever
//! stops all waits until each of the others is parked. Nobody slips through:
//!
//! ```text
//!  stopper                               CPU that goes on
//!  by := me                              parked := no
//!  fence                                 fence
//!  read parked: no? kick, wait           read by: somebody? parked := yes, wait
//! ```
//!
//! And nobody is left asleep: a wake-up that comes before the CPU halts stays pending, because interrupts are masked.
//!
//! ```text
//!  stopper                               CPU that waits, interrupts masked
//!  by := nobody                          parked := waiting
//!  fence                                 fence
//!  read parked: waiting? wake            read by: somebody? halt, with interrupts let in
//! ```

use core::sync::atomic::{AtomicU32, Ordering, fence};

use crate::cpu::descriptor::{CpuTables, Parked};
use crate::cpu::registers::with_interrupts_masked;
use crate::presence::{self, catch_up};
use crate::{lock, println};

/// Nobody stops all.
const NOBODY: u32 = 0;
/// Polls after which a CPU that is not parked yet is reported; each report takes twice as many as the one before. A choice: a CPU parks
/// within 2 MiB of scrubbing and a piece of the report, some milliseconds; this is about a second.
const FIRST_REPORT: u64 = 1 << 24;

/// Who has stopped all.
pub struct Stop {
    /// [`NOBODY`], or the number of the CPU plus one.
    by: AtomicU32,
}

impl Stop {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            by: AtomicU32::new(NOBODY),
        }
    }

    /// Whether somebody stops all.
    pub fn is_called(&self) -> bool {
        self.by.load(Ordering::Acquire) != NOBODY
    }

    /// Between two pieces of work: waits while all are stopped, and goes on as one who works. `before` is what the CPU does before it
    /// waits.
    pub fn pass(&self, own: &CpuTables, mut before: impl FnMut()) {
        loop {
            self.wait(own, &mut before);
            own.set_parked(Parked::No);
            // Before it is read who stops: see the drawing above.
            fence(Ordering::SeqCst);
            if !self.is_called() {
                return;
            }
        }
    }

    /// Stops all, runs `look`, and lets them go on. To be called between two pieces of work: what is to be seen must be where `look`
    /// finds it, since somebody else may stop all first.
    pub fn all<R>(&self, own: &CpuTables, look: impl FnOnce() -> R) -> R {
        lock::none_is_held();
        let me = own.number() + 1;
        while self
            .by
            .compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            self.wait(own, || {});
        }
        // Before it is read who is parked: see the drawing above.
        fence(Ordering::SeqCst);
        for other in presence::others(own.number()) {
            if other.parked() == Parked::No {
                presence::kick(other);
            }
        }
        for other in presence::others(own.number()) {
            let mut polls: u64 = 0;
            while other.parked() == Parked::No {
                catch_up();
                core::hint::spin_loop();
                polls += 1;
                if polls >= FIRST_REPORT && polls.is_power_of_two() {
                    let number = other.number();
                    match presence::mode(number) {
                        Some(mode) => {
                            println!("CPU {number} has not stopped after {polls} polls: it is {mode}")
                        }
                        None => println!("CPU {number} has not stopped after {polls} polls"),
                    }
                }
            }
        }
        own.set_parked(Parked::No);
        let result = look();
        self.by.store(NOBODY, Ordering::Release);
        // Before it is read who waits: see the drawing above.
        fence(Ordering::SeqCst);
        for other in presence::others(own.number()) {
            if other.parked() == Parked::Waiting {
                presence::wake(other.number());
            }
        }
        result
    }

    /// Waits, parked, while somebody stops all.
    fn wait(&self, own: &CpuTables, mut before: impl FnMut()) {
        with_interrupts_masked(|| {
            let mut waits = false;
            while self.is_called() {
                if !core::mem::replace(&mut waits, true) {
                    before();
                }
                own.set_parked(Parked::Waiting);
                #[cfg(feature = "test-hooks")]
                crate::hooks::stale_read::errand();
                // Before it is read who stops: see the drawing above.
                fence(Ordering::SeqCst);
                if self.is_called() {
                    presence::doze();
                }
            }
        });
    }
}
