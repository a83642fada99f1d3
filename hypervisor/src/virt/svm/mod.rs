//! AMD's virtualization: SVM with nested page tables (AMD APM vol. 2, chapter 15).
//!
//! [`Svm`] is what all guests share, [`SvmCpu`] what one CPU has for running them, [`SvmVcpu`] a guest's CPU. An exit passes through
//! `instructions` (the switch itself), `vcpu` (the loop around it) and `exits` (what each exit means).
//!
//! - `vmcb`: the control block's layout. `exit_code`, `intercepts`, `permission_maps`: what ends guest mode.
//! - `found`: what CPUID offers. Where the CPU does not report an instruction's length, `exits` decodes it.
//!
//! Rules kept here: guest RAM is write-back (`PAT_WRITE_BACK`, CR0.CD intercepted); a VMCB is written only while its guest is not running;
//! after guest mode nothing but stack and image is touched before `after_guest_mode`.

mod exit_code;
mod exits;
mod found;
mod instructions;
mod intercepts;
mod permission_maps;
mod vcpu;
mod vmcb;

use super::vector_state::VectorUnit;
use super::{Backend, Capabilities, EnableError, Measurement, OutOfFrames, StartState, Unsupported};
use crate::frames::Frames;
use memory::address::Hpa;
use memory::guest::SecondStageKind;
use permission_maps::PermissionMaps;
use vcpu_policy::asid::Asids;

pub use found::SvmFound;
pub use vcpu::SvmVcpu;

/// What all guests share.
pub struct Svm {
    found: SvmFound,
    maps: PermissionMaps,
    vectors: VectorUnit,
}

/// What one CPU has for running guests. Kept for as long as the CPU runs guests.
pub struct SvmCpu {
    asids: Asids,
    /// Where VMRUN keeps the host's state.
    _host_save_area: Frames,
    /// Where VMSAVE keeps the rest of it.
    host_state: Frames,
}

impl Backend for Svm {
    type Found = SvmFound;
    type Cpu = SvmCpu;
    type Vcpu = SvmVcpu;

    fn detect() -> Result<SvmFound, Unsupported> {
        SvmFound::detect()
    }

    fn capabilities(found: &SvmFound) -> Capabilities {
        found.capabilities()
    }

    fn new(found: SvmFound) -> Result<Self, OutOfFrames> {
        Ok(Self {
            found,
            maps: PermissionMaps::new()?,
            vectors: VectorUnit::detect(),
        })
    }

    fn second_stage(&self) -> SecondStageKind {
        SecondStageKind::Nested
    }

    /// Nested tables know the page sizes of the host's (AMD APM vol. 2, 15.25.3).
    fn large_guest_leaves(&self) -> bool {
        self.found.gigabyte_pages()
    }

    fn fits(&self) -> bool {
        SvmFound::detect() == Ok(self.found) && VectorUnit::detect() == self.vectors
    }

    fn enable(&self, index: u32) -> Result<SvmCpu, EnableError> {
        let host_save_area = frame()?;
        let host_state = frame()?;
        self.vectors.enable();
        // SAFETY: `detect` found SVM, not disabled, and the frame goes into the result, which is kept.
        unsafe { instructions::enable(host_save_area.hpa()) };
        Ok(SvmCpu {
            asids: self.found.asids(index),
            _host_save_area: host_save_area,
            host_state,
        })
    }

    fn new_vcpu(
        &self,
        start: &StartState,
        measurement: &Measurement,
        second_stage: Hpa,
    ) -> Result<SvmVcpu, OutOfFrames> {
        SvmVcpu::new(self, start, measurement, second_stage)
    }
}

/// One zeroed frame.
fn frame() -> Result<Frames, OutOfFrames> {
    Frames::zeroed(0).map_err(|_| OutOfFrames { order: 0 })
}
