//! Decoding the few instructions at which a guest exits, for CPUs that do not report their length.
//!
//! The exit says which instruction it was; the bytes only have to agree. A guest can change them between the exit and our look, so
//! they are hostile: what does not match is an error, never a guess. Encodings: AMD APM vol. 3, 1.2 (prefixes) and the page of each
//! instruction.

use core::fmt;

/// Bytes in the longest instruction (AMD APM vol. 3, 1.1).
pub const MAX_LENGTH: usize = 15;

/// The size of code: what byte 40H to 4FH means depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// 64-bit code.
    Bits64,
}

/// The instructions that an exit can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// CPUID, 0F A2.
    Cpuid,
    /// HLT, F4.
    Hlt,
    /// VMMCALL, 0F 01 D9 (AMD).
    Vmmcall,
    /// VMCALL, 0F 01 C1 (Intel).
    Vmcall,
    /// RDMSR, 0F 32.
    Rdmsr,
    /// WRMSR, 0F 30.
    Wrmsr,
    /// XSETBV, 0F 01 D1.
    Xsetbv,
    /// INVD, 0F 08, or WBINVD, 0F 09, which with prefix F3 is WBNOINVD. One case: QEMU's emulation gives the exit code of WBINVD for
    /// both (measured with 7.2).
    InvalidateCaches,
    /// A write to CR0: MOV, 0F 22 /0, or LMSW, 0F 01 /6.
    WriteCr0,
    /// A write to CR4: MOV, 0F 22 /4.
    WriteCr4,
    /// A write to a debug register: MOV, 0F 23 /r.
    WriteDebug,
}

/// A general register by its number: RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, RSI 6, RDI 7, then R8 to R15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register(u8);

impl Register {
    /// The register whose number is in the low four bits.
    pub const fn from_low_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// The number, 0 to 15.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What an instruction takes, as far as the exit needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// Nothing beyond the fixed registers.
    None,
    /// MOV to the control register that the exit names, from this register.
    MoveToControl(Register),
    /// LMSW from the low 16 bits of this register.
    LoadMachineStatus(Register),
    /// MOV to the debug register with this number, 0 to 15.
    MoveToDebug {
        /// The debug register.
        number: u8,
        /// Where the value comes from.
        source: Register,
    },
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Length in bytes with prefixes, 1 to 15.
    pub length: u8,
    /// Its source.
    pub operand: Operand,
}

/// The bytes of an instruction, taken one by one.
struct Bytes<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Result<u8, DecodeError> {
        if self.taken == MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.taken).ok_or(DecodeError::Truncated)?;
        self.taken += 1;
        Ok(byte)
    }
}

/// Decodes the instruction at the start of `bytes`, which must be the expected one.
///
/// # Errors
/// [`DecodeError`] when the bytes are another instruction, are cut off, or carry a LOCK prefix.
pub fn decode(bytes: &[u8], code: CodeSize, expected: Expected) -> Result<Instruction, DecodeError> {
    let mut input = Bytes { bytes, taken: 0 };
    let mut rex = 0;
    let opcode = loop {
        let byte = input.next()?;
        match byte {
            // Segment overrides, operand and address size, REP and REPNE. None of them changes these instructions. A REX prefix
            // before one of them is ignored.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf2 | 0xf3 => rex = 0,
            // LOCK turns a move to CR0 into one to CR8 (AMD's AltMovCr8) and is invalid before all others.
            0xf0 => return Err(DecodeError::LockPrefix),
            0x40..=0x4f if code == CodeSize::Bits64 => rex = byte,
            _ => break byte,
        }
    };
    let operand = match (expected, opcode) {
        (Expected::Hlt, 0xf4) => Operand::None,
        (Expected::Hlt, _) | (_, 0x00..=0x0e | 0x10..) => {
            return Err(DecodeError::OtherInstruction(expected));
        }
        (_, 0x0f) => two_byte(&mut input, rex, expected)?,
    };
    Ok(Instruction {
        length: input.taken as u8,
        operand,
    })
}

/// The part after 0F.
fn two_byte(input: &mut Bytes<'_>, rex: u8, expected: Expected) -> Result<Operand, DecodeError> {
    let second = input.next()?;
    let other = Err(DecodeError::OtherInstruction(expected));
    let fixed = |opcode: u8| {
        if second == opcode {
            Ok(Operand::None)
        } else {
            other
        }
    };
    let group7 = |input: &mut Bytes<'_>, modrm: u8| {
        if second == 0x01 && input.next()? == modrm {
            Ok(Operand::None)
        } else {
            other
        }
    };
    match expected {
        Expected::Cpuid => fixed(0xa2),
        Expected::Rdmsr => fixed(0x32),
        Expected::Wrmsr => fixed(0x30),
        Expected::InvalidateCaches if matches!(second, 0x08 | 0x09) => Ok(Operand::None),
        Expected::InvalidateCaches => other,
        Expected::Vmmcall => group7(input, 0xd9),
        Expected::Vmcall => group7(input, 0xc1),
        Expected::Xsetbv => group7(input, 0xd1),
        Expected::WriteCr0 => write_cr0(input, rex, second),
        Expected::WriteCr4 if second == 0x22 => match registers(input.next()?, rex) {
            (4, source) => Ok(Operand::MoveToControl(source)),
            _ => other,
        },
        Expected::WriteCr4 => other,
        Expected::WriteDebug if second == 0x23 => {
            // As for control registers, the mode bits are ignored.
            let (number, source) = registers(input.next()?, rex);
            Ok(Operand::MoveToDebug { number, source })
        }
        Expected::WriteDebug => other,
        Expected::Hlt => other,
    }
}

/// The two registers of a move to a control or debug register: REX.R extends the first, REX.B the source.
const fn registers(modrm: u8, rex: u8) -> (u8, Register) {
    let number = (modrm >> 3 & 7) | (rex & 4) << 1;
    let source = Register::from_low_bits((modrm & 7) | (rex & 1) << 3);
    (number, source)
}

/// MOV to CR0 ignores the mode bits of ModRM: its operand is always a register. LMSW may also load from memory, which would need
/// the guest's segments and data pages: refused.
fn write_cr0(input: &mut Bytes<'_>, rex: u8, second: u8) -> Result<Operand, DecodeError> {
    let modrm = input.next()?;
    let (number, source) = registers(modrm, rex);
    match (second, number) {
        (0x22, 0) => Ok(Operand::MoveToControl(source)),
        // REX.R has no meaning for an opcode in the register field.
        (0x01, 6 | 14) if modrm >> 6 == 3 => Ok(Operand::LoadMachineStatus(source)),
        (0x01, 6 | 14) => Err(DecodeError::MemoryOperand),
        _ => Err(DecodeError::OtherInstruction(Expected::WriteCr0)),
    }
}

/// Why bytes were not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The bytes end before the instruction does.
    Truncated,
    /// More than 15 bytes of prefixes and opcode.
    TooLong,
    /// A LOCK prefix, which none of these instructions takes.
    LockPrefix,
    /// The bytes are not the instruction that the exit names.
    OtherInstruction(Expected),
    /// LMSW with a memory operand.
    MemoryOperand,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the instruction at RIP goes on into memory that cannot be read"),
            Self::TooLong => f.write_str("the instruction at RIP is longer than 15 bytes"),
            Self::LockPrefix => f.write_str("the instruction at RIP has a LOCK prefix"),
            Self::OtherInstruction(expected) => {
                write!(
                    f,
                    "the bytes at RIP are not the {expected:?} that the exit names: was the code changed?"
                )
            }
            Self::MemoryOperand => f.write_str("LMSW from memory is not supported: load from a register"),
        }
    }
}

impl core::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each instruction with its encoding.
    const PLAIN: [(Expected, &[u8]); 9] = [
        (Expected::Cpuid, &[0x0f, 0xa2]),
        (Expected::Hlt, &[0xf4]),
        (Expected::Vmmcall, &[0x0f, 0x01, 0xd9]),
        (Expected::Vmcall, &[0x0f, 0x01, 0xc1]),
        (Expected::Rdmsr, &[0x0f, 0x32]),
        (Expected::Wrmsr, &[0x0f, 0x30]),
        (Expected::Xsetbv, &[0x0f, 0x01, 0xd1]),
        (Expected::InvalidateCaches, &[0x0f, 0x08]),
        (Expected::InvalidateCaches, &[0x0f, 0x09]),
    ];

    fn any_expected() -> impl Strategy<Value = Expected> {
        prop_oneof![
            proptest::sample::select(PLAIN.map(|(expected, _)| expected).to_vec()),
            Just(Expected::WriteCr0),
            Just(Expected::WriteCr4),
            Just(Expected::WriteDebug)
        ]
    }

    fn any_code() -> impl Strategy<Value = CodeSize> {
        proptest::sample::select(vec![CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64])
    }

    #[test]
    fn each_instruction_is_itself_and_no_other() {
        for (expected, bytes) in PLAIN {
            for (other, _) in PLAIN {
                let result = decode(bytes, CodeSize::Bits64, other);
                if expected == other {
                    assert_eq!(
                        result,
                        Ok(Instruction {
                            length: bytes.len() as u8,
                            operand: Operand::None
                        })
                    );
                } else {
                    assert!(result.is_err(), "{bytes:02x?} taken for {other:?}");
                }
            }
        }
    }

    #[test]
    fn moves_to_cr0_name_their_source() {
        let source =
            |bytes: &[u8], code| decode(bytes, code, Expected::WriteCr0).map(|i| (i.length, i.operand));
        assert_eq!(
            source(&[0x0f, 0x22, 0xc3], CodeSize::Bits64),
            Ok((3, Operand::MoveToControl(Register(3))))
        );
        assert_eq!(
            source(&[0x41, 0x0f, 0x22, 0xc7], CodeSize::Bits64),
            Ok((4, Operand::MoveToControl(Register(15))))
        );
        // The mode bits do not matter.
        assert_eq!(
            source(&[0x0f, 0x22, 0x03], CodeSize::Bits64),
            Ok((3, Operand::MoveToControl(Register(3))))
        );
        assert_eq!(
            source(&[0x0f, 0x01, 0xf2], CodeSize::Bits32),
            Ok((3, Operand::LoadMachineStatus(Register(2))))
        );
        assert_eq!(
            source(&[0x0f, 0x01, 0x32], CodeSize::Bits32),
            Err(DecodeError::MemoryOperand)
        );
        // REX.R makes it CR8; other control registers; a REX that a later prefix cancels.
        assert!(source(&[0x44, 0x0f, 0x22, 0xc3], CodeSize::Bits64).is_err());
        assert!(source(&[0x0f, 0x22, 0xdb], CodeSize::Bits64).is_err());
        assert_eq!(
            source(&[0x41, 0x66, 0x0f, 0x22, 0xc7], CodeSize::Bits64),
            Ok((5, Operand::MoveToControl(Register(7))))
        );
        // 41 is an INC outside 64-bit code.
        assert!(source(&[0x41, 0x0f, 0x22, 0xc7], CodeSize::Bits32).is_err());
        assert_eq!(
            source(&[0xf0, 0x0f, 0x22, 0xc0], CodeSize::Bits32),
            Err(DecodeError::LockPrefix)
        );
    }

    #[test]
    fn moves_to_cr4_name_their_source() {
        let source =
            |bytes: &[u8]| decode(bytes, CodeSize::Bits64, Expected::WriteCr4).map(|i| (i.length, i.operand));
        assert_eq!(
            source(&[0x41, 0x0f, 0x22, 0xe7]),
            Ok((4, Operand::MoveToControl(Register(15))))
        );
        // CR0; CR12; MOV from CR4; LMSW.
        for other in [
            &[0x0f, 0x22, 0xc0][..],
            &[0x44, 0x0f, 0x22, 0xe0],
            &[0x0f, 0x20, 0xe0],
            &[0x0f, 0x01, 0xf0],
        ] {
            assert!(source(other).is_err(), "{other:02x?}");
        }
    }

    #[test]
    fn moves_to_debug_registers_name_both() {
        let decoded = |bytes: &[u8]| {
            decode(bytes, CodeSize::Bits64, Expected::WriteDebug).map(|i| (i.length, i.operand))
        };
        assert_eq!(
            decoded(&[0x0f, 0x23, 0xf8]),
            Ok((
                3,
                Operand::MoveToDebug {
                    number: 7,
                    source: Register(0)
                }
            ))
        );
        assert_eq!(
            decoded(&[0x45, 0x0f, 0x23, 0xc9]),
            Ok((
                4,
                Operand::MoveToDebug {
                    number: 9,
                    source: Register(9)
                }
            ))
        );
        assert!(decoded(&[0x0f, 0x21, 0xf8]).is_err());
        assert_eq!(decoded(&[0x0f, 0x23]), Err(DecodeError::Truncated));
    }

    proptest! {
        /// Legacy prefixes lengthen an instruction and change nothing, up to the limit of 15 bytes.
        #[test]
        fn prefixes_are_skipped(
            which in 0..PLAIN.len(),
            prefixes in proptest::collection::vec(
                proptest::sample::select(vec![0x26u8, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3]), 0..20),
            rex in proptest::option::of(0x40u8..=0x4f),
            tail: [u8; 4],
        ) {
            let (expected, opcode) = PLAIN[which];
            let mut bytes = prefixes.clone();
            bytes.extend(rex);
            bytes.extend(opcode);
            let length = bytes.len();
            bytes.extend(tail);
            let result = decode(&bytes, CodeSize::Bits64, expected);
            if length <= MAX_LENGTH {
                prop_assert_eq!(result, Ok(Instruction { length: length as u8, operand: Operand::None }));
            } else {
                prop_assert_eq!(result, Err(DecodeError::TooLong));
            }
        }

        /// Arbitrary bytes: no panic, and a length that lies within what was given.
        #[test]
        fn hostile_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..20), code in any_code(), expected in any_expected()) {
            if let Ok(instruction) = decode(&bytes, code, expected) {
                prop_assert!(instruction.length >= 1);
                prop_assert!(usize::from(instruction.length) <= bytes.len().min(MAX_LENGTH));
            }
        }

        /// Bytes cut off anywhere inside the instruction are reported as such.
        #[test]
        fn truncation_is_named(which in 0..PLAIN.len(), keep in 0usize..3) {
            let (expected, opcode) = PLAIN[which];
            prop_assume!(keep < opcode.len());
            prop_assert_eq!(decode(&opcode[..keep], CodeSize::Bits64, expected), Err(DecodeError::Truncated));
        }
    }
}
