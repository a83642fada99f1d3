//! The hypervisor's one `HostMemory`, and ordinary memory from it.

use core::fmt;
use core::ptr::NonNull;

use memory::HostMemory;
use memory::address::{Hpa, PAGE_SIZE, Pfn};
use memory::frame::{HostFrames, OutOfMemory};
use memory::layout::DIRECT_MAP_BASE;
use memory::region::SHRINK_STEP;

use crate::hardware::Hardware;
use crate::lock::{MaskedLock, Rank};

/// The memory subsystem, from the moment that the frame records exist. The only lock of the memory subsystem; nothing else is locked
/// while it is held.
static MEMORY: MaskedLock<Option<HostMemory<'static>>> = MaskedLock::new(Rank::Memory, None);

/// Puts the memory subsystem in place.
pub fn install(memory: HostMemory<'static>) {
    MEMORY.with(|place| *place = Some(memory));
}

/// Runs `work` on the memory subsystem.
///
/// # Panics
/// Before [`install`].
pub fn with_memory<R>(work: impl FnOnce(&mut HostMemory<'static>) -> R) -> R {
    MEMORY.with(|place| match place {
        Some(memory) => work(memory),
        None => panic!("broken invariant: memory was used before it was set up"),
    })
}

/// Gives back what is kept for later: memory for reuse, and table frames that wait for flushes, for which it waits; for a while at most, as
/// a CPU that was given up never flushes.
pub fn settle() {
    /// A choice: about a second.
    const POLLS: u32 = 1 << 24;
    // In steps, so that nobody waits long for the lock.
    while with_memory(|memory| memory.shrink(&Hardware, SHRINK_STEP)) > 0 {}
    let flushed = with_memory(|memory| memory.drain(&Hardware)).wait(&Hardware);
    with_memory(|memory| flushed.release(memory, &Hardware));
    for _ in 0..POLLS {
        let waiting = with_memory(|memory| {
            memory.settle(&Hardware);
            memory.waiting_tables()
        });
        if waiting == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// The same for a fault report: `None` when the lock is taken or there is no memory subsystem yet.
pub fn try_with_memory<R>(work: impl FnOnce(&mut HostMemory<'static>) -> R) -> Option<R> {
    MEMORY.try_with(1000, |place| place.as_mut().map(work)).flatten()
}

/// An owned extent of zeroed ordinary memory in the direct map; zeroed again and freed when dropped.
#[derive(Debug)]
pub struct Frames {
    frames: Option<HostFrames>,
    hpa: Hpa,
    bytes: usize,
}

impl Frames {
    /// Takes `1 << order` contiguous frames.
    ///
    /// # Errors
    /// When there are none.
    pub fn zeroed(order: u8) -> Result<Self, OutOfMemory> {
        let frames = with_memory(|memory| memory.allocate(&Hardware, order))?;
        let this = Self {
            hpa: frames.pfn().hpa(),
            bytes: (PAGE_SIZE as usize) << order,
            frames: Some(frames),
        };
        this.clear();
        Ok(this)
    }

    /// Where it is.
    pub fn hpa(&self) -> Hpa {
        self.hpa
    }

    /// The same through the direct map; valid for [`Self::bytes`] bytes as long as `self` lives.
    pub fn as_ptr(&self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut((DIRECT_MAP_BASE.get() + self.hpa.get()) as usize)
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn clear(&self) {
        // SAFETY: the extent is ours alone, in the direct map, and `bytes` long.
        unsafe { core::ptr::write_bytes(self.as_ptr(), 0, self.bytes) };
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // What was in here may have been a guest's registers.
        self.clear();
        if let Some(frames) = self.frames.take() {
            with_memory(|memory| memory.frames.free(frames));
        }
    }
}

/// A value in frames of its own.
#[derive(Debug)]
pub struct FrameBox<T> {
    value: NonNull<T>,
    /// Freed after the value is dropped.
    _frames: Frames,
}

impl<T> FrameBox<T> {
    /// Moves `value` into newly taken frames.
    ///
    /// # Errors
    /// When there are none; the value is dropped.
    pub fn new(value: T) -> Result<Self, OutOfMemory> {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
        let order = size_of::<T>()
            .div_ceil(PAGE_SIZE as usize)
            .next_power_of_two()
            .trailing_zeros() as u8;
        let frames = Frames::zeroed(order)?;
        let pointer = frames.as_ptr().cast::<T>();
        // SAFETY: the extent is large enough, aligned to a page and ours alone.
        unsafe { pointer.write(value) };
        match NonNull::new(pointer) {
            Some(value) => Ok(Self {
                value,
                _frames: frames,
            }),
            None => panic!("broken invariant: the direct map starts at address 0"),
        }
    }
}

// SAFETY: the value is the box's own, as if it were held in place; the frames are plain numbers.
unsafe impl<T: Send> Send for FrameBox<T> {}
// SAFETY: as above; a shared box gives out shared references only.
unsafe impl<T: Sync> Sync for FrameBox<T> {}

impl<T> FrameBox<T> {
    /// Gives the value up to whoever may use it for ever.
    pub fn leak(self) -> &'static mut T {
        let mut value = core::mem::ManuallyDrop::new(self).value;
        // SAFETY: the value lives in frames that were ours and that nobody frees any more.
        unsafe { value.as_mut() }
    }
}

impl<T> Drop for FrameBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value was written by `new` and is dropped once; the frames are freed after it.
        unsafe { self.value.as_ptr().drop_in_place() };
    }
}

impl<T> core::ops::Deref for FrameBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value lives in frames that are ours as long as `self` lives.
        unsafe { self.value.as_ref() }
    }
}

impl<T> core::ops::DerefMut for FrameBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `self` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T: fmt::Display> fmt::Display for FrameBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Takes a frame for good, with any contents.
///
/// # Errors
/// When there is none.
pub fn leak_frame() -> Result<Pfn, OutOfMemory> {
    with_memory(|memory| memory.frames.allocate(0)).map(|frames| frames.pfn())
}

/// Gives a frame to the allocator that was in use since before there was one.
///
/// # Safety
/// It must have been the caller's, and nobody may use it any more.
pub unsafe fn give(pfn: Pfn) {
    with_memory(|memory| {
        if let Some(frames) = memory.frames.adopt(pfn) {
            memory.frames.free(frames);
        }
    });
}

/// Takes memory for `count` values for good, each a copy of `fill`.
///
/// # Errors
/// When there is none.
pub fn leak_slice<T: Copy>(count: usize, fill: T) -> Result<&'static mut [T], OutOfMemory> {
    leak_slice_with(count, |_| Ok(fill))
}

/// Takes memory for `count` values for good, made one by one from their numbers.
///
/// # Errors
/// When there is none, or `make` fails.
pub fn leak_slice_with<T>(
    count: usize,
    mut make: impl FnMut(usize) -> Result<T, OutOfMemory>,
) -> Result<&'static mut [T], OutOfMemory> {
    const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
    let pages = count
        .saturating_mul(size_of::<T>())
        .div_ceil(PAGE_SIZE as usize)
        .max(1);
    let frames =
        core::mem::ManuallyDrop::new(Frames::zeroed(pages.next_power_of_two().trailing_zeros() as u8)?);
    let pointer = frames.as_ptr().cast::<T>();
    for index in 0..count {
        let value = make(index)?;
        // SAFETY: the extent holds `count` values and is never freed.
        unsafe { pointer.add(index).write(value) };
    }
    // SAFETY: all `count` values were just written, and nobody else knows the extent.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
}
