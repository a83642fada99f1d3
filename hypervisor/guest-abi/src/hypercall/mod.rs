//! The calls a guest may make: `vmmcall` on AMD, `vmcall` on Intel.
//!
//! The number is in RAX, arguments are in RDI, RSI, RDX, R8, R9, R10; the result comes back in RAX: 0, or a negative
//! [`HypercallError::code`]. All other registers keep their values. No address that a call passes leads the hypervisor to a guest's private
//! memory: text to print travels in registers, or lies in pages that the guest shares.

mod error;
mod text;

pub use error::HypercallError;
pub use text::{PRINT_MAX, ReportName, Text};

use crate::launch_area::PAGE;

/// Most bytes that one PRINT_SHARED prints: a choice, a quarter of a page.
pub const PRINT_SHARED_MAX: usize = 1024;

/// Hypercall numbers, in RAX.
pub mod number {
    /// Print text. RDI = length (0 to 40), RSI, RDX, R8, R9, R10 = the bytes, little-endian.
    pub const PRINT: u64 = 1;
    /// End this guest. RDI = exit code. Does not return.
    pub const EXIT: u64 = 2;
    /// Report a value. RDI = name, eight bytes of printable ASCII padded with zeros at the end, RSI = value.
    pub const REPORT: u64 = 3;
    /// Let others run.
    pub const YIELD: u64 = 4;
    /// Start a further vCPU. RDI = its first instruction, RSI = its RSP, RDX = its RDI. Else it starts as the first vCPU did.
    pub const START_VCPU: u64 = 5;
    /// Share pages with the host. RDI = first address, without the shared bit, RSI = bytes. They read as zero, at the shared alias.
    pub const SHARE: u64 = 6;
    /// Make shared pages private again. Arguments as for [`SHARE`]. They are pending until they are accepted.
    pub const UNSHARE: u64 = 7;
    /// Accept pending pages. Arguments as for [`SHARE`]. They read as zero.
    pub const ACCEPT: u64 = 8;
    /// Print text that lies in shared pages. RDI = its address, without the shared bit, RSI = length (0 to 1024).
    pub const PRINT_SHARED: u64 = 9;
    /// Share pages in place. Arguments as for [`SHARE`]. What they hold is to be found at the shared alias.
    pub const SHARE_IN_PLACE: u64 = 10;
    /// Make pages private again that are shared in place. Arguments as for [`SHARE`]. They are accepted, and keep what they hold.
    pub const UNSHARE_IN_PLACE: u64 = 11;
    /// Give private pages back to the host. Arguments as for [`SHARE`]. They are absent.
    pub const GIVE_BACK: u64 = 12;
    /// Take absent pages again. Arguments as for [`SHARE`]. They are pending until they are accepted.
    pub const TAKE_AGAIN: u64 = 13;
    /// The highest there is.
    pub const LAST: u64 = TAKE_AGAIN;
}

/// The argument registers of a hypercall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arguments {
    /// First argument.
    pub rdi: u64,
    /// Second argument.
    pub rsi: u64,
    /// Third argument.
    pub rdx: u64,
    /// Fourth argument.
    pub r8: u64,
    /// Fifth argument.
    pub r9: u64,
    /// Sixth argument.
    pub r10: u64,
}

/// A well-formed hypercall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hypercall {
    /// Print this text.
    Print(Text),
    /// End this guest with this code; 0 is success.
    Exit(u64),
    /// Report a value under a name.
    Report {
        /// What the value is.
        name: ReportName,
        /// The value; its unit is the guest's to say.
        value: u64,
    },
    /// Let others run.
    Yield,
    /// Start a further vCPU of this guest.
    StartVcpu(VcpuStart),
    /// Share these pages with the host.
    Share(Pages),
    /// Make these pages private again.
    Unshare(Pages),
    /// Accept these pages.
    Accept(Pages),
    /// Give these pages back to the host.
    GiveBack(Pages),
    /// Take these pages again.
    TakeAgain(Pages),
    /// Print what these bytes of shared pages hold.
    PrintShared {
        /// The first one's address, without the shared bit.
        start: u64,
        /// How many, at most [`PRINT_SHARED_MAX`].
        bytes: usize,
    },
    /// Share these pages in place.
    ShareInPlace(Pages),
    /// Make these pages private again, which are shared in place.
    UnshareInPlace(Pages),
}

/// Whole pages of guest-physical addresses, at least one; whether there is memory is not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    start: u64,
    bytes: u64,
}

impl Pages {
    /// Pages from an address on.
    ///
    /// # Errors
    /// [`HypercallError::BadRange`] when that is none, not whole pages, or goes past the end of 64 bits.
    pub const fn new(start: u64, bytes: u64) -> Result<Self, HypercallError> {
        let whole = start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && bytes != 0;
        if whole && start.checked_add(bytes).is_some() {
            Ok(Self { start, bytes })
        } else {
            Err(HypercallError::BadRange)
        }
    }

    /// The first address.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn from_arguments(arguments: &Arguments) -> Result<Self, HypercallError> {
        Self::new(arguments.rdi, arguments.rsi)
    }

    fn to_arguments(self) -> Arguments {
        Arguments {
            rdi: self.start,
            rsi: self.bytes,
            ..Arguments::default()
        }
    }
}

/// Where a further vCPU starts. Its other registers are as those of the first vCPU were at the launch, CR3 and GDTR included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuStart {
    /// Its first instruction, a canonical address for 48 bits.
    pub rip: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Its RDI.
    pub argument: u64,
}

impl Hypercall {
    /// Reads a hypercall from the registers of the guest that made it.
    ///
    /// # Errors
    /// [`HypercallError`], whose [`code`](HypercallError::code) belongs into the guest's RAX.
    pub fn decode(rax: u64, arguments: &Arguments) -> Result<Self, HypercallError> {
        match rax {
            number::PRINT => Text::from_arguments(arguments).map(Self::Print),
            number::EXIT => Ok(Self::Exit(arguments.rdi)),
            number::REPORT => {
                let name = ReportName::from_register(arguments.rdi)?;
                Ok(Self::Report {
                    name,
                    value: arguments.rsi,
                })
            }
            number::YIELD => Ok(Self::Yield),
            number::START_VCPU => {
                // An entry with any other RIP would be refused by the CPU.
                if (arguments.rdi as i64) << 16 >> 16 != arguments.rdi as i64 {
                    return Err(HypercallError::BadArgument);
                }
                Ok(Self::StartVcpu(VcpuStart {
                    rip: arguments.rdi,
                    rsp: arguments.rsi,
                    argument: arguments.rdx,
                }))
            }
            number::SHARE => Pages::from_arguments(arguments).map(Self::Share),
            number::UNSHARE => Pages::from_arguments(arguments).map(Self::Unshare),
            number::ACCEPT => Pages::from_arguments(arguments).map(Self::Accept),
            number::GIVE_BACK => Pages::from_arguments(arguments).map(Self::GiveBack),
            number::TAKE_AGAIN => Pages::from_arguments(arguments).map(Self::TakeAgain),
            number::PRINT_SHARED => match usize::try_from(arguments.rsi) {
                Ok(bytes) if bytes <= PRINT_SHARED_MAX => Ok(Self::PrintShared {
                    start: arguments.rdi,
                    bytes,
                }),
                _ => Err(HypercallError::BadArgument),
            },
            number::SHARE_IN_PLACE => Pages::from_arguments(arguments).map(Self::ShareInPlace),
            number::UNSHARE_IN_PLACE => Pages::from_arguments(arguments).map(Self::UnshareInPlace),
            _ => Err(HypercallError::UnknownNumber),
        }
    }

    /// The registers that make this call: RAX and the arguments. The inverse of [`decode`](Self::decode).
    pub fn encode(&self) -> (u64, Arguments) {
        match self {
            Self::Print(text) => (number::PRINT, text.to_arguments()),
            Self::Exit(code) => (
                number::EXIT,
                Arguments {
                    rdi: *code,
                    ..Arguments::default()
                },
            ),
            Self::Report { name, value } => (
                number::REPORT,
                Arguments {
                    rdi: name.to_register(),
                    rsi: *value,
                    ..Arguments::default()
                },
            ),
            Self::Yield => (number::YIELD, Arguments::default()),
            Self::StartVcpu(start) => (
                number::START_VCPU,
                Arguments {
                    rdi: start.rip,
                    rsi: start.rsp,
                    rdx: start.argument,
                    ..Arguments::default()
                },
            ),
            Self::Share(pages) => (number::SHARE, pages.to_arguments()),
            Self::Unshare(pages) => (number::UNSHARE, pages.to_arguments()),
            Self::Accept(pages) => (number::ACCEPT, pages.to_arguments()),
            Self::ShareInPlace(pages) => (number::SHARE_IN_PLACE, pages.to_arguments()),
            Self::UnshareInPlace(pages) => (number::UNSHARE_IN_PLACE, pages.to_arguments()),
            Self::GiveBack(pages) => (number::GIVE_BACK, pages.to_arguments()),
            Self::TakeAgain(pages) => (number::TAKE_AGAIN, pages.to_arguments()),
            Self::PrintShared { start, bytes } => (
                number::PRINT_SHARED,
                Arguments {
                    rdi: *start,
                    rsi: *bytes as u64,
                    ..Arguments::default()
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn print_carries_bytes_in_register_order() {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let arguments = Arguments {
            rdi: 34,
            rsi: word(b"Hello, t"),
            rdx: word(b"his is a"),
            r8: word(b" guest o"),
            r9: word(b"f Lacuna"),
            r10: word(b"!\nignore"),
        };
        let Ok(Hypercall::Print(text)) = Hypercall::decode(number::PRINT, &arguments) else {
            panic!("not a print");
        };
        assert_eq!(text.as_bytes(), b"Hello, this is a guest of Lacuna!\n");
    }

    #[test]
    fn bad_calls_have_their_codes() {
        let decode = |rax, rdi| {
            Hypercall::decode(
                rax,
                &Arguments {
                    rdi,
                    ..Arguments::default()
                },
            )
        };
        assert_eq!(decode(0, 0), Err(HypercallError::UnknownNumber));
        assert_eq!(decode(number::LAST + 1, 0), Err(HypercallError::UnknownNumber));
        assert_eq!(
            decode(number::START_VCPU, 1 << 47),
            Err(HypercallError::BadArgument)
        );
        assert_eq!(decode(u64::MAX, 0), Err(HypercallError::UnknownNumber));
        assert_eq!(decode(1 << 32 | 1, 0), Err(HypercallError::UnknownNumber));
        assert_eq!(decode(number::PRINT, 41), Err(HypercallError::BadArgument));
        assert_eq!(decode(number::PRINT, 256), Err(HypercallError::BadArgument));
        assert_eq!(decode(number::PRINT, u64::MAX), Err(HypercallError::BadArgument));
        assert_eq!(HypercallError::UnknownNumber.code(), -1);
        assert_eq!(HypercallError::BadArgument.code(), -2);
        assert_eq!(HypercallError::from_code(-2), Some(HypercallError::BadArgument));
        assert_eq!(HypercallError::from_code(0), None);
    }

    #[test]
    fn pages_are_whole_at_least_one_and_do_not_wrap() {
        let last = u64::MAX - PAGE + 1;
        for (start, bytes) in [(0, PAGE), (PAGE, 5 * PAGE), (last - PAGE, PAGE), (0, last)] {
            let pages = Pages::new(start, bytes).unwrap();
            assert_eq!((pages.start(), pages.bytes()), (start, bytes));
        }
        for (start, bytes) in [
            (0, 0),
            (1, PAGE),
            (0, PAGE - 1),
            (PAGE, PAGE + 1),
            (last, PAGE),
            (last, u64::MAX),
            (last, last),
            (PAGE, last),
        ] {
            assert_eq!(
                Pages::new(start, bytes),
                Err(HypercallError::BadRange),
                "{start:#x} {bytes:#x}"
            );
        }
    }

    #[test]
    fn every_error_has_a_code_of_its_own() {
        let codes: Vec<i64> = (-20..0)
            .filter(|code| HypercallError::from_code(*code).is_some())
            .collect();
        assert_eq!(codes, (-9..0).collect::<Vec<i64>>());
        for code in codes {
            assert_eq!(HypercallError::from_code(code).unwrap().code(), code);
        }
    }

    #[test]
    fn names_are_printable_ascii_with_zeros_at_the_end_only() {
        let decode = |bytes: &[u8; 8]| {
            let arguments = Arguments {
                rdi: u64::from_le_bytes(*bytes),
                rsi: 5,
                ..Arguments::default()
            };
            Hypercall::decode(number::REPORT, &arguments)
        };
        for name in ["a", "bytes", "eight888"] {
            let mut bytes = [0; 8];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            match decode(&bytes) {
                Ok(Hypercall::Report {
                    name: found,
                    value: 5,
                }) => assert_eq!(found.as_str(), name),
                other => panic!("{other:?}"),
            }
        }
        for bad in [
            b"\0\0\0\0\0\0\0\0",
            b"a\0b\0\0\0\0\0",
            b"a b\0\0\0\0\0",
            b"a\n\0\0\0\0\0\0",
            b"\xffabc\0\0\0\0",
        ] {
            assert_eq!(decode(bad), Err(HypercallError::BadArgument));
        }
        assert_eq!(ReportName::new("ninebytes"), None);
        assert_eq!(ReportName::new(""), None);
    }

    proptest! {
        #[test]
        fn any_registers_decode_or_are_refused_and_encode_again(rax in 0_u64..=number::LAST + 1, words in any::<[u64; 6]>(), short in 0_u64..64) {
            let [rdi, rsi, rdx, r8, r9, r10] = words;
            for rdi in [rdi, short] {
                if let Ok(call) = Hypercall::decode(rax, &Arguments { rdi, rsi, rdx, r8, r9, r10 }) {
                    let (rax, arguments) = call.encode();
                    prop_assert_eq!(Hypercall::decode(rax, &arguments), Ok(call));
                }
            }
        }

        #[test]
        fn text_splits_without_loss(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
            while !rest.is_empty() {
                let (text, later) = Text::split_from(rest);
                let (rax, arguments) = Hypercall::Print(text).encode();
                prop_assert_eq!(Hypercall::decode(rax, &arguments), Ok(Hypercall::Print(text)));
                seen.extend_from_slice(text.as_bytes());
                rest = later;
            }
            prop_assert_eq!(seen, bytes);
        }
    }
}
