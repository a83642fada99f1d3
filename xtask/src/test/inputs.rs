//! Bad input: archives and ELF files that must be refused.

/// The first half of a good archive: it ends inside a file.
pub fn cut(mut archive: Vec<u8>) -> Vec<u8> {
    archive.truncate(archive.len() / 1024 * 512 + 100);
    archive
}

/// An archive with one wrong byte in the name of its second file: the header's checksum no longer fits.
pub fn damaged(mut archive: Vec<u8>) -> Vec<u8> {
    // A header is a block of 512 bytes with the size in octal at 124, and the contents fill whole blocks (POSIX pax, ustar).
    let size = archive
        .get(124..135)
        .and_then(|digits| usize::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
    let second = 512 + size.unwrap_or_default().next_multiple_of(512);
    if let Some(byte) = archive.get_mut(second) {
        *byte ^= 0x20;
    }
    archive
}

/// Bytes without any order, as long as the archive.
pub fn garbage(archive: Vec<u8>) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        // xorshift64 (Marsaglia, Xorshift RNGs, 2003), shifts 13, 7, 17.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    noise.take(archive.len()).collect()
}

/// The archive as gzip would start it (RFC 1952, section 2.3), its contents stored.
pub fn gzip(archive: Vec<u8>) -> Vec<u8> {
    [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &archive].concat()
}

/// One program header of a made-up ELF file.
#[derive(Clone, Copy)]
struct Segment {
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// A segment that is fine: code at 1 MiB.
const CODE: Segment = Segment {
    flags: 5,
    offset: 0x1000,
    address: 0x10_0000,
    file_size: 16,
    memory_size: 0x1000,
};

/// A made-up 64-bit ELF file with these segments (ELF-64 object file format 1.5, figures 2 and 6).
fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 62); // EM_X86_64
    word(&mut file, 1);
    long(&mut file, entry);
    long(&mut file, 64); // program headers follow this header
    long(&mut file, 0);
    word(&mut file, 0);
    half(&mut file, 64);
    half(&mut file, 56);
    half(&mut file, u16::try_from(segments.len()).unwrap_or(u16::MAX));
    half(&mut file, 64);
    half(&mut file, 0);
    half(&mut file, 0);
    for segment in segments {
        word(&mut file, 1); // PT_LOAD
        word(&mut file, segment.flags);
        long(&mut file, segment.offset);
        long(&mut file, segment.address);
        long(&mut file, segment.address);
        long(&mut file, segment.file_size);
        long(&mut file, segment.memory_size);
        long(&mut file, 0x1000);
    }
    file.resize(0x1000, 0);
    file.extend([0xf4; 16]); // hlt
    file
}

/// A hostile ELF file: its name, and what the hypervisor must say when it refuses it.
pub struct Hostile {
    /// Name in the archive.
    pub name: &'static str,
    /// Part of the detail that must come.
    pub says: &'static str,
    make: fn() -> Vec<u8>,
}

/// Every hostile ELF file.
pub const HOSTILE: &[Hostile] = &[
    Hostile {
        name: "text",
        says: "not an ELF file",
        make: || b"#!/bin/sh\nexit 0\n".to_vec(),
    },
    Hostile {
        name: "cut",
        says: "damaged ELF file",
        make: || elf(CODE.address, &[CODE])[..40].to_vec(),
    },
    Hostile {
        name: "pie",
        says: "position-independent",
        make: || patched(16, 3),
    },
    Hostile {
        name: "bits32",
        says: "not 64-bit",
        make: || patched(4, 1),
    },
    Hostile {
        name: "arm",
        says: "not x86-64",
        make: || patched(18, 183),
    },
    Hostile {
        name: "empty",
        says: "nothing to load",
        make: || elf(CODE.address, &[]),
    },
    Hostile {
        name: "many",
        says: "more than",
        make: || elf(CODE.address, &many()),
    },
    Hostile {
        name: "headers",
        says: "damaged ELF file",
        make: || patched(57, 0xff),
    },
    Hostile {
        name: "low",
        says: "below 0x100000",
        make: || {
            elf(
                0x1000,
                &[Segment {
                    address: 0x1000,
                    ..CODE
                }],
            )
        },
    },
    Hostile {
        name: "big",
        says: "the guest's memory at",
        make: || {
            elf(
                CODE.address,
                &[Segment {
                    memory_size: 1 << 40,
                    ..CODE
                }],
            )
        },
    },
    Hostile {
        name: "wrap",
        says: "does not fit in 64 bits",
        make: || {
            elf(
                CODE.address,
                &[Segment {
                    memory_size: u64::MAX,
                    ..CODE
                }],
            )
        },
    },
    Hostile {
        name: "outside",
        says: "beyond the end of the file",
        make: || {
            elf(
                CODE.address,
                &[Segment {
                    offset: 1 << 40,
                    ..CODE
                }],
            )
        },
    },
    Hostile {
        name: "sizes",
        says: "more bytes in the file than in memory",
        make: || {
            elf(
                CODE.address,
                &[Segment {
                    file_size: 16,
                    memory_size: 8,
                    ..CODE
                }],
            )
        },
    },
    Hostile {
        name: "overlap",
        says: "overlaps",
        make: || elf(CODE.address, &[CODE, CODE]),
    },
    Hostile {
        name: "entry",
        says: "entry point",
        make: || elf(0x20_0000, &[CODE]),
    },
];

/// A good file with one byte changed.
fn patched(at: usize, value: u8) -> Vec<u8> {
    let mut file = elf(CODE.address, &[CODE]);
    if let Some(byte) = file.get_mut(at) {
        *byte = value;
    }
    file
}

/// More segments than anyone needs, none overlapping.
fn many() -> Vec<Segment> {
    (0..60)
        .map(|number| Segment {
            address: 0x10_0000 + number * 0x1000,
            ..CODE
        })
        .collect()
}

/// The files of [`HOSTILE`].
pub fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    HOSTILE.iter().map(|file| (file.name, (file.make)())).collect()
}

/// A `guest=` word for each of [`HOSTILE`].
pub fn hostile_line() -> String {
    HOSTILE
        .iter()
        .map(|file| format!("guest={},memory=4M,expect=refused ", file.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use object::Object;

    use super::*;

    #[test]
    fn the_base_of_the_hostile_files_is_a_good_one() {
        let file = elf(CODE.address, &[CODE]);
        let parsed = object::File::parse(file.as_slice()).unwrap();
        assert_eq!(parsed.entry(), CODE.address);
        assert_eq!(parsed.segments().count(), 1);
        assert_eq!(parsed.architecture(), object::Architecture::X86_64);
    }

    #[test]
    fn spoilt_archives_differ_from_good_ones() {
        let good = vec![b'0'; 4096];
        for spoil in [cut, damaged, garbage, gzip] {
            assert_ne!(spoil(good.clone()), good);
        }
        assert_eq!(cut(good).len(), 2148);
    }
}
