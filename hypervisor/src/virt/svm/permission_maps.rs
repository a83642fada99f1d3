//! The maps that say which ports and model-specific registers a guest may use without an exit (AMD APM vol. 2, 15.10.1 and 15.11).

use crate::frames::Frames;
use crate::virt::unsupported::OutOfFrames;
use memory::address::Hpa;
use vcpu_policy::msr::PASS_THROUGH;

/// log2 of the frames of the MSR map: 8 KiB (APM vol. 2, 15.11).
const MSR_ORDER: u8 = 1;
/// log2 of the frames of the port map: 12 KiB are used (APM vol. 2, 15.10.1), in four frames.
const PORT_ORDER: u8 = 2;

/// Both maps. Every guest has the same.
pub struct PermissionMaps {
    ports: Frames,
    msrs: Frames,
}

impl PermissionMaps {
    /// Maps that intercept every port, and every register but those that are swapped with the guest.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new() -> Result<Self, OutOfFrames> {
        let ports = all_ones(PORT_ORDER)?;
        let msrs = all_ones(MSR_ORDER)?;
        for msr in PASS_THROUGH {
            // A register outside the three ranges is always intercepted.
            if let Some((byte, shift)) = place(msr) {
                // SAFETY: `place` stays within the 8 KiB of the map (checked at compile time for the last register of each range),
                // and nobody else has the frames.
                unsafe { *msrs.as_ptr().add(byte) &= !(0b11 << shift) };
            }
        }
        Ok(Self { ports, msrs })
    }

    /// Where the port map is.
    pub fn ports(&self) -> Hpa {
        self.ports.hpa()
    }

    /// Where the MSR map is.
    pub fn msrs(&self) -> Hpa {
        self.msrs.hpa()
    }
}

fn all_ones(order: u8) -> Result<Frames, OutOfFrames> {
    let frames = Frames::zeroed(order).map_err(|_| OutOfFrames { order })?;
    // SAFETY: the frames are ours and have that many bytes.
    unsafe { frames.as_ptr().write_bytes(0xff, frames.bytes()) };
    Ok(frames)
}

/// Byte and shift of a register's two bits, read and write; `None` for a register that the map does not have (table 15-8 of APM vol. 2).
const fn place(msr: u32) -> Option<(usize, u32)> {
    let (first, start) = match msr {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (0xc000_0000, 0x800),
        0xc001_0000..=0xc001_1fff => (0xc001_0000, 0x1000),
        _ => return None,
    };
    let index = msr - first;
    Some((start + index as usize / 4, index % 4 * 2))
}

const _: () = {
    assert!(matches!(place(0), Some((0, 0))));
    assert!(matches!(place(0x1fff), Some((0x7ff, 6))));
    assert!(matches!(place(0xc000_0081), Some((0x820, 2))));
    assert!(matches!(place(0xc001_1fff), Some((0x17ff, 6))));
    assert!(place(0x2000).is_none() && place(0xc000_2000).is_none());
};
