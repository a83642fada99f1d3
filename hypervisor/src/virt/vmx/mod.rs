//! Intel's virtualization: VMX with extended page tables (Intel SDM vol. 3C, chapters 24 to 29; sections as numbered since 2023, when
//! chapter 25 became the one of the VMCS).
//!
//! [`Vmx`] is what all guests share, [`VmxCpu`] what one CPU has for running them, [`VmxVcpu`] a guest's CPU. An exit passes through
//! `instructions` (the switch itself), `vcpu` (the loop around it) and `exits` (what each exit means; `control_registers` for CR0, CR4
//! and CR8).
//!
//! - `vmcs`: the control structure. `setup`: what it says at first. `msr_bitmap`: which registers end guest mode.
//! - `exit_reason`, `qualification`: what an exit reports. `swapped`: what the VMCS does not swap.
//! - `found`: what CPUID and the capability MSRs offer.
//!
//! Rules kept here: a VMCS is current only during its guest's turn; guest RAM is write-back (the EPT leaves say so, CR0.CD is the host's); an
//! EPT pointer or VPID comes into use on a CPU only after a flush of what it tagged there before; after guest mode nothing but stack and
//! image is touched before `after_guest_mode`.
//!
//! What ends a slice. A physical interrupt ends guest mode and stays pending until the host lets it in. That alone is not relied on: Bochs
//! never takes that exit when host and guest both have interrupts masked (measured with 2.7), and guests do. So the preemption
//! timer, where there is one, counts the slice down as well, in guest mode only; whichever comes first ends the turn.

mod control_registers;
mod exit_reason;
mod exits;
mod found;
mod instructions;
mod msr_bitmap;
mod qualification;
mod setup;
mod swapped;
mod vcpu;
mod vmcs;

use super::vector_state::VectorUnit;
use super::{Backend, Capabilities, EnableError, Measurement, OutOfFrames, StartState, Unsupported};
use crate::cpu::registers::{rdmsr, read_cr0, read_cr4, write_cr0, write_cr4, wrmsr};
use crate::frames::Frames;
use memory::address::Hpa;
use memory::guest::SecondStageKind;
use msr_bitmap::MsrBitmap;
use vcpu_policy::asid::Asids;
use vcpu_policy::vmx::capabilities::{FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX};
use vcpu_policy::vmx::control_registers::CR4_VMXE;
use vmcs::Region;
use x86::msr::IA32_FEATURE_CONTROL;

pub use found::VmxFound;
pub use instructions::{abandon_entry, in_world_switch};
pub use vcpu::VmxVcpu;

/// What all guests share.
pub struct Vmx {
    found: VmxFound,
    msrs: MsrBitmap,
    vectors: VectorUnit,
}

/// What one CPU has for running guests. Kept for as long as the CPU runs guests: it is in VMX operation.
pub struct VmxCpu {
    index: u32,
    /// Where the CPU tags translations.
    tags: Option<Asids>,
    _region: Region,
}

impl Backend for Vmx {
    type Found = VmxFound;
    type Cpu = VmxCpu;
    type Vcpu = VmxVcpu;

    fn detect() -> Result<VmxFound, Unsupported> {
        VmxFound::detect()
    }

    fn capabilities(found: &VmxFound) -> Capabilities {
        found.report()
    }

    fn new(found: VmxFound) -> Result<Self, OutOfFrames> {
        Ok(Self {
            found,
            msrs: MsrBitmap::new()?,
            vectors: VectorUnit::detect(),
        })
    }

    fn second_stage(&self) -> SecondStageKind {
        self.found.second_stage()
    }

    fn large_guest_leaves(&self) -> bool {
        self.found.capabilities().ept_1g
    }

    fn fits(&self) -> bool {
        VmxFound::detect() == Ok(self.found) && VectorUnit::detect() == self.vectors
    }

    fn enable(&self, index: u32) -> Result<VmxCpu, EnableError> {
        let capabilities = self.found.capabilities();
        let region = Region::new(capabilities.revision)?;
        self.vectors.enable();
        // Each CPU has its own, and the firmware may have treated them differently.
        // SAFETY: CPUID shows VMX, so the register exists.
        let feature_control = unsafe { rdmsr(IA32_FEATURE_CONTROL) };
        if feature_control & FEATURE_CONTROL_LOCK == 0 {
            let value = feature_control | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
            // SAFETY: as above, and it is not locked. Nothing relies on SMX.
            unsafe { wrmsr(IA32_FEATURE_CONTROL, value) };
        } else if feature_control & FEATURE_CONTROL_VMX == 0 {
            return Err(EnableError::VmxDisabledByFirmware);
        }
        // SAFETY: `detect` found VMX and that these values are ones it permits; NE is set by the vector unit, PE and PG are. The region has
        // the identifier and goes into the result, which is kept.
        let on = unsafe {
            write_cr0(read_cr0() | capabilities.cr0_fixed0);
            write_cr4(read_cr4() | capabilities.cr4_fixed0 | CR4_VMXE);
            instructions::vmxon(region.hpa())
        };
        if !on {
            return Err(EnableError::VmxonRefused);
        }
        Ok(VmxCpu {
            index,
            tags: self.found.tags(index),
            _region: region,
        })
    }

    fn new_vcpu(
        &self,
        start: &StartState,
        measurement: &Measurement,
        second_stage: Hpa,
    ) -> Result<VmxVcpu, OutOfFrames> {
        VmxVcpu::new(self, start, measurement, second_stage)
    }
}

impl VmxCpu {
    /// Drops what this CPU's TLB has of the tables of one EPT pointer, or of all where `None` or where it can't tell them apart.
    fn flush_second_stage(&mut self, pointer: Option<u64>) {
        // SAFETY: a `VmxCpu` exists only in VMX operation, and `detect` found INVEPT.
        unsafe { instructions::invept(pointer) };
    }
}

/// One zeroed frame.
fn frame() -> Result<Frames, OutOfFrames> {
    Frames::zeroed(0).map_err(|_| OutOfFrames { order: 0 })
}
