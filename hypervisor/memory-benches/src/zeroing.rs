//! Ways to overwrite memory with zeros.

use core::arch::asm;

/// One of the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// `rep stosb`: the fastest on CPUs with ERMSB (Intel Optimization Reference Manual, 3.7.6).
    Bytes,
    /// `rep stosq`: what the hypervisor uses.
    Words,
    /// The C library's `memset`, which takes what it finds best on this CPU.
    Library,
}

impl Zeroing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Words, Self::Library];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "rep-stosb",
            Self::Words => "rep-stosq",
            Self::Library => "memset",
        }
    }

    /// Fills the bytes with zeros.
    pub fn fill(self, bytes: &mut [u8]) {
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        match self {
            Self::Library => bytes.fill(0),
            // SAFETY: the slice is writable and exclusively ours, and that many bytes long; the direction flag is clear, as the ABI wants.
            Self::Bytes => unsafe {
                asm!(
                    "rep stosb",
                    inout("rdi") start => _,
                    inout("rcx") length => _,
                    in("al") 0_u8,
                    options(nostack, preserves_flags)
                );
            },
            Self::Words => {
                let tail = length % 8;
                // SAFETY: as above; whole words, not more bytes than the slice has.
                unsafe {
                    asm!(
                        "rep stosq",
                        inout("rdi") start => _,
                        inout("rcx") length / 8 => _,
                        in("rax") 0_u64,
                        options(nostack, preserves_flags)
                    );
                }
                bytes[length - tail..].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_zeroes_every_byte_and_no_other() {
        for way in Zeroing::ALL {
            let mut bytes = vec![0xa5; 4103];
            way.fill(&mut bytes[1..4100]);
            assert!(bytes[1..4100].iter().all(|byte| *byte == 0), "{}", way.name());
            assert_eq!((bytes[0], bytes[4100]), (0xa5, 0xa5), "{}", way.name());
        }
    }
}
