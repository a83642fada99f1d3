//! A picture of the direct map in characters: a strip for each phase, 64 cells at most, whatever the RAM size.

use core::fmt::{self, Write};

use heapless::Vec;

use crate::block::{BlockState, Span};

/// Cells in a strip at most: with a label this stays below 80 columns.
const CELLS: usize = 64;
/// Strips in a picture at most.
const STRIPS: usize = 4;

const LEGEND: &str = "  # 1G leaves   = 2M leaves   - 4K leaves   + leaves of several sizes
  o holes   % holes beside leaves   . not RAM   ! RAM that is missing
";

/// What a cell has seen, as bits.
#[derive(Clone, Copy, Debug, Default)]
struct Cell(u8);

impl Cell {
    const G1: u8 = 1;
    const M2: u8 = 2;
    const K4: u8 = 4;
    const HOLE: u8 = 8;
    const MISSING: u8 = 16;

    fn see(&mut self, state: BlockState) {
        self.0 |= match state {
            BlockState::NotRam => 0,
            BlockState::In1G => Self::G1,
            BlockState::Leaf2M => Self::M2,
            BlockState::Small4K { .. } => Self::K4,
            BlockState::Hole => Self::HOLE,
            BlockState::Missing => Self::MISSING,
        };
    }

    fn character(self) -> char {
        match self.0 {
            0 => '.',
            Self::G1 => '#',
            Self::M2 => '=',
            Self::K4 => '-',
            Self::HOLE => 'o',
            seen if seen & Self::MISSING != 0 => '!',
            seen if seen & Self::HOLE != 0 => '%',
            _ => '+',
        }
    }
}

#[derive(Clone, Debug)]
struct Strip<'n> {
    name: &'n str,
    cells: [Cell; CELLS],
}

/// The picture already has all the strips that fit, four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureFull;

impl fmt::Display for PictureFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the picture has {STRIPS} strips, and takes no more")
    }
}

impl core::error::Error for PictureFull {}

/// The strips, all at one scale.
#[derive(Clone, Debug)]
pub struct Picture<'n> {
    /// 2M blocks in a cell: a power of two.
    blocks_per_cell: u64,
    cells: usize,
    strips: Vec<Strip<'n>, STRIPS>,
}

impl<'n> Picture<'n> {
    /// A picture of the physical address space up to `end`, the end of RAM / 2 MiB rounded up. A cell has the fewest blocks, a power
    /// of two, with which the strip has at most 64 cells.
    pub fn new(end: u64) -> Self {
        let end = end.max(1);
        let blocks_per_cell = end.div_ceil(CELLS as u64).next_power_of_two();
        // At most CELLS, so it fits.
        let cells = end.div_ceil(blocks_per_cell) as usize;
        Self {
            blocks_per_cell,
            cells,
            strips: Vec::new(),
        }
    }

    /// Adds a strip. Its name is shown up to 8 characters. Spans beyond the picture's end are not shown.
    ///
    /// # Errors
    /// The picture is full.
    pub fn add(&mut self, name: &'n str, spans: impl Iterator<Item = Span>) -> Result<(), PictureFull> {
        let mut strip = Strip {
            name,
            cells: [Cell::default(); CELLS],
        };
        for span in spans.filter(|span| span.blocks > 0) {
            let first = span.first / self.blocks_per_cell;
            let last = span.first.saturating_add(span.blocks - 1) / self.blocks_per_cell;
            for cell in first..=last.min(self.cells as u64 - 1) {
                if let Some(cell) = strip.cells.get_mut(cell as usize) {
                    cell.see(span.state);
                }
            }
        }
        self.strips.push(strip).map_err(|_| PictureFull)
    }

    /// Writes the strips and the legend.
    ///
    /// # Errors
    /// The output refused.
    pub fn write(&self, out: &mut impl Write) -> fmt::Result {
        write!(out, "The direct map; one character is ")?;
        let mib = self.blocks_per_cell.saturating_mul(2);
        if mib >= 1024 {
            writeln!(out, "{} GiB", mib / 1024)?
        } else {
            writeln!(out, "{mib} MiB")?
        }
        for strip in &self.strips {
            write!(out, "  {:<8.8} |", strip.name)?;
            for cell in &strip.cells[..self.cells] {
                out.write_char(cell.character())?;
            }
            out.write_str("|\n")?;
        }
        out.write_str(LEGEND)
    }
}
