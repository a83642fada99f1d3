//! Values: numbers, sizes, times. Each parser takes exactly what the matching writer writes, and more.

use core::fmt;
use core::time::Duration;

/// A number in decimal, or in hexadecimal after `0x`. `None` when it is anything else or does not fit in 64 bits.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => digits_of(digits, 16),
        None => digits_of(text, 10),
    }
}

/// Digits only: the standard parser would also take a sign.
fn digits_of(digits: &str, radix: u32) -> Option<u64> {
    if !digits.chars().all(|character| character.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Reads a size in bytes: a decimal number and one of `K`, `M`, `G`, `T` (powers of 1024; either case), or no letter for bytes.
/// `None` when it is anything else or does not fit in 64 bits.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        b'T' | b't' => (text.get(..text.len() - 1)?, 40),
        _ => (text, 0),
    };
    digits_of(digits, 10)?.checked_mul(1 << shift)
}

/// A time: a decimal number and `ms` or `s`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if let Some(digits) = text.strip_suffix("ms") {
        return digits_of(digits, 10).map(Duration::from_millis);
    }
    text.strip_suffix('s')
        .and_then(|digits| digits_of(digits, 10))
        .map(Duration::from_secs)
}

/// Writes a size with the largest letter that divides it.
pub(crate) fn write_size(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    for (shift, letter) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return write!(f, "{}{letter}", bytes >> shift);
        }
    }
    write!(f, "{bytes}")
}

/// Writes a time in whole seconds where it is, else in milliseconds (what is below a millisecond is dropped).
pub(crate) fn write_duration(f: &mut fmt::Formatter<'_>, time: Duration) -> fmt::Result {
    if time.subsec_nanos() == 0 {
        write!(f, "{}s", time.as_secs())
    } else {
        write!(f, "{}ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        assert_eq!(number("18446744073709551616"), None);
        assert_eq!(number("0xfF"), Some(255));
        for bad in [
            "",
            "0x",
            "+1",
            "-1",
            "1 ",
            "1_000",
            "0x1_0",
            "0b1",
            "ten",
            "0x10000000000000000",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096K"), Some(4 << 20));
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("1g"), Some(1 << 30));
        assert_eq!(size("1T"), Some(1 << 40));
        assert_eq!(size("12"), Some(12));
        assert_eq!(size("16777215T"), Some(16_777_215 << 40));
        for bad in [
            "",
            "M",
            "-1M",
            "1.5G",
            "64MB",
            "64 M",
            "16777216T",
            "99999999999999999999K",
            "0x10M",
            "1é",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        for bad in [
            "",
            "s",
            "ms",
            "30",
            "1.5s",
            "-1s",
            "30m",
            "1us",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
