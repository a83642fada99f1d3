//! The search for guests' patterns over all of a RAM file.
//!
//! Every aligned word is decoded; [`WORDS`] or more in a row that decode to consecutive addresses of one guest are a hit. Pieces of the
//! file are searched by several threads; a run that crosses from one piece to the next is put together again.

use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use guest_abi::pattern::Pattern;
use serde::{Deserialize, Serialize};

use crate::dump::hex;
use crate::ram::RamFile;

/// Words in a row that make a hit: of random words one in 65 decodes, but not four to consecutive addresses of one guest.
pub const WORDS: u64 = 4;
/// Bytes that a thread takes at once.
const PIECE: u64 = 1 << 20;
/// Unit in which zeros are skipped.
const PAGE: usize = 4096;

/// Words of a guest in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hit {
    /// Where in physical memory the first lies.
    #[serde(with = "hex")]
    pub pa: u64,
    /// The guest that wrote them.
    pub instance: u32,
    /// The guest-physical address that the first word stands for.
    #[serde(with = "hex")]
    pub gpa: u64,
    /// Number of words.
    pub words: u64,
}

impl Hit {
    fn end(&self) -> u64 {
        self.pa + 8 * self.words
    }

    fn continues_with(&self, next: &Self) -> bool {
        self.end() == next.pa && self.instance == next.instance && self.gpa + 8 * self.words == next.gpa
    }
}

/// Finds every hit in `ram` with `threads` threads, in order of physical address.
///
/// # Errors
/// The file cannot be read.
pub fn search(ram: &RamFile, pattern: &Pattern, threads: usize) -> io::Result<Vec<Hit>> {
    let pieces = pieces(&ram.data()?, ram.layout().seam());
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Ok(Vec::new()));
    let worker = || -> io::Result<Vec<Hit>> {
        let mut buffer = vec![0; PIECE as usize];
        let mut found = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = &mut buffer[..(piece.end - piece.start) as usize];
            ram.read_at(piece.start, bytes)?;
            search_piece(bytes, ram.layout().address(piece.start), pattern, &mut found);
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let found = worker();
                let mut runs = runs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                match (runs.as_mut(), found) {
                    (Ok(runs), Ok(found)) => runs.extend(found),
                    (Ok(_), Err(error)) => *runs = Err(error),
                    (Err(_), _) => (),
                }
            });
        }
    });
    let runs = runs
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())?;
    Ok(join(runs))
}

/// Cuts the data at multiples of [`PIECE`] and at the file's seam; pieces hold whole words.
fn pieces(data: &[Range<u64>], seam: u64) -> Vec<Range<u64>> {
    let mut pieces = Vec::new();
    for range in data {
        let mut at = range.start & !7;
        while at < range.end {
            let mut end = range
                .end
                .next_multiple_of(8)
                .min((at + 1).next_multiple_of(PIECE));
            if at < seam {
                end = end.min(seam);
            }
            pieces.push(at..end);
            at = end;
        }
    }
    pieces
}

/// Appends the runs of one piece: all that are hits, and shorter ones at its ends, which may go on in the next piece.
fn search_piece(bytes: &[u8], pa: u64, pattern: &Pattern, found: &mut Vec<Hit>) {
    let piece_end = pa + bytes.len() as u64;
    let mut keep = |run: Hit| {
        if run.words >= WORDS || run.pa == pa || run.end() == piece_end {
            found.push(run);
        }
    };
    let mut open: Option<Hit> = None;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        // Zero decodes to nothing that is worth a look: a guest whose pattern has a zero word has others beside it.
        if is_zero(page) {
            open.take().into_iter().for_each(&mut keep);
            continue;
        }
        let base = pa + (index * PAGE) as u64;
        for (at, word) in page.as_chunks::<8>().0.iter().enumerate() {
            let Some((instance, gpa)) = pattern.locate(u64::from_le_bytes(*word)) else {
                open.take().into_iter().for_each(&mut keep);
                continue;
            };
            let next = Hit {
                pa: base + 8 * at as u64,
                instance,
                gpa,
                words: 1,
            };
            match &mut open {
                Some(run) if run.continues_with(&next) => run.words += 1,
                open => open.replace(next).into_iter().for_each(&mut keep),
            }
        }
    }
    open.into_iter().for_each(keep);
}

fn is_zero(page: &[u8]) -> bool {
    page.as_chunks::<64>()
        .0
        .iter()
        .all(|line| line.iter().fold(0, |or, byte| or | byte) == 0)
        && page.as_chunks::<64>().1.iter().all(|byte| *byte == 0)
}

/// Joins runs that go on in the next piece and drops what is too short.
fn join(mut runs: Vec<Hit>) -> Vec<Hit> {
    runs.sort();
    let mut joined: Vec<Hit> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.continues_with(&run) => last.words += run.words,
            _ => joined.push(run),
        }
    }
    joined.retain(|run| run.words >= WORDS);
    joined
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const SEED: u64 = 0x1234_5678_9abc_def0;

    /// Writes words of a guest at an offset in the file.
    fn plant(file: &std::fs::File, offset: u64, instance: u32, gpa: u64, words: u64) {
        let pattern = Pattern::new(SEED);
        let bytes: Vec<u8> = (0..words)
            .flat_map(|word| pattern.word(instance, gpa + 8 * word).to_le_bytes())
            .collect();
        file.write_all_at(&bytes, offset).unwrap();
    }

    fn machine(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    fn find(file: &tempfile::NamedTempFile, threads: usize) -> Vec<Hit> {
        search(&RamFile::open(file.path()).unwrap(), &Pattern::new(SEED), threads).unwrap()
    }

    #[test]
    fn fragments_are_found_wherever_they_lie() {
        let file = machine(4 << 30);
        let ram = file.as_file();
        plant(ram, 0x1008, 1, 0x40_0000, 4);
        plant(ram, 0x3000, 7, 0x123_4568, 3);
        plant(ram, (2 << 20) - 16, 2, 0x1000, 4);
        plant(ram, (5 << 20) - 8, 3, 0, 1 << 19);
        plant(ram, (2 << 30) - 64, 9, 0x8000, 16);
        let hit = |pa, instance, gpa, words| Hit {
            pa,
            instance,
            gpa,
            words,
        };
        let expected = [
            hit(0x1008, 1, 0x40_0000, 4),
            hit((2 << 20) - 16, 2, 0x1000, 4),
            hit((5 << 20) - 8, 3, 0, 1 << 19),
            // Across the seam the file goes on, but not the physical addresses.
            hit((2 << 30) - 64, 9, 0x8000, 8),
            hit(4 << 30, 9, 0x8040, 8),
        ];
        for threads in [1, 2, 5] {
            assert_eq!(find(&file, threads), expected);
        }
    }

    #[test]
    fn another_seed_noise_and_zeros_are_no_hits() {
        let file = machine(64 << 20);
        let other = Pattern::new(SEED + 1);
        let bytes: Vec<u8> = (0..1_u64 << 18)
            .flat_map(|word| other.word(1, 8 * word).to_le_bytes())
            .collect();
        file.as_file().write_all_at(&bytes, 1 << 20).unwrap();
        assert_eq!(find(&file, 2), []);
    }

    #[test]
    fn words_that_are_not_consecutive_are_no_hit() {
        let file = machine(64 << 20);
        for word in 0..64 {
            plant(file.as_file(), 0x20_0000 + 8 * word, 1, 0x1000 + 16 * word, 1);
        }
        assert_eq!(find(&file, 1), []);
        plant(file.as_file(), 0x20_0000, 1, 0x1000, 2);
        plant(file.as_file(), 0x20_0010, 2, 0x1010, 2);
        assert_eq!(find(&file, 1), []);
    }
}
