//! The host-virtual address space, one constant for each area.
//!
//! | top-level slot | area | shared by all CPUs |
//! |---|---|---|
//! | 256 to 447 | direct map: `DIRECT_MAP_BASE + hpa`, 96 TiB | yes |
//! | 448 | windows | no: each CPU has its own |
//! | 449 | stacks and per-CPU data, with guard pages | yes |
//! | 450 | device registers | yes |
//! | 511 | the image, at `IMAGE_BASE + hpa` | yes |
//!
//! The lower half is not used, so a null pointer never translates.

use crate::address::{Hpa, Hva};

/// Start of the direct map (top-level slot 256).
pub const DIRECT_MAP_BASE: Hva = Hva::new(0xffff_8000_0000_0000);
/// Bytes of host-physical address space that the direct map can show: 192 top-level slots of 512 GiB.
pub const DIRECT_MAP_BYTES: u64 = 192 << 39;
/// Start of a CPU's windows (top-level slot 448).
pub const WINDOW_BASE: Hva = Hva::new(0xffff_e000_0000_0000);
/// Start of the windows for single pages: the 2 MiB after the window for a region.
pub const PAGE_WINDOW_BASE: Hva = Hva::new(WINDOW_BASE.get() + (2 << 20));
/// Start of the area of stacks and per-CPU data (top-level slot 449).
pub const STACK_BASE: Hva = Hva::new(0xffff_e080_0000_0000);
/// Start of the area of device registers (top-level slot 450).
pub const DEVICE_BASE: Hva = Hva::new(0xffff_e100_0000_0000);
/// Where the image is linked: its virtual addresses are `IMAGE_BASE + hpa` (top 2 GiB, as the `kernel` code model wants).
pub const IMAGE_BASE: Hva = Hva::new(0xffff_ffff_8000_0000);
/// Bytes that one top-level slot covers.
pub const SLOT_BYTES: u64 = 1 << 39;

/// The direct-map address of a host-physical address, or `None` when it lies beyond the direct map.
pub const fn direct(hpa: Hpa) -> Option<Hva> {
    if hpa.get() < DIRECT_MAP_BYTES {
        DIRECT_MAP_BASE.checked_add(hpa.get())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_map_ends_where_its_slots_end() {
        let last = Hpa::new(DIRECT_MAP_BYTES - 1);
        // Slot 448 is the windows'.
        assert_eq!(direct(last), Some(Hva::new(WINDOW_BASE.get() - 1)));
        assert_eq!(direct(Hpa::new(DIRECT_MAP_BYTES)), None);
        assert_eq!(direct(Hpa::new(0)), Some(DIRECT_MAP_BASE));
    }
}
