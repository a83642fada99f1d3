//! x87, XMM, YMM, ZMM, opmask and protection-key registers, and XCR0.
//!
//! The hypervisor is compiled without vector instructions, so a guest's registers may stay on the CPU while the host handles its
//! exits. They are saved, and the CPU put into the state after a reset, when the vCPU's turn ends.
//!
//! All components that a guest could ever have enabled are saved, not only those enabled in its XCR0 now: a guest that
//! clears a bit of XCR0 keeps what is in the registers (Intel SDM vol. 1, 13.3), and the protection keys work without XCR0.
//!
//! QEMU's emulation (7.2 and 10.0) does not intercept XSETBV: there the guest writes XCR0 itself. So XCR0 is read back, and
//! what is kept is everything that the CPU has, not only what guests are told of.

use super::unsupported::OutOfFrames;
use crate::cpu::registers::{read_cr0, read_cr4, write_cr0, write_cr4};
use crate::frames::Frames;
use core::arch::asm;
use memory::address::PAGE_SIZE;
use raw_cpuid::{CpuId, CpuIdReader, CpuIdReaderNative};
use vcpu_policy::{cpuid, xcr0};
use x86::controlregs::{Cr0, Cr4};

/// What VectorState needs to know of the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorUnit {
    /// The components that are kept: all that the CPU has; 0 when there is no XSAVE, then FXSAVE is used.
    mask: u64,
    /// The largest XCR0 that a guest is told of and allowed.
    allowed: u64,
    /// Bytes of a save area.
    bytes: u32,
}

/// Bytes of an FXSAVE area (AMD APM vol. 2, 11.4.4.3).
const FXSAVE_BYTES: u32 = 512;
/// MXCSR after a reset: all exceptions masked (AMD APM vol. 1, 4.2.2).
const MXCSR_RESET: u32 = 0x1f80;
/// The x87 control word after FNINIT (AMD APM vol. 1, 6.2.3).
const FCW_RESET: u16 = 0x37f;

/// The legacy part and the header of an XSAVE area (Intel SDM vol. 1, 13.4).
#[repr(C, align(64))]
struct Area {
    control_word: u16,
    _unused: [u8; 22],
    mxcsr: u32,
    _rest: [u8; 484],
    /// XSTATE_BV: components that are not in their initial state. With 0, XRSTOR reads nothing past the header.
    present: u64,
    _header: [u8; 56],
}

const _: () = assert!(size_of::<Area>() == 576);
const _: () =
    assert!(core::mem::offset_of!(Area, mxcsr) == 24 && core::mem::offset_of!(Area, present) == 512);

/// The state after a reset.
static INITIAL: Area = Area {
    control_word: FCW_RESET,
    _unused: [0; 22],
    mxcsr: MXCSR_RESET,
    _rest: [0; 484],
    present: 0,
    _header: [0; 56],
};

impl VectorUnit {
    /// Asks the CPU.
    pub fn detect() -> Self {
        let has_xsave = CpuId::new()
            .get_feature_info()
            .is_some_and(|features| features.has_xsave());
        let mask = if has_xsave {
            let leaf = CpuIdReaderNative.cpuid2(0xd, 0);
            u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
        } else {
            0
        };
        let bytes = if mask == 0 {
            FXSAVE_BYTES
        } else {
            cpuid::area_size(&CpuIdReaderNative, mask)
        };
        Self {
            mask,
            allowed: xcr0::allowed(mask),
            bytes,
        }
    }

    /// Switches the instructions on for this CPU and puts all registers into the state after a reset.
    pub fn enable(&self) {
        let mut cr4 = Cr4::CR4_ENABLE_SSE | Cr4::CR4_UNMASKED_SSE;
        if self.mask != 0 {
            cr4 |= Cr4::CR4_ENABLE_OS_XSAVE;
        }
        let off = Cr0::CR0_EMULATE_COPROCESSOR | Cr0::CR0_TASK_SWITCHED;
        let on = Cr0::CR0_MONITOR_COPROCESSOR | Cr0::CR0_NUMERIC_ERROR;
        // SAFETY: every CPU in long mode has SSE, and CPUID shows XSAVE where it is enabled. The host uses neither.
        unsafe {
            write_cr4(read_cr4() | cr4.bits() as u64);
            write_cr0((read_cr0() & !(off.bits() as u64)) | on.bits() as u64);
        }
        self.set_xcr0(self.mask);
        self.reset();
    }

    fn set_xcr0(&self, value: u64) {
        if self.mask == 0 {
            return;
        }
        // SAFETY: `enable` has set CR4.OSXSAVE, and callers pass the mask or a value that `xcr0::check` has taken.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack, preserves_flags));
        }
    }

    /// XCR0 as it is now; `None` without XSAVE.
    fn read_xcr0(&self) -> Option<u64> {
        (self.mask != 0).then(|| {
            let (low, high): (u32, u32);
            // SAFETY: `enable` has set CR4.OSXSAVE.
            unsafe {
                asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
            }
            u64::from(high) << 32 | u64::from(low)
        })
    }

    /// Puts all registers into the state after a reset. XCR0 is the mask.
    ///
    /// FNINIT first: an AMD CPU without RstrFpErrPtrs restores the x87 error pointers only when an exception is pending
    /// (AMD APM vol. 2, 11.4.4.3), so the last guest's would stay.
    fn reset(&self) {
        // SAFETY: FNINIT changes x87 registers, which the host does not use.
        unsafe { asm!("fninit", options(nomem, nostack, preserves_flags)) };
        // SAFETY: the area is 64-aligned, its header is valid, and without components no more than 576 bytes are read.
        unsafe { self.restore(&raw const INITIAL as *const u8) };
    }

    /// # Safety
    /// `area` must be a valid save area of this unit, 64-aligned.
    unsafe fn restore(&self, area: *const u8) {
        if self.mask == 0 {
            // SAFETY: the area is valid by contract; the host does not use the registers.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(readonly, nostack, preserves_flags)) };
        } else {
            // SAFETY: as above; XCR0 is the mask.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") self.mask as u32, in("edx") (self.mask >> 32) as u32,
                    options(readonly, nostack, preserves_flags));
            }
        }
    }

    /// # Safety
    /// `area` must have room for this unit's components, 64-aligned.
    unsafe fn save(&self, area: *mut u8) {
        if self.mask == 0 {
            // SAFETY: the area has room by contract.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: as above; XCR0 is the mask.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") self.mask as u32, in("edx") (self.mask >> 32) as u32,
                    options(nostack, preserves_flags));
            }
        }
    }
}

/// One vCPU's registers.
pub struct VectorState {
    unit: VectorUnit,
    area: Frames,
    xcr0: u64,
}

impl VectorState {
    /// The state after a reset.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn new(unit: VectorUnit) -> Result<Self, OutOfFrames> {
        let frames = u64::from(unit.bytes).div_ceil(PAGE_SIZE).next_power_of_two();
        let order = frames.trailing_zeros() as u8;
        let area = Frames::zeroed(order).map_err(|_| OutOfFrames { order })?;
        // SAFETY: the frames are ours, page-aligned, and larger than the legacy part.
        unsafe {
            let legacy = &mut *area.as_ptr().cast::<Area>();
            legacy.control_word = FCW_RESET;
            legacy.mxcsr = MXCSR_RESET;
        }
        Ok(Self {
            unit,
            area,
            xcr0: xcr0::X87,
        })
    }

    /// XCR0 of the guest, while its registers are on this CPU.
    pub fn loaded_xcr0(&mut self) -> u64 {
        self.xcr0 = self.unit.read_xcr0().unwrap_or(self.xcr0);
        self.xcr0
    }

    /// The largest XCR0 of the guest; 0 without XSAVE.
    pub const fn xcr0_allowed(&self) -> u64 {
        self.unit.allowed
    }

    /// Puts the registers and XCR0 on this CPU.
    pub fn load(&self) {
        // SAFETY: the area is page-aligned, has the unit's size and holds what `new` or `save_and_clear` put there.
        unsafe { self.unit.restore(self.area.as_ptr()) };
        self.unit.set_xcr0(self.xcr0);
    }

    /// Takes the registers from this CPU and leaves the state after a reset.
    pub fn save_and_clear(&mut self) {
        self.loaded_xcr0();
        self.unit.set_xcr0(self.unit.mask);
        // SAFETY: the area is page-aligned and has the unit's size.
        unsafe { self.unit.save(self.area.as_ptr()) };
        self.unit.reset();
    }

    /// Executes the guest's XSETBV while its registers are on this CPU.
    ///
    /// # Errors
    /// The rule that the value breaks; nothing changes then.
    pub fn set_xcr0(&mut self, value: u64) -> Result<(), xcr0::Xcr0Error> {
        xcr0::check(value, self.unit.allowed)?;
        self.xcr0 = value;
        self.unit.set_xcr0(value);
        Ok(())
    }
}
