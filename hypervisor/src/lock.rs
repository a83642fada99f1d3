//! Spin locks, few and ranked.
//!
//! A CPU takes locks in ascending order of their [`Rank`] only, which is the written order of all locks; debug and test builds check it at
//! each one. Whoever waits for a lock answers shootdowns meanwhile, since its interrupts may be masked. Nobody waits for a shootdown, or for
//! all CPUs to stop, while it holds a lock: the same builds check that where the wait begins ([`none_is_held`]).

use core::sync::atomic::Ordering;

use crate::cpu::descriptor::CpuTables;
use crate::cpu::registers::with_interrupts_masked;
use crate::presence;

/// The order in which locks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Rank {
    /// Who runs where, and what to launch next (`guests::world`).
    Schedule,
    /// The report in the making, and the checks (`guests::world`).
    Report,
    /// What a guest's vCPUs share (`guests::guest`).
    Guest,
    /// The memory subsystem (`frames`).
    Memory,
    /// A CPU's ring of the trace (`tracing`).
    Trace,
    /// The serial ports (`console`): nothing else is locked while one of them is held.
    Console,
}

/// Whether this build checks the rules.
const CHECKED: bool = cfg!(any(debug_assertions, feature = "test-hooks"));

/// This CPU is about to wait for others.
///
/// # Panics
/// In debug and test builds, when it holds a lock.
pub fn none_is_held() {
    if !CHECKED {
        return;
    }
    if let Some(cpu) = CpuTables::current()
        && let held @ 1.. = cpu.held().load(Ordering::Relaxed)
    {
        // The panic's message needs the console.
        cpu.held().store(0, Ordering::Relaxed);
        panic!(
            "broken invariant: CPU {} waits for other CPUs while it holds {held:#b}",
            cpu.number()
        );
    }
}

/// Runs `work`, in which this CPU may wait for others although it holds a lock: all others doze or are stopped, and want none.
pub fn while_others_rest<R>(work: impl FnOnce() -> R) -> R {
    let Some(cpu) = CpuTables::current().filter(|_| CHECKED) else {
        return work();
    };
    let held = cpu.held().swap(0, Ordering::Relaxed);
    let result = work();
    cpu.held().store(held, Ordering::Relaxed);
    result
}

/// Notes on this CPU that it holds a lock of some rank, in builds that check it; dropping it takes the note back.
struct Holding(Option<(&'static CpuTables, u32)>);

impl Holding {
    /// Before the lock is waited for: a wrong order is found even when it does no harm this time.
    fn begin(rank: Rank) -> Self {
        if !CHECKED {
            return Self(None);
        }
        let Some(cpu) = CpuTables::current() else {
            return Self(None);
        };
        let bit = 1 << rank as u32;
        let held = cpu.held().fetch_or(bit, Ordering::Relaxed);
        if held >= bit {
            cpu.held().fetch_and(!bit, Ordering::Relaxed);
            // The console first of all: the panic's message needs it.
            cpu.held().store(0, Ordering::Relaxed);
            panic!(
                "broken invariant: CPU {} takes the lock {rank:?} while it holds {held:#b}",
                cpu.number()
            );
        }
        Self(Some((cpu, bit)))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some((cpu, bit)) = self.0 {
            cpu.held().fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// A value behind a spin lock; reached only inside a closure. Interrupts stay as they are, so handlers must not use it.
pub struct Lock<T> {
    rank: Rank,
    value: spin::Mutex<T>,
}

impl<T> Lock<T> {
    /// An unlocked value.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            value: spin::Mutex::new(value),
        }
    }

    /// Waits for the lock and runs `work` on the value.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let _holding = Holding::begin(self.rank);
        loop {
            if let Some(mut value) = self.value.try_lock() {
                return work(&mut value);
            }
            presence::catch_up();
            core::hint::spin_loop();
        }
    }
}

/// The same with interrupts masked while it is held: without the mask, an interrupt handler on the same CPU could wait for a lock that the
/// code it interrupted holds.
pub struct MaskedLock<T>(Lock<T>);

impl<T> MaskedLock<T> {
    /// An unlocked value.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self(Lock::new(rank, value))
    }

    /// Waits for the lock and runs `work` on the value. An NMI handler must not call it: NMIs cannot be masked.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        with_interrupts_masked(|| self.0.with(work))
    }

    /// Tries `attempts` times for the lock; `None` when it stays taken. Safe to call from anywhere.
    pub fn try_with<R>(&self, attempts: u32, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        with_interrupts_masked(|| {
            for _ in 0..attempts {
                if let Some(mut value) = self.0.value.try_lock() {
                    return Some(work(&mut value));
                }
                core::hint::spin_loop();
            }
            None
        })
    }
}
