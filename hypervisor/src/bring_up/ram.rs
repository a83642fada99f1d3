//! RAM and what is in use of it before the allocator exists.

use core::fmt;

use heapless::Vec;
use memory::address::{Hpa, PAGE_SIZE, Pfn};
use memory::memory_map::{FrameRange, MemoryMap, MemoryMapError, RawEntry, SearchFrom};
use memory_types::Registers;

use crate::boot::image;
use crate::boot::info::{BootInfo, MemoryKind};
use crate::println;

/// Least RAM: 128 MiB, less what QEMU and firmware keep of it (measured: of `-m 128M` on q35 127 MiB are left, rounded down).
const LEAST_RAM: u64 = 120 << 20;
/// Ranges in use: image (4 sections), what the loader gave (8), page 0, the trampoline, the pool, the records.
const IN_USE: usize = 16;
/// Frames that the early tables show: the first 4 GiB.
const EARLY: FrameRange = FrameRange {
    start: Pfn::new(0),
    end: Pfn::new(1 << 20),
};

/// Why there is no memory to run in.
#[derive(Debug)]
pub enum RamError {
    /// The firmware's map cannot be used.
    Map(MemoryMapError),
    /// Less RAM than [`LEAST_RAM`]; the bytes there are.
    TooLittle(u64),
    /// No contiguous frames of this number for what the name says.
    NoRoom(&'static str, u64),
    /// A range handed over by the loader makes no sense.
    BadRange(&'static str, Hpa),
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::TooLittle(bytes) => {
                write!(
                    f,
                    "only {} MiB of RAM: give the machine at least 128 MiB",
                    bytes >> 20
                )
            }
            Self::NoRoom(what, frames) => write!(
                f,
                "no {frames} contiguous frames of RAM for the {what}: give the machine more memory"
            ),
            Self::BadRange(what, at) => write!(f, "the loader put the {what} at {at}, which makes no sense"),
        }
    }
}

/// The machine's RAM.
pub struct Ram {
    /// All of it.
    pub map: MemoryMap,
    in_use: Vec<FrameRange, IN_USE>,
}

impl Ram {
    /// All of it, in MiB.
    pub fn mib(&self) -> u64 {
        (self.map.frames() * PAGE_SIZE) >> 20
    }

    /// Reads the firmware's map, leaves out what is not write-back, and notes image and hand-over as in use.
    ///
    /// # Errors
    /// See [`RamError`].
    pub fn new(info: &BootInfo, types: Option<&Registers>) -> Result<Self, RamError> {
        let entries = info.firmware_map().map(|range| RawEntry {
            start: range.start,
            bytes: range.bytes,
            ram: range.kind == MemoryKind::Ram,
        });
        let all = MemoryMap::new(entries.clone()).map_err(RamError::Map)?;
        let map = match types.map(Registers::not_write_back) {
            None => all.clone(),
            Some(Ok(spans)) => {
                let others = spans.map(|span| RawEntry {
                    start: span.start,
                    bytes: span.end.get() - span.start.get(),
                    ram: false,
                });
                MemoryMap::new(entries.chain(others)).map_err(RamError::Map)?
            }
            Some(Err(error)) => {
                println!("memory types: {error}; taking all RAM as write-back");
                all.clone()
            }
        };
        let not_write_back = all.frames() - map.frames();
        if not_write_back > 0 {
            println!(
                "{} KiB of RAM are not cached write-back (MTRRs) and are not used",
                not_write_back * (PAGE_SIZE >> 10)
            );
        }
        let bytes = map.frames() * PAGE_SIZE;
        if bytes < LEAST_RAM {
            return Err(RamError::TooLittle(bytes));
        }
        let mut ram = Self {
            map,
            in_use: Vec::new(),
        };
        // Real-mode vectors and BIOS data: firmware may still use them, and a frame number 0 is a frequent mistake.
        ram.mark("first page", Hpa::new(0), PAGE_SIZE)?;
        for section in image::sections() {
            ram.mark("image", section.hpa(), section.bytes())?;
        }
        for range in &info.keep {
            ram.mark(range.what, range.start, range.bytes)?;
        }
        Ok(ram)
    }

    /// Notes a range as in use.
    ///
    /// # Errors
    /// When it wraps, or when there are too many.
    fn mark(&mut self, what: &'static str, start: Hpa, bytes: u64) -> Result<(), RamError> {
        let range = FrameRange::covering(start, bytes).ok_or(RamError::BadRange(what, start))?;
        self.in_use
            .push(range)
            .map_err(|_| RamError::BadRange(what, start))
    }

    /// Takes `frames` contiguous frames below 4 GiB, the lowest there are above the first MiB.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_low(&mut self, what: &'static str, frames: u64) -> Result<FrameRange, RamError> {
        let above_1m = FrameRange {
            start: Pfn::new(256),
            end: EARLY.end,
        };
        self.take(what, frames, above_1m, SearchFrom::Low)
    }

    /// Takes a frame below 640 KiB, where a CPU that starts can begin (SDM vol. 3A, 8.4.4.2: the vectors A0H to BFH are reserved).
    ///
    /// # Errors
    /// When there is none.
    pub fn take_trampoline(&mut self) -> Result<Pfn, RamError> {
        let below_640k = FrameRange {
            start: Pfn::new(1),
            end: Pfn::new(0xa0),
        };
        self.take("trampoline", 1, below_640k, SearchFrom::High)
            .map(|range| range.start)
    }

    /// Takes `frames` contiguous frames, the highest there are.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_high(&mut self, what: &'static str, frames: u64) -> Result<FrameRange, RamError> {
        let everywhere = FrameRange {
            start: Pfn::new(0),
            end: Pfn::new(u64::MAX),
        };
        self.take(what, frames, everywhere, SearchFrom::High)
    }

    fn take(
        &mut self,
        what: &'static str,
        frames: u64,
        within: FrameRange,
        end: SearchFrom,
    ) -> Result<FrameRange, RamError> {
        let none = RamError::NoRoom(what, frames);
        let Some(range) = self.map.find_free(frames, within, &self.in_use, end) else {
            return Err(none);
        };
        self.in_use.push(range).map_err(|_| none)?;
        Ok(range)
    }

    /// Whether all of these bytes are RAM, in one range of it.
    pub fn holds(&self, start: Hpa, bytes: u64) -> bool {
        FrameRange::covering(start, bytes).is_some_and(|wanted| {
            let mut ranges = self.map.ranges().iter();
            ranges.any(|range| range.intersection(&wanted) == wanted)
        })
    }

    /// What is in use.
    pub fn in_use(&self) -> &[FrameRange] {
        &self.in_use
    }

    /// How many aligned blocks of `1 << order` frames have RAM in them.
    pub fn blocks(&self, order: u8) -> u64 {
        let mut count = 0;
        let mut counted_to = 0;
        for range in self.map.ranges() {
            // Two ranges may share a block.
            let first = (range.start.get() >> order).max(counted_to);
            let end = range.end.get().div_ceil(1 << order);
            count += end.saturating_sub(first);
            counted_to = end;
        }
        count
    }
}
