//! Text and names that travel in registers.

use core::fmt;

use super::{Arguments, HypercallError};

/// Most bytes that one PRINT carries: five registers.
pub const PRINT_MAX: usize = 40;

/// Up to [`PRINT_MAX`] bytes of text as the guest sent them: any bytes, whoever shows them decides how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    length: u8,
    bytes: [u8; PRINT_MAX],
}

impl Text {
    /// The longest start of `bytes` that fits, and the rest.
    pub fn split_from(bytes: &[u8]) -> (Self, &[u8]) {
        let length = bytes.len().min(PRINT_MAX);
        let (now, later) = bytes.split_at(length);
        let mut text = Self {
            length: length as u8,
            bytes: [0; PRINT_MAX],
        };
        for (to, from) in text.bytes.iter_mut().zip(now) {
            *to = *from;
        }
        (text, later)
    }

    /// The bytes, at most [`PRINT_MAX`].
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(usize::from(self.length).min(PRINT_MAX)).0
    }

    pub(super) fn from_arguments(arguments: &Arguments) -> Result<Self, HypercallError> {
        if arguments.rdi > PRINT_MAX as u64 {
            return Err(HypercallError::BadArgument);
        }
        let words = [
            arguments.rsi,
            arguments.rdx,
            arguments.r8,
            arguments.r9,
            arguments.r10,
        ];
        let mut text = Self {
            length: arguments.rdi as u8,
            bytes: [0; PRINT_MAX],
        };
        // What lies beyond the length is not text: it stays behind, so that equal texts are equal values.
        for (index, byte) in text.bytes.iter_mut().enumerate().take(arguments.rdi as usize) {
            *byte = (words[index / 8] >> (8 * (index % 8))) as u8;
        }
        Ok(text)
    }

    pub(super) fn to_arguments(self) -> Arguments {
        let mut words = [0_u64; PRINT_MAX / 8];
        for (word, chunk) in words.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        let [rsi, rdx, r8, r9, r10] = words;
        Arguments {
            rdi: u64::from(self.length),
            rsi,
            rdx,
            r8,
            r9,
            r10,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Name of a reported value: one to eight printable ASCII characters without spaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportName {
    bytes: [u8; 8],
    length: u8,
}

impl ReportName {
    /// A name from text; `None` when it is empty, longer than eight bytes or not printable ASCII.
    pub const fn new(name: &str) -> Option<Self> {
        let name = name.as_bytes();
        if name.is_empty() || name.len() > 8 {
            return None;
        }
        let mut bytes = [0; 8];
        let mut at = 0;
        while at < name.len() {
            if !name[at].is_ascii_graphic() {
                return None;
            }
            bytes[at] = name[at];
            at += 1;
        }
        Some(Self {
            bytes,
            length: name.len() as u8,
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.split_at(usize::from(self.length).min(8)).0;
        // Only ASCII gets in, so this never takes the default.
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(super) fn from_register(register: u64) -> Result<Self, HypercallError> {
        let bytes = register.to_le_bytes();
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(8);
        let (name, padding) = bytes.split_at(length);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(HypercallError::BadArgument);
        }
        core::str::from_utf8(name)
            .ok()
            .and_then(Self::new)
            .ok_or(HypercallError::BadArgument)
    }

    pub(super) fn to_register(self) -> u64 {
        u64::from_le_bytes(self.bytes)
    }
}

impl fmt::Debug for ReportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for ReportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
