//! A virtual-machine control structure: the region in memory, and the fields of the one that is current (Intel SDM vol. 3C, chapter 25).

use super::instructions::{vmclear, vmptrld, vmread, vmwrite};
use crate::frames::Frames;
use crate::virt::OutOfFrames;
use core::marker::PhantomData;
use memory::address::Hpa;

/// A region for VMXON or for a VMCS: one frame that starts with the CPU's revision identifier.
pub struct Region(Frames);

impl Region {
    /// A region that holds nothing but the identifier.
    pub fn new(revision: u32) -> Result<Self, OutOfFrames> {
        let frames = super::frame()?;
        // SAFETY: the frame is ours alone and page-aligned.
        unsafe { frames.as_ptr().cast::<u32>().write(revision) };
        Ok(Self(frames))
    }

    /// Where it is.
    pub fn hpa(&self) -> Hpa {
        self.0.hpa()
    }
}

/// The VMCS that is current on this CPU. When dropped, it is current nowhere and written back to its region: between two turns a VMCS is
/// plain memory, which may be freed or go to another CPU.
pub struct Current {
    region: Hpa,
    /// A CPU's own: not to be sent to another.
    _here: PhantomData<*mut ()>,
}

impl Current {
    /// Makes the VMCS of a region current; it has to be launched.
    ///
    /// # Panics
    /// When the CPU does not take it, which `detect` and `enable` have ruled out.
    ///
    /// # Safety
    /// The CPU must be in VMX operation; the region must outlive the result, and nobody else may touch it meanwhile. No other VMCS may
    /// be made current meanwhile.
    pub unsafe fn load(region: &Region) -> Self {
        let hpa = region.hpa();
        // SAFETY: the caller vouches for VMX operation; the region has the identifier, by its constructor.
        let taken = unsafe { vmclear(hpa) && vmptrld(hpa) };
        assert!(taken, "broken invariant: the CPU refuses the VMCS at {hpa}");
        Self {
            region: hpa,
            _here: PhantomData,
        }
    }

    /// Reads a field.
    ///
    /// # Panics
    /// When there is no such field: only fields are read that exist with the features in use.
    #[track_caller]
    pub fn read(&self, field: u32) -> u64 {
        // SAFETY: `self` exists only while a VMCS is current.
        match unsafe { vmread(field) } {
            Some(value) => value,
            None => panic!("broken invariant: the VMCS has no field {field:#x}"),
        }
    }

    /// Reads a field of 32 bits.
    #[track_caller]
    pub fn read_32(&self, field: u32) -> u32 {
        self.read(field) as u32
    }

    /// Writes a field.
    ///
    /// # Panics
    /// When there is no such field: only fields are written that exist with the features in use.
    ///
    /// # Safety
    /// The next entry must be one that keeps the host whole. That holds for any value of guest state and of the event to inject; controls and
    /// host state must be as `setup` makes them.
    #[track_caller]
    pub unsafe fn write(&mut self, field: u32, value: u64) {
        // SAFETY: `self` exists only while a VMCS is current; the caller vouches for the value.
        let written = unsafe { vmwrite(field, value) };
        assert!(
            written,
            "broken invariant: the VMCS has no field {field:#x} to write"
        );
    }

    /// Writes a field of the guest's state or of the event to inject.
    #[track_caller]
    pub fn set_guest(&mut self, field: u32, value: u64) {
        debug_assert!(is_guest_field(field));
        // SAFETY: bad guest state is refused by the entry's checks (SDM vol. 3C, 27.3), and any good one only reaches what the controls
        // allow.
        unsafe { self.write(field, value) };
    }
}

/// Whether a field belongs to the guest's state (bits 11 to 10 of the encoding are 2; SDM vol. 3D, appendix B) or says what to inject.
const fn is_guest_field(field: u32) -> bool {
    use x86::vmx::vmcs::control::{
        CR0_READ_SHADOW, CR4_READ_SHADOW, VMENTRY_EXCEPTION_ERR_CODE, VMENTRY_INSTRUCTION_LEN,
        VMENTRY_INTERRUPTION_INFO_FIELD,
    };
    field >> 10 & 3 == 2
        || matches!(
            field,
            CR0_READ_SHADOW
                | CR4_READ_SHADOW
                | VMENTRY_EXCEPTION_ERR_CODE
                | VMENTRY_INSTRUCTION_LEN
                | VMENTRY_INTERRUPTION_INFO_FIELD
        )
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: by the contract of `load`, the region is still a VMCS, current on this CPU.
        let cleared = unsafe { vmclear(self.region) };
        assert!(
            cleared,
            "broken invariant: the VMCS at {} can't be cleared",
            self.region
        );
    }
}
