//! The virtual-machine control block: one 4 KiB frame, by which VMRUN takes its orders and #VMEXIT reports (AMD APM vol. 2, appendix B).
//!
//! `control` is the first KiB: intercepts, exit reason, event injection, nested paging. `save` is the guest's registers from offset 400H
//! on. The fields that have bits inside are types of `bits`, which can only hold what the manual permits.

pub mod bits;
mod control;
mod save;

pub use control::ControlArea;
pub use save::{SaveArea, Segment};

use core::mem::offset_of;

/// The whole block.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Orders and reports.
    pub control: ControlArea,
    /// The guest's registers.
    pub save: SaveArea,
    _rest: [u8; 0x1000 - 0x400 - size_of::<SaveArea>()],
}

const _: () = {
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(offset_of!(Vmcb, save) == 0x400);
};
