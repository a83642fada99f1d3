//! What a guest prints, line by line, with its name in front.

use core::fmt::{self, Write as _};

use heapless::String;

/// Longest text of a line printed in one piece, without what stands before it: a choice. A longer line is printed in pieces.
pub const TEXT_BYTES: usize = 120;
/// Most bytes that are written for one guest, names and line feeds included: a choice. A guest that prints without end must not fill
/// the log. One more line says that it was reached.
pub const MOST_BYTES: usize = 64 << 10;

/// Printable ASCII passes as it is; any other byte becomes `\xNN`.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

/// A guest's console.
#[derive(Debug, Default)]
pub struct GuestText {
    text: String<TEXT_BYTES>,
    written: usize,
    full: bool,
}

impl GuestText {
    /// Takes bytes from the guest and hands each complete line, without its line feed, to `print`.
    pub fn write(&mut self, who: &dyn fmt::Display, bytes: &[u8], print: &mut dyn FnMut(fmt::Arguments<'_>)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.line(who, print);
                continue;
            }
            let needed = if is_plain(byte) { 1 } else { 4 };
            if self.text.len() + needed > TEXT_BYTES {
                self.line(who, print);
            }
            // There is room now.
            let _ = if is_plain(byte) {
                self.text.write_char(byte.into())
            } else {
                write!(self.text, "\\x{byte:02x}")
            };
        }
    }

    /// Prints what there is of the last line.
    pub fn finish(&mut self, who: &dyn fmt::Display, print: &mut dyn FnMut(fmt::Arguments<'_>)) {
        if !self.text.is_empty() {
            self.line(who, print);
        }
    }

    fn line(&mut self, who: &dyn fmt::Display, print: &mut dyn FnMut(fmt::Arguments<'_>)) {
        let line = format_args!("  {who} | {}", self.text);
        // With its line feed.
        let bytes = length(line) + 1;
        if !self.full && self.written + bytes <= MOST_BYTES {
            self.written += bytes;
            print(line);
        } else if !self.full {
            self.full = true;
            print(format_args!(
                "  {who} | (more than {} KiB of output: the rest is not shown)",
                MOST_BYTES >> 10
            ));
        }
        self.text.clear();
    }
}

/// Bytes of a text.
fn length(text: fmt::Arguments<'_>) -> usize {
    struct Count(usize);
    impl fmt::Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting never fails; a name that does is as long as what it wrote.
    let _ = count.write_fmt(text);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn printed(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut guest = GuestText::default();
        let mut print = |line: fmt::Arguments<'_>| lines.push(line.to_string());
        for piece in pieces {
            guest.write(&"it#1", piece, &mut print);
        }
        guest.finish(&"it#1", &mut print);
        lines
    }

    #[test]
    fn printable_ascii_passes_and_all_else_is_escaped() {
        let plain: Vec<u8> = (0x20..=0x7e).collect();
        let expected = std::format!("  it#1 | {}", String::from_utf8(plain.clone()).unwrap());
        assert_eq!(printed(&[&plain]), [expected]);
        let rest: Vec<u8> = (0..=255).filter(|byte| !(0x20..=0x7e).contains(byte)).collect();
        for byte in rest.into_iter().filter(|byte| *byte != b'\n') {
            assert_eq!(printed(&[&[byte]]), [std::format!("  it#1 | \\x{byte:02x}")]);
        }
    }

    #[test]
    fn lines_are_joined_from_pieces_and_cut_between_characters() {
        assert_eq!(
            printed(&[b"one", b" line\n\nand", b" a rest"]),
            ["  it#1 | one line", "  it#1 | ", "  it#1 | and a rest"]
        );
        let long = [&[b'x'; TEXT_BYTES - 3][..], &[0xff, b'y']].concat();
        let lines = printed(&[&long]);
        assert_eq!(lines[0], std::format!("  it#1 | {}", "x".repeat(TEXT_BYTES - 3)));
        assert_eq!(lines[1..], ["  it#1 | \\xffy"]);
    }

    #[test]
    fn the_limit_counts_all_that_is_written() {
        // Short lines are mostly name, escapes four times what the guest sent.
        for piece in [&b"\n"[..], b"\xff\n", b"a longer line\n"] {
            // No line has less than eight.
            let pieces = std::vec![piece; MOST_BYTES / 8];
            let lines = printed(&pieces);
            let (notice, lines) = lines.split_last().unwrap();
            assert!(notice.ends_with("(more than 64 KiB of output: the rest is not shown)"));
            let written: usize = lines.iter().map(|line| line.len() + 1).sum();
            let one = lines[0].len() + 1;
            assert!(written <= MOST_BYTES && written + one > MOST_BYTES, "{written}");
        }
        // To the last byte, without the notice.
        let exactly = MOST_BYTES / 64;
        let line = [&[b'x'; 64 - 10][..], b"\n"].concat();
        let lines = printed(&std::vec![&line[..]; exactly]);
        assert_eq!((lines.len(), lines[0].len()), (exactly, 63));
    }
}
