//! A value in frames of its own that has several owners, on several CPUs.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use memory::frame::OutOfMemory;

use crate::frames::FrameBox;

/// A value, and how many own it.
struct Counted<T> {
    owners: AtomicU32,
    value: T,
}

/// One of the owners of a value, which lives as long as there is one: what `Arc` is where there is an allocator.
pub struct Shared<T: Send + Sync>(ManuallyDrop<FrameBox<Counted<T>>>);

impl<T: Send + Sync> Shared<T> {
    /// Moves `value` into newly taken frames, with one owner.
    ///
    /// # Errors
    /// When there are none; the value is dropped.
    pub fn new(value: T) -> Result<Self, OutOfMemory> {
        let owners = AtomicU32::new(1);
        FrameBox::new(Counted { owners, value }).map(|counted| Self(ManuallyDrop::new(counted)))
    }
}

impl<T: Send + Sync> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Whoever clones is an owner, so the count is not 0; the clone reaches others by whatever hands it over.
        self.0.owners.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a copy of where the value is. It gives out shared references only, and only the last owner drops what it stands for.
        Self(unsafe { core::ptr::read(&raw const self.0) })
    }
}

impl<T: Send + Sync> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Send + Sync> Drop for Shared<T> {
    fn drop(&mut self) {
        // What this owner did with the value comes before its end.
        if self.0.owners.fetch_sub(1, Ordering::Release) == 1 {
            // And what all others did, too.
            fence(Ordering::Acquire);
            // SAFETY: the last owner drops it, once; the count can't grow again, since only owners clone.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}
