//! The firmware's memory map: entries of any kind and size become ranges of whole frames that are RAM, and nothing else.
//!
//! Each 17 bytes of the input are an entry: start, length, and whether it is RAM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memory::address::{Hpa, PAGE_SIZE, Pfn};
use memory::layout::DIRECT_MAP_BYTES;
use memory::memory_map::{MemoryMap, RawEntry};

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn entry(bytes: &[u8]) -> RawEntry {
    RawEntry {
        start: Hpa::new(word(&bytes[..8])),
        bytes: word(&bytes[8..16]),
        ram: bytes[16] & 1 == 1,
    }
}

/// Whether every byte of a frame is in an entry of RAM and none is in another entry, decided piece by piece.
fn is_ram(entries: &[RawEntry], frame: u64) -> bool {
    let start = frame * PAGE_SIZE;
    let Some(end) = start.checked_add(PAGE_SIZE) else {
        return false;
    };
    let bounds = |entry: &RawEntry| {
        let start = entry.start.get();
        (start, start.saturating_add(entry.bytes))
    };
    let mut at = start;
    while at < end {
        let here = |entry: &&RawEntry| (bounds(entry).0..bounds(entry).1).contains(&at);
        if !entries.iter().filter(|entry| entry.ram).any(|entry| here(&entry))
            || entries
                .iter()
                .filter(|entry| !entry.ram)
                .any(|entry| here(&entry))
        {
            return false;
        }
        // On to where anything changes.
        let next = entries.iter().flat_map(|entry| <[u64; 2]>::from(bounds(entry)));
        at = next.filter(|bound| *bound > at).min().unwrap_or(end).min(end);
    }
    end <= DIRECT_MAP_BYTES
}

fuzz_target!(|input: &[u8]| {
    let entries: Vec<RawEntry> = input.chunks_exact(17).map(entry).collect();
    let Ok(map) = MemoryMap::new(entries.iter().copied()) else {
        return;
    };
    let ranges = map.ranges();
    assert!(ranges.iter().all(|range| range.start < range.end));
    // Ascending, disjoint, and not adjacent.
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    assert_eq!(
        map.frames(),
        ranges
            .iter()
            .map(|range| range.end.get() - range.start.get())
            .sum::<u64>()
    );
    // Around each boundary of anything, the map says what the entries say.
    let bounds = entries.iter().flat_map(|entry| {
        let start = entry.start.get();
        [start, start.saturating_add(entry.bytes)]
    });
    let ends = ranges
        .iter()
        .flat_map(|range| [range.start.hpa().get(), range.end.hpa().get()]);
    for bound in bounds.chain(ends) {
        let frame = bound / PAGE_SIZE;
        for frame in frame.saturating_sub(1)..=frame.saturating_add(1).min(u64::MAX / PAGE_SIZE) {
            let in_map = ranges.iter().any(|range| range.contains(Pfn::new(frame)));
            assert_eq!(
                in_map,
                is_ram(&entries, frame),
                "frame {frame:#x} of {entries:x?}"
            );
        }
    }
});
