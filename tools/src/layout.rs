//! Which byte of a RAM file is which physical address.

use std::fmt;

const GIB: u64 = 1 << 30;
/// With this much RAM or more, q35 puts only [`BELOW_4G`] below 4 GiB (seen with `info mtree -f` on QEMU 7.2 at 2815 and 2816 MiB).
const SPLIT_FROM: u64 = 0xb000_0000;
/// RAM below 4 GiB on a q35 that has RAM above.
const BELOW_4G: u64 = 2 * GIB;
/// Beyond about this size QEMU moves the upper part to 1 TiB on AMD CPUs (seen at 980 GiB, not at 960).
const MOST: u64 = 960 * GIB;
/// Device memory and firmware below 1 MiB; the file has bytes for it that no CPU sees as RAM.
const LEGACY_HOLE: std::ops::Range<u64> = 0xa_0000..0x10_0000;

/// The layout of a q35 machine's RAM: `below_4g` bytes from 0, the rest from 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    bytes: u64,
    below_4g: u64,
}

/// Why a layout is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The size is zero, or not in whole 4K pages.
    NotPages(u64),
    /// QEMU lays out this much RAM in another way.
    TooLarge(u64),
    /// More than 4 GiB, or than there is RAM, are given as lying below 4 GiB.
    Below4g(u64),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPages(bytes) => {
                write!(
                    f,
                    "a RAM file of {bytes} bytes is not in whole 4K pages: is it the memory of a machine?"
                )
            }
            Self::TooLarge(bytes) => write!(
                f,
                "{} GiB of RAM: above {} GiB the place of the upper part depends on the CPU model; use less",
                bytes / GIB,
                MOST / GIB
            ),
            Self::Below4g(bytes) => {
                write!(
                    f,
                    "{bytes:#x} bytes below 4 GiB do not fit this RAM file: see `info mtree -f` in QEMU's monitor"
                )
            }
        }
    }
}

impl std::error::Error for LayoutError {}

impl Layout {
    /// The layout that q35 gives to this much RAM.
    ///
    /// # Errors
    /// No whole pages, or more than 960 GiB.
    pub fn q35(bytes: u64) -> Result<Self, LayoutError> {
        let below_4g = if bytes >= SPLIT_FROM { BELOW_4G } else { bytes };
        Self::with_below_4g(bytes, below_4g)
    }

    /// A layout with another amount below 4 GiB (`max-ram-below-4g`).
    ///
    /// # Errors
    /// No whole pages, more than 960 GiB, or an amount that does not fit.
    pub fn with_below_4g(bytes: u64, below_4g: u64) -> Result<Self, LayoutError> {
        if bytes == 0 || !bytes.is_multiple_of(4096) {
            return Err(LayoutError::NotPages(bytes));
        }
        if bytes > MOST {
            return Err(LayoutError::TooLarge(bytes));
        }
        if below_4g > 4 * GIB || below_4g > bytes || !below_4g.is_multiple_of(4096) {
            return Err(LayoutError::Below4g(below_4g));
        }
        Ok(Self { bytes, below_4g })
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where in the file the byte at `pa` is, or `None` where a CPU sees no RAM.
    pub fn offset(&self, pa: u64) -> Option<u64> {
        if pa < self.below_4g {
            (!LEGACY_HOLE.contains(&pa)).then_some(pa)
        } else {
            let above = pa.checked_sub(4 * GIB)?;
            let offset = self.below_4g.checked_add(above)?;
            (offset < self.bytes).then_some(offset)
        }
    }

    /// The physical address of a byte of the file. In the hole below 1 MiB it is the address that the byte would have.
    pub fn address(&self, offset: u64) -> u64 {
        if offset < self.below_4g {
            offset
        } else {
            offset - self.below_4g + 4 * GIB
        }
    }

    /// Where in the file the physical address jumps.
    pub(crate) fn seam(&self) -> u64 {
        self.below_4g
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn q35_as_qemu_lays_it_out() {
        for (mib, end) in [
            (128, 128 * MIB),
            (2815, 0xaff0_0000),
            (2816, 0x1_3000_0000),
            (4096, 0x1_8000_0000),
        ] {
            let layout = Layout::q35(mib * MIB).unwrap();
            assert_eq!(layout.address(mib * MIB - 1), end - 1, "{mib}");
            assert_eq!(layout.offset(end - 1), Some(mib * MIB - 1));
            assert_eq!(layout.offset(end), None);
        }
        let layout = Layout::q35(64 * GIB).unwrap();
        assert_eq!(layout.offset(0x8000_0000), None);
        assert_eq!(layout.offset(4 * GIB), Some(0x8000_0000));
        assert_eq!(layout.address(0x8000_0000), 4 * GIB);
        assert_eq!(layout.offset(u64::MAX), None);
        assert_eq!(
            (
                layout.offset(0x9_fff8),
                layout.offset(0xa_0000),
                layout.offset(0x10_0000)
            ),
            (Some(0x9_fff8), None, Some(0x10_0000))
        );
    }

    #[test]
    fn sizes_that_are_not_known_are_refused() {
        assert_eq!(Layout::q35(0), Err(LayoutError::NotPages(0)));
        assert_eq!(Layout::q35(1000), Err(LayoutError::NotPages(1000)));
        assert!(Layout::q35(960 * GIB).is_ok());
        assert_eq!(Layout::q35(961 * GIB), Err(LayoutError::TooLarge(961 * GIB)));
        assert_eq!(
            Layout::with_below_4g(8 * GIB, 5 * GIB),
            Err(LayoutError::Below4g(5 * GIB))
        );
        assert_eq!(
            Layout::with_below_4g(GIB, 2 * GIB),
            Err(LayoutError::Below4g(2 * GIB))
        );
    }
}
