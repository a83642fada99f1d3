//! The records of all frames, laid out over the memory map.
//!
//! A *section* is a run of gigablocks that hold RAM; sections are found by binary search, so the cost depends on the
//! amount of RAM and not on the highest address. Each gigablock has one record and 512 block records (80 bytes each); each block with RAM in
//! it has 512 frame words of 8 bytes. That is 0.2 % of RAM, of which the frame words of a block are touched only
//! while its frames disagree.

use core::fmt;

use crate::address::{GIGABLOCK_ORDER, Gfn, Pfn, REGION_ORDER};
use crate::memory_map::{FrameRange, MemoryMap};

use super::buddy::{Buddy, TOP_ORDER, Units};
use super::partial::{BlockLists, Links};
use super::shelves::{Shelf, Shelves};
use super::state::{FrameState, FrameWord, RunKind};

/// Blocks in a gigablock, frames in a block.
pub(super) const UNITS: usize = 512;
pub(super) const NONE: u32 = u32::MAX;

/// A run of consecutive gigablocks with RAM.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Section {
    /// Number (address / 1 GiB) of the first one.
    first: u64,
    count: u32,
    /// Index of the first one's record.
    index: u32,
}

/// An aligned 1 GiB of address space with RAM in it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Gigablock {
    /// Address / 1 GiB.
    number: u64,
    /// The level-2 table of a gigablock that is all holes, plus one; 0 while there is none.
    parked: u64,
    /// Links of the list of its shelf.
    pub(super) next: u32,
    pub(super) previous: u32,
    /// Its free blocks.
    pub(super) buddy: Buddy,
    /// Regions of it that are out of the direct map.
    holes: u16,
    /// Where [`Shelves`] have it.
    pub(super) shelf: Shelf,
    /// 1 when the direct map had one 1G leaf here at boot.
    whole_at_boot: u8,
    padding: u8,
}

/// An aligned 2 MiB of address space.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    pub(super) word: FrameWord,
    /// Which frame words are its own; `NONE` for a block without RAM.
    words: u32,
    /// Links among the blocks with free frames, by largest run; `host.next` also links lists of regions.
    pub(super) host: Links,
    /// The same among the blocks with free hidden frames.
    pub(super) pool: Links,
    /// The free frames of a mixed block.
    pub(super) host_runs: Buddy,
    /// The free hidden frames of a pooled or mixed block.
    pub(super) pool_runs: Buddy,
    /// Hidden frames, free or not, of a pooled or mixed block.
    pub(super) hidden_frames: u16,
    padding: u16,
}

/// Index of a gigablock's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GigablockIndex(pub(super) u32);

impl GigablockIndex {
    pub(super) fn position(self) -> usize {
        self.0 as usize
    }
}

/// Index of a block's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockIndex(u32);

impl BlockIndex {
    pub(super) fn unit(self) -> u16 {
        (self.0 as usize % UNITS) as u16
    }

    pub(super) fn gigablock(self) -> GigablockIndex {
        GigablockIndex(self.0 / UNITS as u32)
    }

    /// For the link fields of a block record.
    pub(super) fn to_link(index: Option<Self>) -> u32 {
        index.map_or(NONE, |index| index.0)
    }

    /// From the link fields of a block record.
    pub(super) fn from_link(link: u32) -> Option<Self> {
        (link != NONE).then_some(Self(link))
    }
}

/// How much memory the records of a memory map need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsLayout {
    sections: usize,
    gigablocks: usize,
    blocks_with_ram: usize,
}

impl RecordsLayout {
    /// The layout for this map.
    pub fn new(map: &MemoryMap) -> Self {
        let mut layout = Self {
            sections: 0,
            gigablocks: 0,
            blocks_with_ram: 0,
        };
        let (mut last_gigablock, mut last_block) = (None, None);
        for range in map.ranges() {
            let last = Pfn::new(range.end.get() - 1);
            let (first_g, last_g) = (range.start.gigablock_number(), last.gigablock_number());
            if last_gigablock.is_none_or(|g| first_g > g + 1) {
                layout.sections += 1;
            }
            let new_first = last_gigablock.map_or(first_g, |g: u64| first_g.max(g + 1));
            layout.gigablocks += (last_g + 1).saturating_sub(new_first) as usize;
            last_gigablock = Some(last_g);
            let (first_b, last_b) = (range.start.region_number(), last.region_number());
            let new_first = last_block.map_or(first_b, |b: u64| first_b.max(b + 1));
            layout.blocks_with_ram += (last_b + 1).saturating_sub(new_first) as usize;
            last_block = Some(last_b);
        }
        layout
    }

    /// 64-bit words of storage that [`FrameTable::new`] wants.
    pub fn storage_words(&self) -> usize {
        let bytes = self.sections * size_of::<Section>()
            + self.gigablocks * (size_of::<Gigablock>() + UNITS * size_of::<Block>());
        bytes / 8 + self.blocks_with_ram * UNITS + Shelves::storage_words(self.gigablocks)
    }
}

/// The state of every frame of RAM, and the free ones among them.
pub struct FrameTable<'m> {
    sections: &'m [Section],
    pub(super) gigablocks: &'m mut [Gigablock],
    /// Those of each gigablock.
    pub(super) blocks: &'m mut [[Block; UNITS]],
    /// Those of each block with RAM in it.
    words: &'m mut [[FrameWord; UNITS]],
    pub(super) shelves: Shelves<'m>,
    /// Blocks with free frames.
    pub(super) host_blocks: BlockLists,
    /// Blocks with free hidden frames.
    pub(super) pool_blocks: BlockLists,
    pub(super) free_frames: u64,
    /// Blocks that are free as a whole.
    pub(super) free_blocks: u64,
    /// Free hidden frames of pooled and mixed blocks.
    pub(super) pool_free_frames: u64,
    /// Blocks with hidden frames of which none is used: pieces that stayed over.
    pub(super) pool_unused_blocks: u32,
    /// Regions out of the direct map.
    holes: u64,
    /// Gigablocks that had a 1G leaf at boot and have holes.
    broken_leaves: u64,
    frames: u64,
}

/// The frame words of one block, for its free frames.
pub(super) struct FrameUnits<'a>(pub(super) &'a mut [FrameWord; UNITS]);

impl Units for FrameUnits<'_> {
    const KIND: RunKind = RunKind::Host;

    fn word(&self, unit: u16) -> FrameWord {
        self.0[usize::from(unit)]
    }
    fn set_word(&mut self, unit: u16, word: FrameWord) {
        self.0[usize::from(unit)] = word;
    }
}

/// The same for its free hidden frames.
pub(super) struct PoolUnits<'a>(pub(super) &'a mut [FrameWord; UNITS]);

impl Units for PoolUnits<'_> {
    const KIND: RunKind = RunKind::Pool;

    fn word(&self, unit: u16) -> FrameWord {
        self.0[usize::from(unit)]
    }
    fn set_word(&mut self, unit: u16, word: FrameWord) {
        self.0[usize::from(unit)] = word;
    }
}

/// The block words of one gigablock.
pub(super) struct BlockUnits<'a>(pub(super) &'a mut [Block; UNITS]);

impl Units for BlockUnits<'_> {
    const KIND: RunKind = RunKind::Host;

    fn word(&self, unit: u16) -> FrameWord {
        self.0[usize::from(unit)].word
    }
    fn set_word(&mut self, unit: u16, word: FrameWord) {
        self.0[usize::from(unit)].word = word;
    }
}

/// Storage for the records is smaller than [`RecordsLayout::storage_words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageTooSmall;

impl fmt::Display for StorageTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the storage for the frame records is smaller than their layout says")
    }
}

impl core::error::Error for StorageTooSmall {}

impl<'m> FrameTable<'m> {
    /// Makes the records: all RAM of `map` is free, except frames in one of the ranges `in_use` (in any order), which are
    /// [`FrameState::Reserved`]. The contents of `storage` do not matter.
    ///
    /// # Errors
    /// When `storage` is shorter than the layout says.
    pub fn new(
        map: &MemoryMap,
        in_use: &[FrameRange],
        storage: &'m mut [u64],
    ) -> Result<Self, StorageTooSmall> {
        let layout = RecordsLayout::new(map);
        if storage.len() < layout.storage_words() {
            return Err(StorageTooSmall);
        }
        let (sections, rest) = take::<Section>(storage, layout.sections);
        let (gigablocks, rest) = take::<Gigablock>(rest, layout.gigablocks);
        let (blocks, rest) = take::<[Block; UNITS]>(rest, layout.gigablocks);
        let (words, rest) = take::<[FrameWord; UNITS]>(rest, layout.blocks_with_ram);
        fill_sections(map, sections, gigablocks);
        let mut table = Self {
            sections,
            gigablocks,
            blocks,
            words,
            shelves: Shelves::new(rest, layout.gigablocks),
            host_blocks: BlockLists::EMPTY,
            pool_blocks: BlockLists::EMPTY,
            free_frames: 0,
            free_blocks: 0,
            pool_free_frames: 0,
            pool_unused_blocks: 0,
            holes: 0,
            broken_leaves: 0,
            frames: map.frames(),
        };
        table.fill_blocks(map, in_use);
        Ok(table)
    }

    fn fill_blocks(&mut self, map: &MemoryMap, in_use: &[FrameRange]) {
        // All of them first: releasing a block looks at its neighbours, on either side.
        self.blocks.as_flattened_mut().fill(Block {
            word: FrameWord::new(FrameState::Absent),
            words: NONE,
            host: Links::NONE,
            pool: Links::NONE,
            host_runs: Buddy::EMPTY,
            pool_runs: Buddy::EMPTY,
            hidden_frames: 0,
            padding: 0,
        });
        let ranges = map.ranges();
        let mut next_words = 0;
        for position in 0..self.blocks.len() * UNITS {
            let index = BlockIndex(position as u32);
            let start = self.block_pfn(index);
            let span = FrameRange {
                start,
                end: start.add(UNITS as u64),
            };
            // Ranges ascend and are disjoint: skip those that end before the block.
            let nearby = &ranges[ranges.partition_point(|range| range.end <= start)..];
            let ram: u64 = nearby
                .iter()
                .take_while(|range| range.start < span.end)
                .map(|range| range.intersection(&span).frames())
                .sum();
            if ram == 0 {
                continue;
            }
            self.block_mut(index).words = next_words;
            next_words += 1;
            let touched = |used: &&FrameRange| used.intersection(&span).frames() > 0;
            if ram < UNITS as u64 {
                self.fill_mixed(index, nearby, in_use);
            } else if let Some(used) = in_use.iter().find(touched) {
                if used.intersection(&span).frames() == UNITS as u64 {
                    self.block_mut(index).word = FrameWord::new(FrameState::Reserved);
                } else {
                    self.fill_mixed(index, nearby, in_use);
                }
            } else {
                self.block_mut(index).word = FrameWord::new(FrameState::Tail);
                self.release_block_run(index, 0);
            }
        }
    }

    /// Sets up a block of which only some frames are free.
    fn fill_mixed(&mut self, index: BlockIndex, ram: &[FrameRange], in_use: &[FrameRange]) {
        let start = self.block_pfn(index);
        self.block_mut(index).word = FrameWord::new(FrameState::Mixed);
        let words = self.words_of(index);
        for (unit, word) in words.iter_mut().enumerate() {
            let pfn = start.add(unit as u64);
            let is_ram = ram
                .iter()
                .take_while(|range| range.start <= pfn)
                .any(|range| range.contains(pfn));
            let used = in_use.iter().any(|range| range.contains(pfn));
            *word = FrameWord::new(match (is_ram, used) {
                (false, _) => FrameState::Absent,
                (true, true) => FrameState::Reserved,
                (true, false) => FrameState::Tail,
            });
        }
        let free = self.change_runs(RunKind::Host, index, |words, runs| {
            for unit in 0..UNITS as u16 {
                // Runs that are already free have heads marked `Free`; this one is still a lone `Tail`.
                if words[usize::from(unit)] == FrameWord::TAIL {
                    runs.release(&mut FrameUnits(words), unit, 0);
                }
            }
            runs.free_units()
        });
        self.free_frames += u64::from(free);
    }

    /// Frames of RAM.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames that nobody has.
    pub fn free_frames(&self) -> u64 {
        self.free_frames
    }

    /// Aligned 2 MiB blocks that are free as a whole: what regions can be carved from.
    pub fn free_regions(&self) -> u64 {
        self.free_blocks
    }

    /// What a frame is. A frame inside a larger extent has the state of that extent; a private frame its own guest address.
    pub fn state(&self, pfn: Pfn) -> FrameState {
        let Some(index) = self.block_of(pfn) else {
            return FrameState::Absent;
        };
        let (head, state) = match self.block(index).word.state() {
            FrameState::Mixed | FrameState::Pooled => {
                let words = &self.words[self.block(index).words as usize];
                let unit = (pfn.get() % UNITS as u64) as u16;
                let (head, state) = run_state(unit, |unit| words[usize::from(unit)], 0);
                (self.block_pfn(index).add(u64::from(head)), state)
            }
            FrameState::Tail => {
                let blocks = &self.blocks[index.gigablock().position()];
                let block = |unit: u16| blocks[usize::from(unit)].word;
                let (head, state) = run_state(index.unit(), block, REGION_ORDER);
                let first = self.gigablock_pfn(index.gigablock());
                (first.add(u64::from(head) << REGION_ORDER), state)
            }
            state => (self.block_pfn(index), state),
        };
        match state {
            FrameState::Private { owner, gfn, order } => FrameState::Private {
                owner,
                gfn: Gfn::new(gfn.get() + pfn.get() - head.get()),
                order,
            },
            state => state,
        }
    }

    /// Whether the frames of the 2 MiB block around a frame have states of their own. If not, what holds for one holds for all of them (a
    /// guest's region counts its guest addresses up).
    pub fn frames_differ(&self, pfn: Pfn) -> bool {
        self.block_of(pfn).is_some_and(|index| {
            matches!(
                self.block(index).word.state(),
                FrameState::Mixed | FrameState::Pooled
            )
        })
    }

    /// The word at the head of an extent: the block's own from 2 MiB on, that of its first frame below.
    pub(super) fn head_mut(&mut self, pfn: Pfn, order: u8) -> &mut FrameWord {
        let index = self.known_block(pfn);
        if order >= REGION_ORDER {
            &mut self.block_mut(index).word
        } else {
            let words = self.words_of(index);
            &mut words[(pfn.get() % UNITS as u64) as usize]
        }
    }

    /// The word at the head of an extent.
    pub(super) fn head(&self, pfn: Pfn, order: u8) -> FrameWord {
        let block = self.block(self.known_block(pfn));
        if order >= REGION_ORDER {
            block.word
        } else {
            self.words[block.words as usize][(pfn.get() % UNITS as u64) as usize]
        }
    }

    /// The block of a frame that belongs to an extent.
    pub(super) fn known_block(&self, pfn: Pfn) -> BlockIndex {
        match self.block_of(pfn) {
            Some(index) => index,
            None => panic!("broken invariant: {} is no RAM", pfn.hpa()),
        }
    }

    /// Replaces the word of a single frame in a mixed block.
    pub(crate) fn set_frame(&mut self, pfn: Pfn, state: FrameState) {
        if let Some(index) = self.block_of(pfn) {
            let words = self.words_of(index);
            words[(pfn.get() % UNITS as u64) as usize] = FrameWord::new(state);
        }
    }

    /// The record of the block that holds a frame.
    pub(crate) fn block_of(&self, pfn: Pfn) -> Option<BlockIndex> {
        let gigablock = self.gigablock_of(pfn)?;
        Some(BlockIndex(
            gigablock.0 * UNITS as u32 + (pfn.region_number() % UNITS as u64) as u32,
        ))
    }

    /// The record of the gigablock that holds a frame.
    pub(crate) fn gigablock_of(&self, pfn: Pfn) -> Option<GigablockIndex> {
        let number = pfn.gigablock_number();
        let section = self.sections[..self.sections.partition_point(|s| s.first <= number)].last()?;
        let offset = number - section.first;
        (offset < u64::from(section.count)).then(|| GigablockIndex(section.index + offset as u32))
    }

    /// The first frame of a block.
    pub(crate) fn block_pfn(&self, index: BlockIndex) -> Pfn {
        let number = self.gigablocks[index.gigablock().0 as usize].number;
        Pfn::new((number << GIGABLOCK_ORDER) + (u64::from(index.unit()) << REGION_ORDER))
    }

    pub(super) fn block(&self, index: BlockIndex) -> &Block {
        &self.blocks[index.gigablock().position()][usize::from(index.unit())]
    }

    pub(super) fn block_mut(&mut self, index: BlockIndex) -> &mut Block {
        &mut self.blocks[index.gigablock().position()][usize::from(index.unit())]
    }

    /// A gigablock's record.
    pub(crate) fn gigablock(&self, index: GigablockIndex) -> &Gigablock {
        &self.gigablocks[index.position()]
    }

    /// A gigablock's record.
    pub(super) fn gigablock_mut(&mut self, index: GigablockIndex) -> &mut Gigablock {
        &mut self.gigablocks[index.position()]
    }

    /// Regions out of the direct map, and gigablocks that have lost the 1G leaf of the boot to them.
    pub fn holes(&self) -> (u64, u64) {
        (self.holes, self.broken_leaves)
    }

    /// Counts regions of a gigablock that have left the direct map, or come back.
    pub(crate) fn add_holes(&mut self, index: GigablockIndex, change: i16) {
        let gigablock = self.gigablock_mut(index);
        let before = gigablock.holes;
        let after = before.saturating_add_signed(change);
        gigablock.holes = after;
        let whole_at_boot = gigablock.whole_at_boot();
        self.holes = self.holes.saturating_add_signed(i64::from(change));
        if whole_at_boot {
            self.broken_leaves += u64::from(after > 0);
            self.broken_leaves -= u64::from(before > 0);
        }
        self.reshelve(index);
    }

    /// Says that the direct map has one 1G leaf here at boot.
    pub(crate) fn set_whole_at_boot(&mut self, index: GigablockIndex) {
        self.gigablock_mut(index).whole_at_boot = 1;
        self.reshelve(index);
    }

    /// Parks the level-2 table of a gigablock that is all holes, or takes it back.
    pub(crate) fn set_parked(&mut self, index: GigablockIndex, table: Option<Pfn>) {
        self.gigablock_mut(index).parked = table.map_or(0, |pfn| pfn.get() + 1);
    }

    /// The words of a block with RAM in it, and its free runs of a kind.
    pub(super) fn runs_of(
        &mut self,
        index: BlockIndex,
        kind: RunKind,
    ) -> (&mut [FrameWord; UNITS], &mut Buddy) {
        let block = &mut self.blocks[index.gigablock().position()][usize::from(index.unit())];
        let words = &mut self.words[block.words as usize];
        match kind {
            RunKind::Host => (words, &mut block.host_runs),
            RunKind::Pool => (words, &mut block.pool_runs),
        }
    }

    /// The words of a block with RAM in it.
    pub(super) fn words_of(&mut self, index: BlockIndex) -> &mut [FrameWord; UNITS] {
        &mut self.words[self.blocks[index.gigablock().position()][usize::from(index.unit())].words as usize]
    }

    /// The blocks and the buddy of a gigablock.
    pub(super) fn blocks_of(&mut self, index: GigablockIndex) -> (&mut [Block; UNITS], &mut Buddy) {
        (
            &mut self.blocks[index.position()],
            &mut self.gigablocks[index.position()].buddy,
        )
    }

    /// Visits the state of each extent, and of each frame or block that is none, with its first frame, ascending.
    pub(crate) fn each_extent(&self, mut visit: impl FnMut(Pfn, FrameState)) {
        for (index, block) in (0..).map(BlockIndex).zip(self.blocks.as_flattened()) {
            let start = self.block_pfn(index);
            match block.word.state() {
                FrameState::Mixed | FrameState::Pooled => {
                    for (frame, word) in (0..).zip(&self.words[block.words as usize]) {
                        visit(start.add(frame), word.state());
                    }
                }
                // A run of blocks counts in blocks.
                FrameState::Free { order } => {
                    let order = order + REGION_ORDER;
                    visit(start, FrameState::Free { order });
                }
                state => visit(start, state),
            }
        }
    }

    /// Visits each block with hidden frames of its own: how many are used, and whether all of the block is hidden.
    pub(crate) fn each_shared_block(&self, mut visit: impl FnMut(u16, bool)) {
        for block in self
            .blocks
            .as_flattened()
            .iter()
            .filter(|block| block.hidden_frames > 0)
        {
            let pooled = block.word.state() == FrameState::Pooled;
            visit(block.hidden_frames - block.pool_runs.free_units(), pooled);
        }
    }

    /// Every gigablock with RAM, ascending.
    pub(crate) fn gigablock_indices(&self) -> impl DoubleEndedIterator<Item = GigablockIndex> + use<> {
        (0..self.gigablocks.len() as u32).map(GigablockIndex)
    }

    /// The first frame of a gigablock.
    pub(crate) fn gigablock_pfn(&self, index: GigablockIndex) -> Pfn {
        Pfn::new(self.gigablocks[index.0 as usize].number << GIGABLOCK_ORDER)
    }

    /// The order of the largest free run of blocks in a gigablock, in blocks.
    pub(crate) fn largest_run_in(&self, index: GigablockIndex) -> Option<u8> {
        self.gigablock(index).buddy.largest()
    }
}

impl Gigablock {
    /// Whether the direct map had one 1G leaf here at boot.
    pub(crate) fn whole_at_boot(&self) -> bool {
        self.whole_at_boot != 0
    }

    /// Regions of it that are out of the direct map.
    pub(crate) fn holes(&self) -> u16 {
        self.holes
    }

    /// The level-2 table kept for the restore while the gigablock is all holes.
    pub(crate) fn parked(&self) -> Option<Pfn> {
        self.parked.checked_sub(1).map(Pfn::new)
    }
}

/// The state that holds for `unit`, and the unit whose word says so: its own, or the head of the run that starts before it. `scale` is
/// the log2 of frames in a unit.
fn run_state(unit: u16, word: impl Fn(u16) -> FrameWord, scale: u8) -> (u16, FrameState) {
    let own = word(unit);
    if own != FrameWord::TAIL {
        return (unit, own.state());
    }
    for order in 1..=TOP_ORDER {
        let first = unit & !((1 << order) - 1);
        // On the way to the head there are tails only, so they are told by their word alone.
        let head = word(first);
        if head == FrameWord::TAIL {
            continue;
        }
        let head = head.state();
        let reaches = match head {
            FrameState::Free { order: run } | FrameState::PoolFree { order: run } => run >= order,
            _ => head.extent_order().is_some_and(|run| run >= order + scale),
        };
        if reaches {
            return (first, head);
        }
    }
    (unit, FrameState::Tail)
}

/// Splits `count` values of type `T` off the front of the storage.
fn take<T: bytemuck::Pod>(storage: &mut [u64], count: usize) -> (&mut [T], &mut [u64]) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
    let (front, rest) = storage.split_at_mut(count * size_of::<T>() / 8);
    (bytemuck::cast_slice_mut(front), rest)
}

fn fill_sections(map: &MemoryMap, sections: &mut [Section], gigablocks: &mut [Gigablock]) {
    let (mut section, mut count) = (0, 0);
    for range in map.ranges() {
        let last = Pfn::new(range.end.get() - 1).gigablock_number();
        for number in range.start.gigablock_number()..=last {
            if count > 0 && gigablocks[count - 1].number == number {
                continue;
            }
            gigablocks[count] = Gigablock {
                number,
                parked: 0,
                next: NONE,
                previous: NONE,
                buddy: Buddy::EMPTY,
                holes: 0,
                shelf: Shelf::NONE,
                whole_at_boot: 0,
                padding: 0,
            };
            if count == 0 || gigablocks[count - 1].number + 1 != number {
                sections[section] = Section {
                    first: number,
                    count: 0,
                    index: count as u32,
                };
                section += 1;
            }
            sections[section - 1].count += 1;
            count += 1;
        }
    }
}
