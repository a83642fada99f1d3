//! Ordinary host memory: extents of 4 KiB to 1 GiB.
//!
//! Small extents come from mixed blocks, the fullest fitting kind first, so that whole blocks stay whole; a new block is broken
//! up only when no mixed one fits. Whole blocks for host memory come from the highest gigablock that has them: regions are carved from the other end
//! (`region`), so the two kinds meet late.

use core::fmt;

use crate::address::{Pfn, REGION_ORDER};

use super::buddy::{Buddy, TOP_ORDER};
use super::records::{BlockIndex, BlockUnits, FrameTable, FrameUnits, GigablockIndex};
use super::state::{FrameState, FrameWord, RunKind};

/// The largest order of one allocation: 1 GiB.
pub const MAX_ORDER: u8 = crate::address::GIGABLOCK_ORDER;

/// No memory for a request. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub wanted: u64,
    /// Bytes free in all, in pieces that may be too small.
    pub free: u64,
    /// Whole free 2 MiB regions.
    pub free_regions: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out of memory: {} wanted, {} free, {} whole regions of 2 MiB among them",
            Size(self.wanted),
            Size(self.free),
            self.free_regions
        )
    }
}

impl core::error::Error for OutOfMemory {}

/// A number of bytes for people: whole MiB, below that KiB.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

/// An extent of `1 << order` frames of ordinary memory, owned. It is in the direct map and its contents are arbitrary.
///
/// Dropping it leaks the frames; [`FrameTable::free`] takes it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "frames that are dropped are lost"]
pub struct HostFrames {
    pfn: Pfn,
    order: u8,
}

impl HostFrames {
    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// log2 of the number of frames.
    pub fn order(&self) -> u8 {
        self.order
    }

    /// Takes the extent back from its first frame, after [`HostFrames::into_pfn`].
    pub(crate) fn from_pfn(pfn: Pfn, order: u8) -> Self {
        Self { pfn, order }
    }

    /// Gives up the value while the frames stay allocated.
    pub(crate) fn into_pfn(self) -> Pfn {
        self.pfn
    }
}

impl FrameTable<'_> {
    /// Takes `1 << order` contiguous frames, aligned to their size.
    ///
    /// # Errors
    /// When no free run is large enough, or `order` exceeds [`MAX_ORDER`].
    pub fn allocate(&mut self, order: u8) -> Result<HostFrames, OutOfMemory> {
        let frames = if order >= REGION_ORDER {
            self.allocate_blocks(order)
        } else {
            self.allocate_listed(order).or_else(|| {
                self.break_block()?;
                self.allocate_listed(order)
            })
        };
        frames.ok_or_else(|| self.out_of_memory(1_u64.checked_shl(u32::from(order)).unwrap_or(u64::MAX)))
    }

    /// Gives an extent back.
    pub fn free(&mut self, frames: HostFrames) {
        let HostFrames { pfn, order } = frames;
        // An extent comes only from `allocate`, so its records exist.
        let Some(index) = self.block_of(pfn) else { return };
        if order >= REGION_ORDER {
            self.release_block_run(index, order - REGION_ORDER);
            return;
        }
        let merged = self.change_runs(RunKind::Host, index, |words, runs| {
            runs.release(&mut FrameUnits(words), (pfn.get() % 512) as u16, order)
        });
        self.free_frames += 1 << order;
        if merged == TOP_ORDER {
            self.unlist_block(RunKind::Host, index);
            self.free_frames -= 512;
            self.release_block_run(index, 0);
        }
    }

    /// Takes over a frame that was in use when the records were made, so that [`FrameTable::free`] can take it. The caller must be who
    /// had it. `None` when it was not in use then, or is not any more, or lies in a block all of which is.
    pub fn adopt(&mut self, pfn: Pfn) -> Option<HostFrames> {
        let index = self.block_of(pfn)?;
        if self.block(index).word.state() != FrameState::Mixed || self.state(pfn) != FrameState::Reserved {
            return None;
        }
        self.set_frame(pfn, FrameState::Host { order: 0 });
        Some(HostFrames { pfn, order: 0 })
    }

    /// The error for a request of `frames` frames.
    pub(crate) fn out_of_memory(&self, frames: u64) -> OutOfMemory {
        OutOfMemory {
            wanted: frames.saturating_mul(crate::address::PAGE_SIZE),
            free: self.free_frames * crate::address::PAGE_SIZE,
            free_regions: self.free_blocks,
        }
    }

    /// Takes `1 << order` frames without breaking up a whole free region; `None` for as many as a region has, too.
    pub(crate) fn allocate_listed(&mut self, order: u8) -> Option<HostFrames> {
        let index = self.host_blocks.fitting(order)?;
        let unit = self.change_runs(RunKind::Host, index, |words, runs| {
            let unit = runs.allocate(&mut FrameUnits(words), order)?;
            words[usize::from(unit)] = FrameWord::new(FrameState::Host { order });
            Some(unit)
        })?;
        self.free_frames -= 1 << order;
        let pfn = self.block_pfn(index).add(u64::from(unit));
        Some(HostFrames { pfn, order })
    }

    /// The order of the largest free run below a region.
    pub(crate) fn largest_listed_run(&self) -> Option<u8> {
        self.host_blocks.largest()
    }

    fn allocate_blocks(&mut self, order: u8) -> Option<HostFrames> {
        if order > MAX_ORDER {
            return None;
        }
        let run = order - REGION_ORDER;
        let gigablock = self.highest_with_run(run)?;
        let pfn = self.take_block_run(gigablock, run)?;
        *self.head_mut(pfn, order) = FrameWord::new(FrameState::Host { order });
        Some(HostFrames { pfn, order })
    }

    /// Takes `1 << run` blocks from one gigablock; the first frame. The first block's word is `Tail` until the caller sets it.
    pub(crate) fn take_block_run(&mut self, gigablock: GigablockIndex, run: u8) -> Option<Pfn> {
        let (blocks, buddy) = self.blocks_of(gigablock);
        let unit = buddy.allocate(&mut BlockUnits(blocks), run)?;
        self.reshelve(gigablock);
        self.free_blocks -= 1 << run;
        self.free_frames -= 512 << run;
        Some(self.gigablock_pfn(gigablock).add(u64::from(unit) << REGION_ORDER))
    }

    /// Makes `1 << run` blocks free.
    pub(crate) fn release_block_run(&mut self, index: BlockIndex, run: u8) {
        let (blocks, buddy) = self.blocks_of(index.gigablock());
        buddy.release(&mut BlockUnits(blocks), index.unit(), run);
        self.reshelve(index.gigablock());
        self.free_blocks += 1 << run;
        self.free_frames += 512 << run;
    }

    /// Takes a whole block for small extents: all its frames free, and listed.
    fn break_block(&mut self) -> Option<()> {
        let (_, index) = self.take_block()?;
        self.change_runs(RunKind::Host, index, |words, runs| {
            words.fill(FrameWord::TAIL);
            runs.release(&mut FrameUnits(words), 0, TOP_ORDER)
        });
        self.free_frames += 512;
        Some(())
    }

    /// Takes a whole block whose frames have words of their own, and none of which is free: each is the caller's, to be freed by itself.
    pub(super) fn take_block(&mut self) -> Option<(Pfn, BlockIndex)> {
        let pfn = self.allocate_blocks(REGION_ORDER)?.into_pfn();
        let index = self.block_of(pfn)?;
        self.block_mut(index).word = FrameWord::new(FrameState::Mixed);
        self.block_mut(index).host_runs = Buddy::EMPTY;
        Some((pfn, index))
    }
}
