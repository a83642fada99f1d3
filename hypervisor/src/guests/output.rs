//! What a guest prints, line by line, with its name in front.

use core::fmt::Write as _;

use heapless::String;

use crate::println;

/// Longest line printed in one piece.
const LINE_BYTES: usize = 120;
/// Most bytes that are printed for one guest: a guest that prints without end must not fill the log.
const MOST_BYTES: usize = 64 << 10;

/// A guest's console.
#[derive(Debug, Default)]
pub struct Output {
    line: String<LINE_BYTES>,
    printed: usize,
}

impl Output {
    /// Takes bytes from the guest. Complete lines are printed; whatever is not printable ASCII becomes an escape.
    pub fn write(&mut self, who: &dyn core::fmt::Display, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush(who);
                continue;
            }
            let escape = core::ascii::escape_default(byte);
            if self.line.len() + escape.len() > LINE_BYTES {
                self.flush(who);
            }
            // There is room: an escape has at most four characters.
            let _ = write!(self.line, "{escape}");
        }
    }

    /// Prints what there is of the last line.
    pub fn finish(&mut self, who: &dyn core::fmt::Display) {
        if !self.line.is_empty() {
            self.flush(who);
        }
    }

    fn flush(&mut self, who: &dyn core::fmt::Display) {
        if self.printed <= MOST_BYTES {
            self.printed += self.line.len() + 1;
            println!("  {who} | {}", self.line);
            if self.printed > MOST_BYTES {
                println!(
                    "  {who} | (more than {} KiB of output: the rest is not shown)",
                    MOST_BYTES >> 10
                );
            }
        }
        self.line.clear();
    }
}
