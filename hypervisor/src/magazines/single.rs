//! Single frames from the magazine and into it: what the stress does.

use core::sync::atomic::Ordering;

use memory::frame::extent::{Clean, Dirty, Extent};
use memory::region::{Magazine, PrivateError};
use memory::window::Windows;

use super::{OwnMagazine, STOCKED, Uses};
use crate::frames::with_memory;
use crate::hardware::Hardware;

impl OwnMagazine {
    /// CPUs whose magazines are not empty.
    pub fn stocked() -> u32 {
        STOCKED.load(Ordering::Acquire)
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
        self.restock(windows)?;
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
}
