//! Good information as GRUB builds it, and every way to spoil it.

use multiboot_info::{InformationError, MemoryMap, Module, read};
use proptest::prelude::*;

/// A tag's type and contents.
type Tag = (u32, Vec<u8>);

/// Information as bytes whose first lies on a multiple of 8.
struct Bytes(Vec<u64>);

impl Bytes {
    /// The total size, then the tags, each padded to 8 bytes.
    fn new(tags: &[Tag]) -> Self {
        let mut bytes = vec![0; 8];
        for (kind, contents) in tags {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((8 + contents.len() as u32).to_le_bytes());
            bytes.extend(contents);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let total = bytes.len() as u32;
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        Self::raw(&bytes)
    }

    fn raw(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Self(words.collect())
    }

    fn get(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Calls `read` on a copy that starts on a multiple of 8.
    fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: a u64 is eight initialised bytes.
        look(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 8) })
    }
}

const END: Tag = (0, Vec::new());

fn module(start: u32, end: u32) -> Tag {
    (
        3,
        [&start.to_le_bytes()[..], &end.to_le_bytes(), b"guests.tar\0"].concat(),
    )
}

fn map(stride: u32, entries: usize) -> Tag {
    let mut contents = [stride.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    for entry in 0..entries {
        let mut bytes = vec![0; stride.max(8) as usize];
        bytes[..8].copy_from_slice(&(entry as u64 * 0x1000).to_le_bytes());
        contents.extend(bytes);
    }
    (6, contents)
}

fn full() -> Bytes {
    Bytes::new(&[
        (21, vec![0, 0, 0x20, 0]),
        (1, b"guest=hello seed=1\0".to_vec()),
        (2, b"GRUB 2.06\0".to_vec()),
        module(0x100_0000, 0x100_2000),
        map(24, 3),
        (14, vec![1; 20]),
        (15, vec![2; 36]),
        (0x1234, vec![3; 5]),
        END,
    ])
}

#[test]
fn everything_is_found() {
    let bytes = full();
    bytes.with(|bytes| {
        let found = read(bytes).unwrap();
        assert_eq!(found.command_line, b"guest=hello seed=1");
        assert_eq!(found.loader, b"GRUB 2.06");
        assert_eq!((found.modules, found.boot_services), (1, false));
        let wanted = Module {
            start: 0x100_0000,
            end: 0x100_2000,
        };
        assert_eq!(found.module, Some(wanted));
        let map = found.memory_map.unwrap();
        assert_eq!((map.stride, map.entries), (24, 3));
        let second = (map.offset + map.stride) as usize;
        assert_eq!(bytes[second..second + 8], 0x1000_u64.to_le_bytes());
        // The newer root pointer wins, wherever it stands.
        let rsdp = found.rsdp.unwrap() as usize;
        assert_eq!(bytes[rsdp..rsdp + 36], [2; 36]);
    });
}

#[test]
fn little_is_enough() {
    Bytes::new(&[END]).with(|bytes| assert_eq!(read(bytes).unwrap(), multiboot_info::Information::default()));
    Bytes::new(&[(14, vec![1; 20]), (18, vec![]), END]).with(|bytes| {
        let found = read(bytes).unwrap();
        assert_eq!(found.rsdp, Some(16));
        assert!(found.boot_services);
    });
}

#[test]
fn modules_are_counted_and_empty_ones_are_none() {
    Bytes::new(&[
        module(0x1000, 0x1000),
        module(0x3000, 0x4000),
        module(0x5000, 0x6000),
        END,
    ])
    .with(|bytes| {
        let found = read(bytes).unwrap();
        assert_eq!(found.modules, 3);
        assert_eq!(found.module.unwrap().start, 0x3000);
    });
}

#[test]
fn each_contradiction_has_its_error() {
    use InformationError as E;
    let cases: &[(&[Tag], E)] = &[
        (&[(1, b"no end".to_vec()), END], E::TextWithoutEnd(1)),
        (&[(2, Vec::new()), END], E::TextWithoutEnd(2)),
        (&[(3, vec![0; 7]), END], E::TagTooShort(3)),
        (&[module(0x2000, 0x1000), END], E::ModuleRange(0x2000, 0x1000)),
        (&[(6, vec![24, 0, 0]), END], E::TagTooShort(6)),
        (&[(6, vec![24, 0, 0, 0, 0, 0, 0]), END], E::TagTooShort(6)),
        (&[map(16, 2), END], E::EntrySize(16)),
        (&[map(0, 2), END], E::EntrySize(0)),
        (&[map(25, 2), END], E::EntrySize(25)),
        (&[(14, vec![0; 19]), END], E::TagTooShort(14)),
        (&[(15, vec![0; 35]), END], E::TagTooShort(15)),
        (&[map(24, 1)], E::NoEnd),
    ];
    for (tags, error) in cases {
        Bytes::new(tags).with(|bytes| assert_eq!(read(bytes), Err(*error), "{tags:?}"));
        assert!(error.to_string().contains("damaged"));
    }
}

#[test]
fn a_wrong_length_is_an_error() {
    let good = full().get();
    for cut in 0..good.len() {
        Bytes::raw(&good[..cut]).with(|bytes| assert!(read(&bytes[..cut]).is_err(), "{cut}"));
    }
    for total in [0, 7, 8, 9, good.len() as u32 + 8, u32::MAX] {
        let mut bytes = good.clone();
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        Bytes::raw(&bytes).with(|bytes| assert!(read(bytes).is_err(), "{total}"));
    }
    let mut shifted = vec![0; 4];
    shifted.extend(&good);
    Bytes::raw(&shifted).with(|bytes| assert_eq!(read(&bytes[4..]), Err(InformationError::Chain)));
}

/// What holds for whatever was read: all that it points to is there.
fn inside(bytes: &[u8]) {
    let Ok(found) = read(bytes) else { return };
    if let Some(map) = found.memory_map {
        assert!(map.stride >= MemoryMap::ENTRY_BYTES);
        let end = u64::from(map.offset) + u64::from(map.stride) * u64::from(map.entries);
        assert!(end <= bytes.len() as u64);
    }
    if let Some(rsdp) = found.rsdp {
        assert!(rsdp as usize + 20 <= bytes.len());
    }
    if let Some(module) = found.module {
        assert!(module.start < module.end);
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        Bytes::raw(&bytes).with(inside);
    }

    #[test]
    fn any_tags(tags in prop::collection::vec((0_u32..24, prop::collection::vec(any::<u8>(), 0..60)), 0..8)) {
        let mut tags = tags;
        tags.push(END);
        Bytes::new(&tags).with(inside);
    }

    #[test]
    fn good_ones_with_some_wrong_bytes(spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = full().get();
        for (place, value) in spoilt {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        Bytes::raw(&bytes).with(inside);
    }
}
