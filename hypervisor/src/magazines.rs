//! Each CPU's magazine of hidden frames, in front of the pool.
//!
//! Guests' changes take single frames from it, for pages whose own were taken when memory was low (`guests::pressure`), and the stress does
//! (`single`). A magazine belongs to its CPU: taking and putting a frame touches nothing that CPUs share. Only a batch ([`Magazine::BATCH`]) takes
//! the lock of the memory subsystem. What lies in a magazine is nobody else's to take, so three things bring it back:
//!
//! - A CPU that is about to doze, or to be stopped, gives its magazine back first ([`OwnMagazine::give_back`]). So an idle CPU has none, and
//!   when the last guest is gone all frames are where they were at boot.
//! - Whoever finds no memory asks for those of all other CPUs ([`OwnMagazine::ask_others`]): CPUs in a guest are kicked, and each looks at
//!   the request between two pieces of work ([`OwnMagazine::look`]).
//! - A magazine holds three batches at most, 1.5 MiB.
//!
//! Who asks has given its own back first and waits for a moment only, answering shootdowns meanwhile: two CPUs that ask each other both get
//! on, and one that is in the middle of a long piece of work keeps nobody waiting.

#[cfg(feature = "test-hooks")]
mod single;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    /// Single frames taken and put.
    #[cfg(feature = "test-hooks")]
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
                #[cfg(feature = "test-hooks")]
                operations: 0,
                locks: 0,
                returned: 0,
            },
        }
    }

    /// Runs `work` on it.
    pub fn with<R>(&mut self, work: impl FnOnce(&mut Magazine) -> R) -> R {
        let result = work(&mut self.magazine);
        if !self.magazine.is_empty() {
            self.note_stock();
        }
        result
    }

    /// Gets a batch from the pool, which grows if it has to. To be called with nothing locked.
    ///
    /// # Errors
    /// When there is no memory, not even in the magazines of other CPUs.
    pub fn restock(&mut self, windows: &mut Windows) -> Result<(), PrivateError> {
        if self.fill(windows).is_err() {
            self.ask_others(windows);
            self.fill(windows)?;
        }
        Ok(())
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

    /// Gets a batch; the flush is waited for without the lock.
    fn fill(&mut self, windows: &mut Windows) -> Result<(), PrivateError> {
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
