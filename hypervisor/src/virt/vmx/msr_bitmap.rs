//! The bitmap that says which model-specific registers a guest may use without an exit (Intel SDM vol. 3C, 25.6.9). Every guest has
//! the same.

use crate::frames::Frames;
use crate::virt::OutOfFrames;
use memory::address::Hpa;
use vcpu_policy::msr::PASS_THROUGH;

/// Bytes of each of the four parts: reads of low and high registers, then writes.
const PART: usize = 1024;
/// From the bits of a register's reads to those of its writes.
const WRITES: usize = 2 * PART;

/// The bitmap.
pub struct MsrBitmap(Frames);

impl MsrBitmap {
    /// A bitmap that intercepts every register but those that are swapped with the guest.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new() -> Result<Self, OutOfFrames> {
        let frame = super::frame()?;
        // SAFETY: the frame is ours and has that many bytes.
        unsafe { frame.as_ptr().write_bytes(0xff, frame.bytes()) };
        for msr in PASS_THROUGH {
            // A register outside the two ranges is always intercepted.
            if let Some((byte, bit)) = place(msr) {
                for at in [byte, byte + WRITES] {
                    // SAFETY: `place` stays within the first half of the frame (checked at compile time for the last register of each
                    // range), and nobody else has it.
                    unsafe { *frame.as_ptr().add(at) &= !(1 << bit) };
                }
            }
        }
        Ok(Self(frame))
    }

    /// Where it is.
    pub fn hpa(&self) -> Hpa {
        self.0.hpa()
    }
}

/// Byte and bit of a register's reads; `None` for one that the bitmap does not have.
const fn place(msr: u32) -> Option<(usize, u32)> {
    let (first, part) = match msr {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (0xc000_0000, PART),
        _ => return None,
    };
    let index = msr - first;
    Some((part + index as usize / 8, index % 8))
}

const _: () = {
    assert!(matches!(place(0), Some((0, 0))));
    assert!(matches!(place(0x1fff), Some((0x3ff, 7))));
    assert!(matches!(place(0xc000_0081), Some((0x410, 1))));
    assert!(matches!(place(0xc000_1fff), Some((0x7ff, 7))));
    assert!(place(0x2000).is_none() && place(0xc000_2000).is_none());
};
