//! Each CPU's magazine of hidden frames, in front of the pool.
//!
//! A magazine belongs to its CPU: taking and putting a frame touches nothing that CPUs share. Only a batch ([`Magazine::BATCH`]) takes the
//! lock of the memory subsystem. What lies in a magazine is nobody else's to take, so three things bring it back:
//!
//! - A CPU that is about to doze, or to be stopped, gives its magazine back first ([`OwnMagazine::give_back`]). So an idle CPU has none, and
//!   when the last guest is gone all frames are where they were at boot.
//! - Whoever finds no memory asks for those of all other CPUs ([`OwnMagazine::ask_others`]): CPUs in a guest are kicked, and each looks at
//!   the request between two pieces of work ([`OwnMagazine::look`]).
//! - A magazine holds three batches at most, 1.5 MiB.
//!
//! Who asks has given its own back first and waits for a moment only, answering shootdowns meanwhile: two CPUs that ask each other both get
//! on, and one that is in the middle of a long piece of work keeps nobody waiting.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::frame::extent::{Clean, Dirty, Extent};
use memory::region::{Magazine, PrivateError};
use memory::window::Windows;

use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::presence;

/// Polls for other CPUs' magazines: a choice, some milliseconds.
const POLLS: u32 = 1 << 14;

/// How often all CPUs were asked for their frames.
static ASKED: AtomicU64 = AtomicU64::new(0);
/// CPUs with frames in their magazines.
static STOCKED: AtomicU32 = AtomicU32::new(0);

/// What a magazine did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uses {
    /// Frames taken and put.
    pub operations: u64,
    /// Takes of the memory subsystem's lock for them.
    pub locks: u64,
    /// Frames that went back to the pool because another CPU had asked.
    pub returned: u64,
}

/// This CPU's magazine.
pub struct OwnMagazine {
    magazine: Magazine,
    /// [`ASKED`] when it was looked at last.
    seen: u64,
    /// It counts in [`STOCKED`].
    stocked: bool,
    uses: Uses,
}

impl OwnMagazine {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            magazine: Magazine::new(),
            seen: 0,
            stocked: false,
            uses: Uses {
                operations: 0,
                locks: 0,
                returned: 0,
            },
        }
    }

    /// What it did so far.
    pub fn uses(&self) -> Uses {
        self.uses
    }

    /// A zeroed frame: from the magazine, or else through a batch from the pool, which grows if it has to.
    ///
    /// # Errors
    /// When there is no memory, not even in the magazines of other CPUs.
    pub fn take(&mut self, windows: &mut Windows) -> Result<Extent<Clean>, PrivateError> {
        self.uses.operations += 1;
        if let Some(extent) = self.magazine.take() {
            return Ok(extent);
        }
        self.magazine.settle(&Hardware, windows);
        if let Some(extent) = self.magazine.take() {
            return Ok(extent);
        }
        if self.restock(windows).is_err() {
            self.ask_others(windows);
            self.restock(windows)?;
        }
        match self.magazine.take() {
            Some(extent) => Ok(extent),
            None => panic!("broken invariant: a magazine that was filled is empty"),
        }
    }

    /// Puts a used frame in; what is too much goes to the pool.
    pub fn put(&mut self, windows: &mut Windows, extent: Extent<Dirty>) {
        self.uses.operations += 1;
        self.note_stock();
        let Err(extent) = self.magazine.put(extent) else {
            return;
        };
        self.magazine.settle(&Hardware, windows);
        let Err(extent) = self.magazine.put(extent) else {
            return;
        };
        self.uses.locks += 1;
        with_memory(|memory| {
            self.magazine.trim(memory, &Hardware, windows, Magazine::BATCH);
            // Only what is no single frame is still refused.
            if let Err(extent) = self.magazine.put(extent) {
                memory.free_private(&Hardware, windows, extent);
            }
        });
    }

    /// Gives everything back: before this CPU dozes or is stopped.
    pub fn give_back(&mut self, windows: &mut Windows) {
        if core::mem::take(&mut self.stocked) {
            self.uses.locks += 1;
            with_memory(|memory| self.magazine.drain(memory, &Hardware, windows));
            STOCKED.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Between two pieces of work: gives everything back if another CPU has asked for it.
    pub fn look(&mut self, windows: &mut Windows) {
        let asked = ASKED.load(Ordering::Acquire);
        if core::mem::replace(&mut self.seen, asked) != asked {
            self.uses.returned += self.magazine.len() as u64;
            self.give_back(windows);
        }
    }

    /// Asks all CPUs for what is in their magazines, and waits for a moment. Returns whether all of it came. To be called with nothing
    /// locked.
    pub fn ask_others(&mut self, windows: &mut Windows) -> bool {
        self.give_back(windows);
        self.seen = ASKED.fetch_add(1, Ordering::AcqRel) + 1;
        let number = presence::this_cpu().map_or(0, |cpu| cpu.index().get());
        for other in presence::others(number) {
            presence::kick(other);
        }
        for _ in 0..POLLS {
            if STOCKED.load(Ordering::Acquire) == 0 {
                return true;
            }
            presence::catch_up();
            core::hint::spin_loop();
        }
        false
    }

    /// CPUs whose magazines are not empty.
    pub fn stocked() -> u32 {
        STOCKED.load(Ordering::Acquire)
    }

    /// Gets a batch; the flush is waited for without the lock.
    fn restock(&mut self, windows: &mut Windows) -> Result<(), PrivateError> {
        self.note_stock();
        self.uses.locks += 1;
        let growing = with_memory(|memory| self.magazine.restock(memory, &Hardware))?;
        if let Some(growing) = growing {
            let grown = growing.wait(&Hardware);
            self.uses.locks += 1;
            with_memory(|memory| self.magazine.grown(grown, memory, &Hardware, windows));
        }
        Ok(())
    }

    /// Something comes into it.
    fn note_stock(&mut self) {
        if !core::mem::replace(&mut self.stocked, true) {
            STOCKED.fetch_add(1, Ordering::AcqRel);
        }
    }
}
