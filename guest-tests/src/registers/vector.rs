//! The x87 unit, MXCSR and the vector registers, as wide as the guest may use.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use super::Source;
use super::system;

/// XCR0: x87, SSE, AVX, the three parts of AVX-512 (Intel SDM vol. 1, 13.3).
const X87_SSE: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0b111 << 5;

/// Words of the FXSAVE image that are kept by FXSAVE (512 bytes, of which the last 96 are free; Intel SDM vol. 1, 10.5.1).
const LEGACY_WORDS: usize = 52;
/// Word 0 without FOP, and words 1 and 2: the x87 error pointers, which AMD CPUs save only while an exception is pending (AMD APM vol. 2,
/// 11.4.4.3).
const WITHOUT_FOP: u64 = 0x0000_00ff_ffff_ffff;

/// FCW, MXCSR after a reset (Intel SDM vol. 1, 8.1.5 and 10.2.3).
const INITIAL_FCW: u64 = 0x037f;
const INITIAL_MXCSR: u64 = 0x1f80;

/// How wide the registers are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    /// 16 registers of 128 bits.
    Xmm,
    /// 16 registers of 256 bits.
    Ymm,
    /// 32 registers of 512 bits and 8 masks.
    Zmm,
}

/// The contents of all of them.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Vectors {
    /// As FXSAVE writes it.
    legacy: [u64; 64],
    /// Eight words for each of 32 registers; YMM uses the first four of the first 16.
    wide: [u64; 256],
    /// The low 16 bits of the mask registers, which every CPU with AVX-512 can move.
    masks: [u64; 8],
}

/// Makes the widest registers usable that CPUID offers, and says how wide they are.
pub fn enable_widest() -> Width {
    let Some(offered) = system::enable_xsave().then(|| __cpuid_count(0xd, 0)) else {
        return Width::Xmm;
    };
    let offered = u64::from(offered.eax) | u64::from(offered.edx) << 32;
    let (wanted, width) = if offered & (AVX | AVX512) == AVX | AVX512 {
        (X87_SSE | AVX | AVX512, Width::Zmm)
    } else if offered & AVX != 0 {
        (X87_SSE | AVX, Width::Ymm)
    } else {
        (X87_SSE, Width::Xmm)
    };
    system::set_xcr0(wanted);
    width
}

impl Vectors {
    /// All zero, which is not the initial state: that has control words.
    pub const fn zero() -> Self {
        Self {
            legacy: [0; 64],
            wide: [0; 256],
            masks: [0; 8],
        }
    }

    /// The initial state.
    pub const fn initial() -> Self {
        let mut initial = Self::zero();
        initial.legacy[0] = INITIAL_FCW;
        initial.legacy[3] = INITIAL_MXCSR;
        initial
    }

    /// Words of `source` in every register. Control words are different from the initial ones, with all exceptions masked.
    pub fn of(source: &Source<'_>, width: Width) -> Self {
        let mut vectors = Self::zero();
        // FCW: round down, 53 bits. FSW: top of stack 5. FTW: all registers in use.
        vectors.legacy[0] = 0x067f | 5 << 11 << 16 | 0xff << 32;
        // MXCSR: round to zero, flags of three exceptions.
        vectors.legacy[3] = 0x7f80 | 0x31;
        for register in 0..8 {
            vectors.legacy[4 + 2 * register] = source.word(register as u64);
            vectors.legacy[5 + 2 * register] = source.word(8 + register as u64) & 0xffff;
        }
        let words = match width {
            Width::Xmm => 0,
            Width::Ymm => 4,
            Width::Zmm => 8,
        };
        let registers = if width == Width::Zmm { 32 } else { 16 };
        for register in 0..registers {
            for word in 0..words {
                vectors.wide[8 * register + word] = source.word(32 + (8 * register + word) as u64);
            }
        }
        for register in 0..16 {
            for word in 0..2 {
                // The low part of the wide register is the same register.
                vectors.legacy[20 + 2 * register + word] = source.word(32 + (8 * register + word) as u64);
            }
        }
        if width == Width::Zmm {
            for (index, mask) in vectors.masks.iter_mut().enumerate() {
                *mask = source.word(300 + index as u64) & 0xffff;
            }
        }
        vectors
    }

    /// Loads the registers.
    pub fn load(&self, width: Width) {
        let (legacy, wide, masks) = (self.legacy.as_ptr(), self.wide.as_ptr(), self.masks.as_ptr());
        // SAFETY: reads 512 aligned bytes; compiled code uses none of the registers (soft-float target). All exceptions are masked and MXCSR has
        // no reserved bit, so it does not fault.
        unsafe { asm!("fxrstor64 [{}]", in(reg) legacy, options(readonly, nostack)) };
        match width {
            Width::Xmm => {}
            // SAFETY: AVX is on (`enable_widest`); reads within `wide`.
            Width::Ymm => unsafe {
                asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    "vmovups ymm\\i, [{0} + 64 * \\i]",
                    ".endr",
                    in(reg) wide,
                    options(readonly, nostack, preserves_flags),
                );
            },
            // SAFETY: AVX-512 is on (`enable_widest`); reads within `wide` and `masks`.
            Width::Zmm => unsafe {
                asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    "vmovups zmm\\i, [{0} + 64 * \\i]",
                    ".endr",
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7",
                    "kmovw k\\i, [{1} + 8 * \\i]",
                    ".endr",
                    in(reg) wide,
                    in(reg) masks,
                    options(readonly, nostack, preserves_flags),
                );
            },
        }
    }

    /// Reads the registers.
    pub fn store(width: Width) -> Self {
        let mut vectors = Self::zero();
        let (legacy, wide, masks) = (
            vectors.legacy.as_mut_ptr(),
            vectors.wide.as_mut_ptr(),
            vectors.masks.as_mut_ptr(),
        );
        // SAFETY: writes 512 aligned bytes of `vectors`.
        unsafe { asm!("fxsave64 [{}]", in(reg) legacy, options(nostack, preserves_flags)) };
        match width {
            Width::Xmm => {}
            // SAFETY: AVX is on (`enable_widest`); writes within `wide`.
            Width::Ymm => unsafe {
                asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    "vmovups [{0} + 64 * \\i], ymm\\i",
                    ".endr",
                    in(reg) wide,
                    options(nostack, preserves_flags),
                );
            },
            // SAFETY: AVX-512 is on (`enable_widest`); writes within `wide` and `masks`.
            Width::Zmm => unsafe {
                asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    "vmovups [{0} + 64 * \\i], zmm\\i",
                    ".endr",
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7",
                    "kmovw [{1} + 8 * \\i], k\\i",
                    ".endr",
                    in(reg) wide,
                    in(reg) masks,
                    options(nostack, preserves_flags),
                );
            },
        }
        // FXSAVE tells the CPU's MXCSR_MASK beside MXCSR: not a register.
        vectors.legacy[3] &= 0xffff_ffff;
        vectors
    }

    /// Which part of `self`, as read from the registers, is not that of `expected`, with what was found. The x87 error pointers are not compared.
    pub fn difference(&self, expected: &Self) -> Option<(&'static str, u64)> {
        let control = |vectors: &Self| (vectors.legacy[0] & WITHOUT_FOP, vectors.legacy[3]);
        if control(self) != control(expected) {
            return Some((
                "x87 control or mxcsr",
                self.legacy[0] ^ self.legacy[3].rotate_right(32),
            ));
        }
        let first = |found: &[u64], expected: &[u64]| {
            found
                .iter()
                .zip(expected)
                .find(|(found, expected)| found != expected)
                .map(|(found, _)| *found)
        };
        if let Some(found) = first(&self.legacy[4..20], &expected.legacy[4..20]) {
            return Some(("x87 register", found));
        }
        if let Some(found) = first(&self.legacy[20..LEGACY_WORDS], &expected.legacy[20..LEGACY_WORDS]) {
            return Some(("xmm register", found));
        }
        if let Some(found) = first(&self.wide, &expected.wide) {
            return Some(("ymm or zmm register", found));
        }
        first(&self.masks, &expected.masks).map(|found| ("mask register", found))
    }

    /// The x87 error pointers (FOP, FIP, FDP), which are zero in the initial state.
    pub const fn error_pointers(&self) -> [u64; 3] {
        [self.legacy[0] & !WITHOUT_FOP, self.legacy[1], self.legacy[2]]
    }
}
