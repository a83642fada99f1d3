use proptest::prelude::*;

use super::*;

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, *contents).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The checksum field of the header at `block`, recomputed after a change.
fn seal(bytes: &mut [u8], block: usize) {
    let header = &mut bytes[block * BLOCK..][..BLOCK];
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn refused(bytes: &[u8]) -> ArchiveError {
    Archive::open(bytes).unwrap_err()
}

#[test]
fn files_are_found_by_name_and_in_order() {
    let long = "x".repeat(120) + "/" + &"y".repeat(90);
    let big = vec![7; 5000];
    let bytes = tar(&[
        ("hello", b"one"),
        ("dir/spin", &big),
        ("empty", b""),
        (&long, b"two"),
    ]);
    let archive = Archive::open(&bytes).unwrap();
    let names: Vec<String> = archive.files().map(|file| file.name().to_owned()).collect();
    assert_eq!(names, ["hello", "dir/spin", "empty", &long]);
    assert_eq!(archive.file("hello").unwrap().contents(), b"one");
    assert_eq!(archive.file("dir/spin").unwrap().contents(), big);
    assert_eq!(archive.file("empty").unwrap().contents(), b"");
    assert!(archive.file("spin").is_none());
}

#[test]
fn a_leading_dot_slash_is_no_part_of_the_name() {
    let mut bytes = tar(&[("xxhello", b"one")]);
    bytes[..2].copy_from_slice(b"./");
    seal(&mut bytes, 0);
    assert_eq!(
        Archive::open(&bytes).unwrap().file("hello").unwrap().contents(),
        b"one"
    );
}

#[test]
fn directories_are_skipped() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    builder.append_data(&mut header, "dir/", &[][..]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    builder.append_data(&mut header, "dir/a", &b"ab"[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    assert_eq!(Archive::open(&bytes).unwrap().files().count(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let good = tar(&[("hello", b"one"), ("spin", &[1; 2000])]);
    assert_eq!(refused(&[]), ArchiveError::Empty);
    assert_eq!(
        refused(&[0x1f, 0x8b, 8, 0]),
        ArchiveError::OtherFormat { format: "gzip" }
    );
    assert_eq!(
        refused(b"070701000000"),
        ArchiveError::OtherFormat { format: "cpio" }
    );
    assert_eq!(
        refused(b"\x7fELF\x02\x01\x01"),
        ArchiveError::OtherFormat { format: "bare ELF" }
    );
    assert_eq!(refused(b"what is this"), ArchiveError::NotTar);
    assert_eq!(refused(&[b'x'; 4096]), ArchiveError::NotTar);
    assert_eq!(
        refused(&good[..good.len() - 1]),
        ArchiveError::Truncated {
            bytes: good.len() - 1
        }
    );
    assert_eq!(refused(&good[..600]), ArchiveError::Truncated { bytes: 600 });
    assert_eq!(
        refused(&good[..5 * BLOCK]),
        ArchiveError::ContentsTruncated { block: 2 }
    );
    assert_eq!(refused(&good[..7 * BLOCK]), ArchiveError::NoTerminator);
    assert_eq!(refused(&good[..8 * BLOCK]), ArchiveError::NoTerminator);
    assert_eq!(refused(&[0; 3 * BLOCK]), ArchiveError::NoFiles);
    assert_eq!(
        refused(&tar(&[("a", b"1"), ("b", b""), ("a", b"3")])),
        ArchiveError::DuplicateName { first: 0, second: 2 }
    );

    let mut bad = good.clone();
    bad[2 * BLOCK] ^= 1;
    assert_eq!(refused(&bad), ArchiveError::Checksum { block: 2 });
    let change = |at: usize, new: &[u8]| {
        let mut bad = good.clone();
        bad[2 * BLOCK + at..][..new.len()].copy_from_slice(new);
        seal(&mut bad, 2);
        refused(&bad)
    };
    assert_eq!(change(156, b"L"), ArchiveError::EntryType { block: 2 });
    assert_eq!(change(124, b"12345678x90\0"), ArchiveError::Size { block: 2 });
    assert_eq!(
        change(124, &[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]),
        ArchiveError::Size { block: 2 }
    );
    assert_eq!(
        change(124, b"77777777777\0"),
        ArchiveError::ContentsTruncated { block: 2 }
    );
    assert_eq!(change(0, b"a b\0"), ArchiveError::Name { position: 1 });
    assert_eq!(change(0, b"\xff\xfe\0"), ArchiveError::Name { position: 1 });
    assert_eq!(change(0, b"\0"), ArchiveError::Name { position: 1 });
    assert_eq!(change(0, b"./\0"), ArchiveError::Name { position: 1 });
    assert_eq!(
        change(0, b"hello\0"),
        ArchiveError::DuplicateName { first: 0, second: 1 }
    );
}

#[test]
#[cfg_attr(
    miri,
    ignore = "each name is compared with all before it: more than six minutes"
)]
fn the_number_of_files_is_bounded() {
    let names: Vec<String> = (0..=FILES_MAX).map(|n| n.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert!(Archive::open(&tar(&files[..FILES_MAX])).is_ok());
    assert_eq!(refused(&tar(&files)), ArchiveError::TooManyFiles);
}

/// Everything an opened archive offers, so that a panic in any of it fails the test.
fn read_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    match Archive::open(bytes) {
        Ok(archive) => {
            let mut count = 0;
            for file in archive.files() {
                prop_assert!(!file.name().is_empty() && file.contents().len() <= bytes.len());
                prop_assert_eq!(
                    archive.file(file.name()).map(|same| same.contents()),
                    Some(file.contents())
                );
                count += 1;
            }
            prop_assert!(count > 0);
        }
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        read_all(&bytes)?;
    }

    /// Hostile headers with a right checksum get past the first check.
    #[test]
    fn random_headers_do_no_harm(
        headers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), BLOCK), 1..4),
        kind in proptest::sample::select(b"\x0001234567xgLK".as_slice()),
        size in prop_oneof![any::<[u8; 12]>().prop_map(|s| s.to_vec()), "[0-7 +]{0,11}".prop_map(String::into_bytes)],
    ) {
        let mut bytes = Vec::new();
        for mut header in headers {
            header[156] = kind;
            header[124..136].fill(0);
            header[124..124 + size.len()].copy_from_slice(&size);
            bytes.extend(header);
            let last = bytes.len() / BLOCK - 1;
            seal(&mut bytes, last);
        }
        bytes.extend([0; 2 * BLOCK]);
        read_all(&bytes)?;
    }

    #[test]
    fn mutations_of_a_good_archive_do_no_harm(
        changes in proptest::collection::vec((0_usize..6 * BLOCK, any::<u8>()), 0..8),
        length in 0_usize..12 * BLOCK,
        sealed: bool,
    ) {
        let mut bytes = tar(&[("hello", &[3; 600]), ("dir/spin", &[1; 700])]);
        for (at, value) in changes {
            bytes[at] = value;
        }
        if sealed {
            seal(&mut bytes, 0);
            seal(&mut bytes, 3);
        }
        read_all(&bytes)?;
        bytes.truncate(length);
        read_all(&bytes)?;
    }
}
