//! RAM of the model machine: a sparse tree. What was never written takes no memory of the test and reads as zeros, so a machine may
//! have a TiB.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use memory::address::{ENTRIES, Hpa, Pfn};
use memory::machine::Table;
use memory::memory_map::FrameRange;

/// The frames of an aligned 2 MiB, each made at its first write.
type Block = [OnceLock<Box<Table>>; ENTRIES];

struct Piece {
    range: FrameRange,
    /// The blocks that the range touches, each made at its first write.
    blocks: Vec<OnceLock<Box<Block>>>,
}

/// Ranges of frames.
pub struct Ram {
    pieces: Vec<Piece>,
}

impl Ram {
    /// RAM at these ranges, all zero.
    pub(crate) fn new(ranges: &[FrameRange]) -> Self {
        let piece = |range: &FrameRange| {
            let last = Pfn::new(range.end.get() - 1);
            let blocks = last.region_number() - range.start.region_number() + 1;
            Piece {
                range: *range,
                blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            }
        };
        Self {
            pieces: ranges.iter().map(piece).collect(),
        }
    }

    /// The ranges of frames, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> {
        self.pieces.iter().map(|piece| piece.range)
    }

    /// Whether one of the ranges holds all of these bytes.
    pub fn holds(&self, start: Hpa, bytes: u64) -> bool {
        let last = Hpa::new(start.get() + bytes - 1).pfn();
        self.pieces
            .iter()
            .any(|piece| piece.range.contains(start.pfn()) && piece.range.contains(last))
    }

    fn block(&self, pfn: Pfn) -> Option<&OnceLock<Box<Block>>> {
        let piece = self.pieces.iter().find(|piece| piece.range.contains(pfn))?;
        let first = piece.range.start.region_number();
        piece.blocks.get((pfn.region_number() - first) as usize)
    }

    /// A frame that has been written to.
    pub(crate) fn touched(&self, pfn: Pfn) -> Option<&Table> {
        let block = self.block(pfn)?.get()?;
        block[pfn.get() as usize % ENTRIES].get().map(|frame| &**frame)
    }

    /// A frame, made if it was never touched.
    ///
    /// # Panics
    /// When it is not RAM.
    pub fn table(&self, pfn: Pfn) -> &Table {
        let Some(block) = self.block(pfn) else {
            panic!("access to {}, which is not RAM", pfn.hpa())
        };
        let block = block.get_or_init(|| Box::new([const { OnceLock::new() }; ENTRIES]));
        block[pfn.get() as usize % ENTRIES].get_or_init(|| Box::new([const { AtomicU64::new(0) }; ENTRIES]))
    }

    /// Eight bytes; zero where nothing was ever written.
    ///
    /// # Panics
    /// When there is no RAM.
    pub fn load(&self, hpa: Hpa) -> u64 {
        assert!(self.holds(hpa, 8), "load from {hpa}, which is not RAM");
        self.touched(hpa.pfn())
            .map_or(0, |frame| frame[word(hpa)].load(Ordering::Relaxed))
    }

    /// Writes eight bytes.
    ///
    /// # Panics
    /// When there is no RAM.
    pub fn store(&self, hpa: Hpa, value: u64) {
        self.table(hpa.pfn())[word(hpa)].store(value, Ordering::Relaxed);
    }

    /// Zeroes a frame.
    pub(crate) fn clear(&self, pfn: Pfn) {
        if let Some(frame) = self.touched(pfn) {
            frame.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Zeroes the 2 MiB that begin with a frame.
    pub(crate) fn clear_region(&self, first: Pfn) {
        if let Some(block) = self.block(first).and_then(OnceLock::get) {
            for frame in block.iter().filter_map(OnceLock::get) {
                frame.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
    }

    /// Whether some aligned word of RAM has this value: the search from outside.
    pub fn contains(&self, value: u64) -> bool {
        self.pieces
            .iter()
            .flat_map(|piece| piece.blocks.iter().filter_map(OnceLock::get))
            .flat_map(|block| block.iter().filter_map(OnceLock::get))
            .any(|frame| frame.iter().any(|word| word.load(Ordering::Relaxed) == value))
    }
}

/// Index of an address' word in its frame.
pub(crate) fn word(hpa: Hpa) -> usize {
    (hpa.get() % 4096 / 8) as usize
}
