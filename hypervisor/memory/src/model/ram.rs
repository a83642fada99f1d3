//! RAM of the model machine. A frame takes memory of the test when it is first touched.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::sync::{Arc, OnceLock};
use std::vec::Vec;

use crate::address::{Hpa, Pfn};
use crate::machine::Table;
use crate::memory_map::FrameRange;

struct Piece {
    range: FrameRange,
    frames: Vec<OnceLock<Box<Table>>>,
}

/// Ranges of frames.
#[derive(Clone)]
pub struct Ram {
    pieces: Arc<Vec<Piece>>,
}

impl Ram {
    /// RAM at these ranges, all zero.
    pub(super) fn new(ranges: &[FrameRange]) -> Self {
        let piece = |range: &FrameRange| Piece {
            range: *range,
            frames: (0..range.frames()).map(|_| OnceLock::new()).collect(),
        };
        Self {
            pieces: Arc::new(ranges.iter().map(piece).collect()),
        }
    }

    fn cell(&self, pfn: Pfn) -> Option<&OnceLock<Box<Table>>> {
        let piece = self.pieces.iter().find(|piece| piece.range.contains(pfn))?;
        piece.frames.get((pfn.get() - piece.range.start.get()) as usize)
    }

    /// A frame, made if it was never touched.
    ///
    /// # Panics
    /// When it is not RAM.
    pub fn table(&self, pfn: Pfn) -> &Table {
        match self.cell(pfn) {
            Some(cell) => cell.get_or_init(|| Box::new(core::array::from_fn(|_| AtomicU64::new(0)))),
            None => panic!("access to {}, which is not RAM", pfn.hpa()),
        }
    }

    /// Eight bytes; zero where nothing was ever written.
    pub fn load(&self, hpa: Hpa) -> u64 {
        match self.cell(hpa.pfn()) {
            Some(cell) => cell
                .get()
                .map_or(0, |frame| frame[word(hpa)].load(Ordering::Relaxed)),
            None => panic!("load from {hpa}, which is not RAM"),
        }
    }

    /// Writes eight bytes.
    pub fn store(&self, hpa: Hpa, value: u64) {
        self.table(hpa.pfn())[word(hpa)].store(value, Ordering::Relaxed);
    }

    /// Zeroes a frame.
    pub(super) fn clear(&self, pfn: Pfn) {
        if let Some(frame) = self.cell(pfn).and_then(OnceLock::get) {
            frame.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Whether some aligned word of RAM has this value: the search from outside.
    pub fn contains(&self, value: u64) -> bool {
        self.pieces
            .iter()
            .flat_map(|piece| piece.frames.iter().filter_map(OnceLock::get))
            .any(|frame| frame.iter().any(|word| word.load(Ordering::Relaxed) == value))
    }
}

fn word(hpa: Hpa) -> usize {
    (hpa.get() % 4096 / 8) as usize
}
