//! Writing events as lines: all of a line or nothing of it.

use core::fmt::{self, Write};

use serde::Serialize;

use crate::event::{Event, PhaseHeader};
use crate::gigablock::Gigablock;

/// A buffer of this many bytes holds every line whose texts are together below 3 KiB after escaping: a command line of 1400 bytes
/// with the rest of its `start` line, for one.
pub const LINE_BYTES: usize = 4096;

/// Room for one element of a `phase` line; a test writes the longest.
const GIGABLOCK_BYTES: usize = 192;

/// Why a line was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The line is longer than the buffer. Nothing of it was written.
    TooLong {
        /// The value of its field `event`.
        event: &'static str,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// The output refused; what it has of the line is unknown.
    Output,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { event, buffer } => {
                write!(
                    f,
                    "a JSON line `{event}` is longer than its buffer of {buffer} bytes: shorten its texts"
                )
            }
            Self::Output => write!(f, "the output of the JSON lines took no more"),
        }
    }
}

impl core::error::Error for WriteError {}

impl From<fmt::Error> for WriteError {
    fn from(_: fmt::Error) -> Self {
        Self::Output
    }
}

fn to_text<'b>(
    event: &'static str,
    value: &impl Serialize,
    buffer: &'b mut [u8],
) -> Result<&'b str, WriteError> {
    let error = WriteError::TooLong {
        event,
        buffer: buffer.len(),
    };
    let length = serde_json_core::to_slice(value, buffer).map_err(|_| error)?;
    buffer
        .get(..length)
        .and_then(|line| core::str::from_utf8(line).ok())
        .ok_or(error)
}

/// Writes one event and a line feed. The line is made in `buffer` first ([`LINE_BYTES`] will do).
///
/// # Errors
/// The line is longer than the buffer (then nothing was written), or the output refused.
pub fn write_event(event: &Event<&str>, buffer: &mut [u8], out: &mut impl Write) -> Result<(), WriteError> {
    let line = to_text(event.name(), event, buffer)?;
    out.write_str(line)?;
    out.write_char('\n')?;
    Ok(())
}

/// Writes a `phase` line piece by piece, so that no buffer limits the number of gigablocks.
///
/// # Errors
/// As for [`write_event`]; only the text of the header could be too long, and it is made before anything is written.
pub fn write_phase(
    header: &PhaseHeader<&str>,
    gigablocks: impl Iterator<Item = Gigablock>,
    buffer: &mut [u8],
    out: &mut impl Write,
) -> Result<(), WriteError> {
    #[derive(Serialize)]
    #[serde(tag = "event", rename = "phase")]
    struct Tagged<'h> {
        phase: &'h str,
        leaves: crate::Leaves,
        hidden_mib: u64,
    }
    let header = Tagged {
        phase: header.phase,
        leaves: header.leaves,
        hidden_mib: header.hidden_mib,
    };
    let line = to_text("phase", &header, buffer)?;
    // The object goes on where the header's text ends it.
    out.write_str(line.strip_suffix('}').unwrap_or(line))?;
    out.write_str(",\"gigablocks\":[")?;
    let mut piece = [0; GIGABLOCK_BYTES];
    for (index, gigablock) in gigablocks.enumerate() {
        if index > 0 {
            out.write_char(',')?;
        }
        out.write_str(to_text("phase", &gigablock, &mut piece)?)?;
    }
    out.write_str("]}\n")?;
    Ok(())
}
