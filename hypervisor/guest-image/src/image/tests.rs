use elf::abi::PT_NOTE;
use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 16 << 20;

/// A program header as its fields in file order.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    physical: u64,
    in_file: u64,
    in_memory: u64,
}

const CODE: Header = Header {
    kind: PT_LOAD,
    flags: 5,
    offset: 0x200,
    physical: 0x10_0000,
    in_file: 0x80,
    in_memory: 0x80,
};
const DATA: Header = Header {
    kind: PT_LOAD,
    flags: 6,
    offset: 0x280,
    physical: 0x10_1000,
    in_file: 0x40,
    in_memory: 0x3001,
};

/// An ELF file of 1 KiB with these program headers, written from the field layout of the ELF-64 object file format 1.5.
fn elf(entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([2_u16, 62].map(u16::to_le_bytes).concat());
    out.extend(1_u32.to_le_bytes());
    out.extend([entry, 64, 0].map(u64::to_le_bytes).concat());
    out.extend(0_u32.to_le_bytes());
    out.extend(
        [64, 56, headers.len() as u16, 64, 0, 0]
            .map(u16::to_le_bytes)
            .concat(),
    );
    for header in headers {
        out.extend([header.kind, header.flags].map(u32::to_le_bytes).concat());
        let words = [
            header.offset,
            header.physical,
            header.physical,
            header.in_file,
            header.in_memory,
            0x1000,
        ];
        out.extend(words.map(u64::to_le_bytes).concat());
    }
    let mut at = out.len();
    while at < 0x400.max(out.len()) {
        out.push(at as u8);
        at += 1;
    }
    out
}

fn good() -> Vec<u8> {
    elf(0x10_0010, &[CODE, DATA])
}

fn refused(file: &[u8]) -> ImageError {
    Image::parse(file, MEMORY).unwrap_err()
}

fn with(headers: &[Header]) -> ImageError {
    refused(&elf(0x10_0010, headers))
}

fn patched(at: usize, bytes: &[u8]) -> ImageError {
    let mut file = good();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    refused(&file)
}

#[test]
fn segments_and_entry_come_out() {
    let file = good();
    let image = Image::parse(&file, MEMORY).unwrap();
    assert_eq!(image.entry(), Gpa::new(0x10_0010));
    assert_eq!(
        image.segments(),
        [
            Segment {
                start: Gpa::new(0x10_0000),
                contents: &file[0x200..0x280],
                bytes: 0x80,
                executable: true
            },
            Segment {
                start: Gpa::new(0x10_1000),
                contents: &file[0x280..0x2c0],
                bytes: 0x3001,
                executable: false
            },
        ]
    );
    assert_eq!(
        (image.start(), image.end()),
        (Gpa::new(0x10_0000), Gpa::new(0x10_5000))
    );
}

#[test]
fn headers_that_are_not_loaded_are_left_alone() {
    let note = Header {
        kind: PT_NOTE,
        physical: 0,
        offset: u64::MAX,
        ..CODE
    };
    let empty = Header {
        in_file: 0,
        in_memory: 0,
        physical: 0,
        ..CODE
    };
    let file = elf(0x10_0010, &[note, CODE, empty]);
    assert_eq!(Image::parse(&file, MEMORY).unwrap().segments().len(), 1);
}

#[test]
fn what_is_no_static_x86_program_is_named() {
    assert_eq!(refused(b"#!/bin/sh\nexit 0\n"), ImageError::NotElf);
    assert_eq!(refused(b""), ImageError::NotElf);
    assert_eq!(refused(b"\x7fELF"), ImageError::NotElf);
    assert!(matches!(refused(&good()[..20]), ImageError::Damaged { .. }));
    assert!(matches!(refused(&good()[..100]), ImageError::Damaged { .. }));
    assert_eq!(patched(4, &[1]), ImageError::Class);
    assert_eq!(patched(4, &[9]), ImageError::Class);
    assert_eq!(patched(5, &[2]), ImageError::ByteOrder);
    assert_eq!(patched(16, &[3]), ImageError::PositionIndependent);
    assert_eq!(patched(16, &[1]), ImageError::NotExecutable { found: 1 });
    assert_eq!(patched(18, &[183]), ImageError::Machine { found: 183 });
    assert!(matches!(patched(32, &[0xff; 8]), ImageError::Damaged { .. }));
    assert!(matches!(patched(40, &[0xff; 8]), ImageError::Damaged { .. }));
    assert!(matches!(patched(54, &[55]), ImageError::Damaged { .. }));
    assert!(matches!(patched(56, &[0xfe, 0xff]), ImageError::Damaged { .. }));
    assert_eq!(
        with(&[
            CODE,
            Header {
                kind: PT_INTERP,
                ..DATA
            }
        ]),
        ImageError::Dynamic
    );
    assert_eq!(with(&[]), ImageError::NoSegments);
    assert_eq!(
        with(&[Header {
            kind: PT_NOTE,
            ..CODE
        }]),
        ImageError::NoSegments
    );
}

#[test]
fn segments_out_of_place_are_named() {
    let number = 1;
    let with = |data| with(&[CODE, data]);
    assert_eq!(
        with(Header {
            in_memory: 0x3f,
            ..DATA
        }),
        ImageError::SizeInFile { number }
    );
    assert_eq!(
        with(Header { in_memory: 0, ..DATA }),
        ImageError::SizeInFile { number }
    );
    assert_eq!(
        with(Header {
            offset: 0x3c1,
            ..DATA
        }),
        ImageError::OutsideFile { number }
    );
    assert_eq!(
        with(Header {
            offset: u64::MAX,
            ..DATA
        }),
        ImageError::OutsideFile { number }
    );
    assert_eq!(
        with(Header {
            in_file: u64::MAX,
            in_memory: u64::MAX,
            ..DATA
        }),
        ImageError::OutsideFile { number }
    );
    let start = Gpa::new(0xf_ffff);
    assert_eq!(
        with(Header {
            physical: 0xf_ffff,
            ..DATA
        }),
        ImageError::InLaunchArea { number, start }
    );
    let start = Gpa::new(0);
    assert_eq!(
        with(Header { physical: 0, ..DATA }),
        ImageError::InLaunchArea { number, start }
    );
    assert_eq!(
        with(Header {
            physical: u64::MAX - 0x40,
            ..DATA
        }),
        ImageError::Overflow { number }
    );
    assert_eq!(
        with(Header {
            in_memory: u64::MAX,
            ..DATA
        }),
        ImageError::Overflow { number }
    );
    let memory_bytes = MEMORY;
    let outside = |end| ImageError::OutsideMemory {
        number,
        end: Gpa::new(end),
        memory_bytes,
    };
    let fits = MEMORY - DATA.in_memory;
    assert_eq!(
        with(Header {
            physical: fits + 1,
            ..DATA
        }),
        outside(MEMORY + 1)
    );
    assert_eq!(
        with(Header {
            physical: 1 << 40,
            ..DATA
        }),
        outside((1 << 40) + DATA.in_memory)
    );
    assert!(
        Image::parse(
            &elf(
                0x10_0010,
                &[
                    CODE,
                    Header {
                        physical: fits,
                        ..DATA
                    }
                ]
            ),
            MEMORY
        )
        .is_ok(),
        "the last byte of memory may be used"
    );
    assert_eq!(
        with(Header {
            physical: 0x10_007f,
            ..DATA
        }),
        ImageError::Overlap { number }
    );
    assert_eq!(with(CODE), ImageError::Overlap { number });
    assert!(
        Image::parse(
            &elf(
                0x10_0010,
                &[
                    CODE,
                    Header {
                        physical: 0x10_0080,
                        ..DATA
                    }
                ]
            ),
            MEMORY
        )
        .is_ok(),
        "neighbours do not overlap"
    );
}

#[test]
fn an_entry_outside_of_code_is_refused() {
    for entry in [0, 0xf_ffff, 0x10_0080, 0x10_1000, u64::MAX] {
        let entry_gpa = Gpa::new(entry);
        assert_eq!(
            refused(&elf(entry, &[CODE, DATA])),
            ImageError::Entry { entry: entry_gpa }
        );
    }
    let bss = Header {
        in_memory: 0x100,
        ..CODE
    };
    let entry = Gpa::new(0x10_0080);
    assert_eq!(
        refused(&elf(entry.get(), &[bss])),
        ImageError::Entry { entry },
        "zero-fill is no code"
    );
}

#[test]
fn the_number_of_segments_is_bounded() {
    let header = |n: usize| Header {
        physical: 0x10_0000 + 0x100 * n as u64,
        ..CODE
    };
    let most: Vec<Header> = (0..SEGMENTS_MAX).map(header).collect();
    let more: Vec<Header> = (0..=SEGMENTS_MAX).map(header).collect();
    assert_eq!(
        Image::parse(&elf(0x10_0010, &most), MEMORY)
            .unwrap()
            .segments()
            .len(),
        SEGMENTS_MAX
    );
    assert_eq!(with(&more), ImageError::TooManySegments);
}

/// What a loader relies on, whatever the file was.
fn sound(file: &[u8], memory_bytes: u64) -> Result<(), TestCaseError> {
    let image = match Image::parse(file, memory_bytes) {
        Ok(image) => image,
        Err(error) => {
            prop_assert!(!error.to_string().is_empty());
            return Ok(());
        }
    };
    let mut covered = Vec::new();
    for segment in image.segments() {
        let (start, end) = (segment.start.get(), segment.end().get());
        prop_assert!(start >= 1 << 20 && start < end && end <= memory_bytes);
        prop_assert!(segment.contents.len() as u64 <= segment.bytes && segment.bytes == end - start);
        prop_assert!(image.start().get() <= start && end <= image.end().get());
        covered.push((start, end));
    }
    covered.sort_unstable();
    prop_assert!(covered.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    prop_assert!(image.segments().iter().any(|s| s.executable
        && s.start <= image.entry()
        && image.entry().get() < s.start.get() + s.contents.len() as u64));
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(mut file in proptest::collection::vec(any::<u8>(), 0..1024), memory_bytes: u64) {
        sound(&file, memory_bytes)?;
        let head = good();
        let length = file.len().min(24);
        file[..length].copy_from_slice(&head[..length]);
        sound(&file, memory_bytes)?;
    }

    #[test]
    fn mutations_of_a_good_file_do_no_harm(
        changes in proptest::collection::vec((0_usize..0xb0, any::<u8>()), 0..6),
        length in 0_usize..0x500,
        memory_bytes in prop_oneof![Just(MEMORY), any::<u64>()],
    ) {
        let mut file = good();
        for (at, value) in changes {
            file[at] = value;
        }
        sound(&file, memory_bytes)?;
        file.truncate(length);
        sound(&file, memory_bytes)?;
    }

    /// Fields drawn near the limits, where mistakes of one byte show.
    #[test]
    fn hostile_headers_do_no_harm(fields in proptest::collection::vec((0_u32..8, edge(), edge(), edge(), edge()), 0..20), entry in edge()) {
        let headers: Vec<Header> = fields
            .into_iter()
            .map(|(flags, offset, physical, in_file, in_memory)| Header { kind: PT_LOAD, flags, offset, physical, in_file, in_memory })
            .collect();
        sound(&elf(entry, &headers), MEMORY)?;
    }
}

fn edge() -> impl Strategy<Value = u64> {
    let near = |base: u64| {
        (0_u64..3)
            .prop_map(move |delta| base.wrapping_sub(1).wrapping_add(delta))
            .boxed()
    };
    proptest::strategy::Union::new([0, 0x100, 0x400, 1 << 20, MEMORY, 1 << 32, 1 << 63].map(near))
}
