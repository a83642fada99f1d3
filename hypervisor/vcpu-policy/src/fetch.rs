//! Reading the bytes of the instruction at a guest's RIP.

use crate::cr0;
use crate::instruction::{CodeSize, MAX_LENGTH};
use crate::paging_walk::{Depth, WalkError, translate};
use core::fmt;
use memory::address::{Gpa, Gva, PAGE_SIZE};

/// CR4.LA57: tables of five levels.
const CR4_LA57: u64 = 1 << 12;

/// The registers that say where a guest's next instruction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeState {
    /// RIP.
    pub rip: u64,
    /// Base of CS.
    pub cs_base: u64,
    /// CS.L: the segment is a 64-bit one, when long mode is active.
    pub cs_long: bool,
    /// CS.D: 32-bit operands and addresses, else 16.
    pub cs_default_32: bool,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

impl CodeState {
    /// The size of the code that the guest runs.
    pub const fn code_size(&self) -> CodeSize {
        if self.efer & cr0::EFER_LMA != 0 && self.cs_long {
            CodeSize::Bits64
        } else if self.cs_default_32 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// RIP after an instruction of `length` bytes; outside 64-bit code it is 32 bits wide (AMD APM vol. 1, 2.1.3).
    pub const fn next_rip(&self, length: u8) -> u64 {
        let next = self.rip.wrapping_add(length as u64);
        match self.code_size() {
            CodeSize::Bits64 => next,
            CodeSize::Bits32 | CodeSize::Bits16 => next & 0xffff_ffff,
        }
    }

    /// The linear address of the byte `offset` bytes after RIP.
    const fn linear(&self, offset: u64) -> Gva {
        match self.code_size() {
            CodeSize::Bits64 => Gva::new(self.rip.wrapping_add(offset)),
            CodeSize::Bits32 | CodeSize::Bits16 => {
                Gva::new(self.cs_base.wrapping_add(self.rip).wrapping_add(offset) & 0xffff_ffff)
            }
        }
    }

    fn translate(&self, gva: Gva, read: &mut dyn FnMut(Gpa) -> Option<u64>) -> Result<Gpa, FetchError> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(Gpa::new(gva.get()));
        }
        if self.efer & cr0::EFER_LMA == 0 {
            return Err(FetchError::LegacyPaging);
        }
        let depth = if self.cr4 & CR4_LA57 != 0 {
            Depth::Five
        } else {
            Depth::Four
        };
        translate(self.cr3, depth, gva, read).map_err(FetchError::Walk)
    }
}

/// Up to 15 bytes, the longest instruction there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstructionBytes {
    bytes: [u8; MAX_LENGTH],
    length: usize,
}

impl InstructionBytes {
    /// The bytes that could be read.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }

    /// The first bytes of `source`, as a CPU with decode assists hands them over.
    pub fn from_slice(source: &[u8]) -> Self {
        let mut bytes = [0; MAX_LENGTH];
        let length = source.len().min(MAX_LENGTH);
        for (to, from) in bytes.iter_mut().zip(source) {
            *to = *from;
        }
        Self { bytes, length }
    }
}

/// Reads the bytes at RIP, fewer than 15 where the next page cannot be read. `read` gives the eight bytes at an 8-aligned
/// guest-physical address, or `None` where the guest has no memory; it is called at most fourteen times.
///
/// # Errors
/// [`FetchError`] when not even the first byte can be read.
pub fn instruction_bytes(
    state: &CodeState,
    read: &mut dyn FnMut(Gpa) -> Option<u64>,
) -> Result<InstructionBytes, FetchError> {
    let mut fetched = InstructionBytes {
        bytes: [0; MAX_LENGTH],
        length: 0,
    };
    let mut page = None;
    let mut word: Option<(Gpa, [u8; 8])> = None;
    for slot in &mut fetched.bytes {
        let gva = state.linear(fetched.length as u64);
        let virtual_page = gva.align_down(PAGE_SIZE);
        let physical_page = match page {
            Some((known, physical)) if known == virtual_page => physical,
            _ => match state.translate(virtual_page, read) {
                Ok(physical) => {
                    page = Some((virtual_page, physical));
                    physical
                }
                Err(error) if fetched.length == 0 => return Err(error),
                Err(_) => break,
            },
        };
        let gpa = Gpa::new(physical_page.get() | (gva.get() & (PAGE_SIZE - 1)));
        let aligned = gpa.align_down(8);
        let bytes = match word {
            Some((known, bytes)) if known == aligned => bytes,
            _ => match read(aligned) {
                Some(value) => {
                    let bytes = value.to_le_bytes();
                    word = Some((aligned, bytes));
                    bytes
                }
                None if fetched.length == 0 => return Err(FetchError::Unreadable(gpa)),
                None => break,
            },
        };
        *slot = bytes[(gpa.get() & 7) as usize];
        fetched.length += 1;
    }
    Ok(fetched)
}

/// Why the instruction at RIP could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchError {
    /// The guest's tables do not lead to it.
    Walk(WalkError),
    /// It is outside the guest's memory.
    Unreadable(Gpa),
    /// The guest uses the 32-bit paging modes, whose tables we do not walk.
    LegacyPaging,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::Unreadable(gpa) => write!(f, "the instruction at {gpa} is outside the guest's memory"),
            Self::LegacyPaging => f.write_str(
                "the guest uses 32-bit paging, for which instructions are not decoded: use long mode",
            ),
        }
    }
}

impl core::error::Error for FetchError {}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT_64: CodeState = CodeState {
        rip: 0,
        cs_base: 0x1234_0000,
        cs_long: true,
        cs_default_32: false,
        cr0: cr0::PE | cr0::PG,
        cr3: 0x1000,
        cr4: cr0::CR4_PAE,
        efer: cr0::EFER_LME | cr0::EFER_LMA,
    };

    /// Two pages at 0x20_0000 and 0x40_0000 that follow each other in virtual memory, filled with their low address bytes; `second`
    /// says whether the second one is mapped.
    fn machine(second: bool) -> impl FnMut(Gpa) -> Option<u64> {
        move |gpa| {
            let address = gpa.get();
            match address {
                0x1000 => Some(0x2003),
                0x2000 => Some(0x3003),
                0x3000 => Some(0x4003),
                0x4000 => Some(0x20_0003),
                0x4008 => Some(if second { 0x40_0003 } else { 0 }),
                0x20_0000..0x20_1000 | 0x40_0000..0x40_1000 => {
                    let first = address as u8;
                    Some(u64::from_le_bytes(core::array::from_fn(|i| {
                        first.wrapping_add(i as u8)
                    })))
                }
                _ => None,
            }
        }
    }

    #[test]
    fn an_instruction_may_cross_pages() {
        let state = CodeState {
            rip: 0xffa,
            ..FLAT_64
        };
        let fetched = instruction_bytes(&state, &mut machine(true)).unwrap();
        assert_eq!(
            fetched.as_slice(),
            [0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, 0, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        let short = instruction_bytes(&state, &mut machine(false)).unwrap();
        assert_eq!(short.as_slice(), [0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]);
    }

    #[test]
    fn without_a_first_byte_there_is_an_error() {
        let state = CodeState {
            rip: 0x1000,
            ..FLAT_64
        };
        assert_eq!(
            instruction_bytes(&state, &mut machine(false)),
            Err(FetchError::Walk(WalkError::NotPresent(1)))
        );
        let unpaged = CodeState {
            cr0: cr0::PE,
            efer: 0,
            cs_long: false,
            ..FLAT_64
        };
        assert_eq!(
            instruction_bytes(&unpaged, &mut machine(true)),
            Err(FetchError::Unreadable(Gpa::new(0x1234_0000)))
        );
        let legacy = CodeState { efer: 0, ..FLAT_64 };
        assert_eq!(
            instruction_bytes(&legacy, &mut machine(true)),
            Err(FetchError::LegacyPaging)
        );
    }

    #[test]
    fn rip_wraps_at_the_width_of_the_code() {
        let wide = CodeState {
            rip: 0xffff_ffff,
            ..FLAT_64
        };
        assert_eq!(wide.next_rip(2), 0x1_0000_0001);
        let narrow = CodeState {
            cs_long: false,
            cs_default_32: true,
            ..wide
        };
        assert_eq!(narrow.next_rip(2), 1);
        assert_eq!(narrow.code_size(), CodeSize::Bits32);
    }

    #[test]
    fn the_last_bytes_of_the_address_space_do_not_overflow() {
        let state = CodeState {
            rip: u64::MAX - 3,
            ..FLAT_64
        };
        // The top of memory is not mapped here; what matters is that reading past it does not panic.
        assert!(instruction_bytes(&state, &mut machine(true)).is_err());
        let everywhere = instruction_bytes(&state, &mut |_| Some(0x0f63)).unwrap();
        assert!(!everywhere.as_slice().is_empty());
    }
}
