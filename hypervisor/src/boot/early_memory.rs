//! Reading physical memory through the early direct map, which shows the first 4 GiB.
//!
//! Everything that a loader or the firmware hands over is read here, before our own tables are installed.

use memory::address::{Hpa, Hva};
use memory::layout::DIRECT_MAP_BASE;

/// Bytes of physical memory that the early tables show (see `entry`).
pub const EARLY_BYTES: u64 = 1 << 32;

/// What was asked for lies, in whole or in part, above the first 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeyondEarlyMap {
    /// First byte asked for.
    pub start: Hpa,
    /// Bytes asked for.
    pub bytes: u64,
}

/// Marks types that any bytes make a valid value of.
///
/// # Safety
/// Every bit pattern must be a valid value of the type.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer has no invalid bit pattern.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// The right to read the first 4 GiB of physical memory at `DIRECT_MAP_BASE`.
#[derive(Clone, Copy, Debug)]
pub struct EarlyMemory(());

impl EarlyMemory {
    /// Claims that the early tables are active.
    ///
    /// # Safety
    /// As long as the value is in use, `DIRECT_MAP_BASE + hpa` must translate to `hpa` for everything that is read through
    /// it, and nothing may write to that memory.
    pub unsafe fn new() -> Self {
        Self(())
    }

    /// The virtual address of `bytes` bytes at `start`.
    ///
    /// # Errors
    /// [`BeyondEarlyMap`] when any of them lies above the first 4 GiB.
    pub fn translate(self, start: Hpa, bytes: u64) -> Result<Hva, BeyondEarlyMap> {
        let beyond = BeyondEarlyMap { start, bytes };
        let end = start.checked_add(bytes).ok_or(beyond)?;
        if end.get() > EARLY_BYTES {
            return Err(beyond);
        }
        DIRECT_MAP_BASE.checked_add(start.get()).ok_or(beyond)
    }

    /// Copies a value out of physical memory, whatever its alignment.
    ///
    /// # Errors
    /// [`BeyondEarlyMap`] when any of its bytes lies above the first 4 GiB.
    pub fn read<T: Plain>(self, start: Hpa) -> Result<T, BeyondEarlyMap> {
        let hva = self.translate(start, size_of::<T>() as u64)?;
        let pointer = core::ptr::with_exposed_provenance::<T>(hva.get() as usize);
        // SAFETY: `new`'s caller vouched for the mapping; `translate` checked the range; `Plain` accepts any bytes; the read
        // asks for no alignment.
        Ok(unsafe { pointer.read_unaligned() })
    }
}
