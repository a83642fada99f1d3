//! The guest archive and the ELF files in it: whatever is accepted stays within the guest's memory, and touches nothing of the launch area.
//!
//! The first byte chooses the guest's memory; the rest is an archive, or else a file.
#![no_main]

use guest_abi::launch_area::IMAGE_START;
use guest_image::{Archive, Image, Launch};
use libfuzzer_sys::fuzz_target;

fn file(contents: &[u8], memory_bytes: u64) {
    let Ok(image) = Image::parse(contents, memory_bytes) else {
        return;
    };
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut entered = false;
    for segment in image.segments() {
        let (start, end) = (segment.start.get(), segment.start.get() + segment.bytes);
        assert!(start >= IMAGE_START && start < end && end <= memory_bytes);
        assert!(segment.contents.len() as u64 <= segment.bytes);
        assert!(taken.iter().all(|other| end <= other.0 || other.1 <= start));
        assert!(image.start() <= segment.start && image.end().get() >= end);
        entered |= segment.executable && (start..end).contains(&image.entry().get());
        taken.push((start, end));
    }
    assert!(entered, "the entry point is not in the code");
    if let Ok(launch) = Launch::new(&image, 1, 1) {
        let written: Result<(), (u64, usize)> = launch.for_each_write(|at, bytes| {
            let end = at.get() + bytes.len() as u64;
            (end <= IMAGE_START).then_some(()).ok_or((at.get(), bytes.len()))
        });
        assert_eq!(written, Ok(()));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((size, rest)) = input.split_first() else {
        return;
    };
    let memory_bytes = u64::from(*size) << 21;
    if let Ok(archive) = Archive::open(rest) {
        assert!(archive.files().count() > 0);
        for each in archive.files() {
            assert!(archive.file(each.name()).is_some());
            file(each.contents(), memory_bytes);
        }
    }
    file(rest, memory_bytes);
});
