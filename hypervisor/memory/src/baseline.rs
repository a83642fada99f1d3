//! How others do it: private memory page by page, for comparison in the benchmark. Nothing of the product uses it.
//!
//! What Linux' `memfd_secret` does at each first touch (`mm/secretmem.c`, 6.x and 7.x): take a 4K frame in the buddy's own order,
//! zero it, split the large leaf of the direct map around it if it has one, with a flush of everything for each split, clear
//! its entry, flush again, map it. At the end the entries come back one by one, without a flush, and nothing is ever merged. The
//! code is as lean as ours elsewhere: same allocator, same tables, same flush.

use crate::address::{Gfn, Hva, Level, PAGE_SIZE, Pfn};
use crate::direct_map::DirectMap;
use crate::frame::allocator::{HostFrames, OutOfMemory};
use crate::frame::records::FrameTable;
use crate::frame::state::{FrameState, GuestId};
use crate::frame::table_frame::{TableFrame, TableList};
use crate::host::HostMemory;
use crate::layout::direct;
use crate::machine::{Machine, TableAt, WindowSpan};
use crate::paging::edit::{Found, Slot, find};
use crate::paging::format::{Attributes, Decoded, Format, LongMode};
use crate::stats::Stats;

/// Private memory made of single frames, in AMD's nested tables.
#[derive(Debug)]
#[must_use = "paged memory comes back only through its teardown"]
pub struct PagedMemory {
    id: GuestId,
    root: TableFrame,
    pages: u64,
}

impl PagedMemory {
    /// The frames, in the order of their guest addresses.
    pub fn frames<M: Machine>(&self, machine: &M) -> impl Iterator<Item = Pfn> {
        (0..self.pages).filter_map(|gfn| {
            match slot_of(machine, self.root.pfn(), Gfn::new(gfn))?.decode::<LongMode>() {
                Decoded::Leaf(pfn, _) => Some(pfn),
                _ => None,
            }
        })
    }
}

impl HostMemory<'_> {
    /// From now on no table of the direct map is merged away, as in the proposal for Linux of 2023 to hide whole 2M blocks (`__GFP_UNMAPPED`): what is split
    /// stays split. Everything else goes on as ever.
    pub fn stop_merging(&mut self) {
        self.direct_map.merging = false;
    }

    /// Hides `pages` frames for a guest, one at a time, and maps them. One long piece of work: for measurements only.
    ///
    /// # Errors
    /// When memory runs out; then all frames come back, though not the leaves that were split.
    pub fn launch_paged<M: Machine>(
        &mut self,
        machine: &M,
        id: GuestId,
        pages: u64,
    ) -> Result<PagedMemory, OutOfMemory> {
        let mut root = self.frames.reserve_tables(machine, 1)?;
        let Some(root) = root.pop(&self.frames) else {
            return Err(self.frames.out_of_memory(1));
        };
        let mut memory = PagedMemory { id, root, pages: 0 };
        while memory.pages < pages {
            if let Err(error) = self.add_page(machine, &mut memory) {
                self.teardown_paged(machine, memory);
                return Err(error);
            }
        }
        Ok(memory)
    }

    fn add_page<M: Machine>(&mut self, machine: &M, memory: &mut PagedMemory) -> Result<(), OutOfMemory> {
        let gfn = Gfn::new(memory.pages);
        let start = machine.now();
        let pfn = self.frames.allocate(0)?.into_pfn();
        let taken = machine.now();
        zero(machine, pfn);
        self.stats.bytes_scrubbed += PAGE_SIZE;
        let zeroed = machine.now();
        let hidden = self
            .direct_map
            .hide_page(machine, &mut self.frames, &mut self.stats, pfn);
        let done = machine.now();
        self.costs.hide += taken.wrapping_sub(start) + done.wrapping_sub(zeroed);
        self.costs.scrub += zeroed.wrapping_sub(taken);
        let mapped = hidden.and_then(|()| {
            self.frames.set_frame(
                pfn,
                FrameState::Private {
                    owner: memory.id,
                    gfn,
                    order: 0,
                },
            );
            match make_slot(machine, &mut self.frames, memory.root.pfn(), gfn) {
                Ok(slot) => Ok(slot.fill::<LongMode>(pfn, Attributes::GUEST_RAM)),
                Err(error) => {
                    self.direct_map.restore_page(machine, pfn);
                    Err(error)
                }
            }
        });
        self.costs.map += machine.now().wrapping_sub(done);
        match mapped {
            Ok(true) => {
                memory.pages += 1;
                Ok(())
            }
            Ok(false) => panic!("broken invariant: guest frame {gfn} of new paged memory is mapped already"),
            Err(error) => {
                self.frames.free(HostFrames::from_pfn(pfn, 0));
                Err(error)
            }
        }
    }

    /// Gives the frames back, one at a time. Whoever used the second stage must be flushed.
    pub fn teardown_paged<M: Machine>(&mut self, machine: &M, memory: PagedMemory) {
        for gfn in (0..memory.pages).map(Gfn::new) {
            let start = machine.now();
            let Some(slot) = slot_of(machine, memory.root.pfn(), gfn) else {
                continue;
            };
            let Decoded::Leaf(pfn, _) = slot.decode::<LongMode>() else {
                continue;
            };
            slot.clear();
            self.direct_map.restore_page(machine, pfn);
            let restored = machine.now();
            zero(machine, pfn);
            self.stats.bytes_scrubbed += PAGE_SIZE;
            let zeroed = machine.now();
            self.frames.free(HostFrames::from_pfn(pfn, 0));
            self.costs.restore += restored.wrapping_sub(start) + machine.now().wrapping_sub(zeroed);
            self.costs.scrub += zeroed.wrapping_sub(restored);
        }
        let start = machine.now();
        free_tables(machine, &mut self.frames, memory.root.pfn(), Level::L4);
        self.costs.restore += machine.now().wrapping_sub(start);
    }
}

impl DirectMap {
    /// Takes one frame out of the direct map at once, splitting what is in the way, with a flush for each split and one for the frame.
    fn hide_page<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        pfn: Pfn,
    ) -> Result<(), OutOfMemory> {
        let at = page_address(pfn);
        for level in [Level::L3, Level::L2] {
            let Found::Slot(slot) = find::<LongMode, M>(machine, self.root, at, level) else {
                continue;
            };
            let Decoded::Leaf(start, attributes) = slot.decode::<LongMode>() else {
                continue;
            };
            let table = frames.reserve_tables(machine, 1)?.pop(frames);
            let split = table.and_then(|table| slot.split::<LongMode>(frames, (start, attributes), table));
            assert!(
                split.is_some(),
                "broken invariant: the leaf around {} cannot be split",
                pfn.hpa()
            );
            match level {
                Level::L3 => stats.level3_splits += 1,
                _ => stats.level2_splits += 1,
            }
            flush(machine, stats);
        }
        let Found::Slot(slot) = find::<LongMode, M>(machine, self.root, at, Level::L1) else {
            panic!(
                "broken invariant: free frame {} is not in the direct map",
                pfn.hpa()
            )
        };
        slot.clear();
        flush(machine, stats);
        Ok(())
    }

    /// Puts one frame back.
    fn restore_page<M: Machine>(&mut self, machine: &M, pfn: Pfn) {
        let filled = match find::<LongMode, M>(machine, self.root, page_address(pfn), Level::L1) {
            Found::Slot(slot) => slot.fill::<LongMode>(pfn, Attributes::DATA),
            Found::Leaf | Found::Absent => false,
        };
        assert!(filled, "broken invariant: the hole at {} is not empty", pfn.hpa());
    }
}

/// One shootdown, counted. The lock of the memory subsystem is held meanwhile, as Linux holds its own.
fn flush<M: Machine>(machine: &M, stats: &mut Stats) {
    let cpu = machine.cpu();
    cpu.wait(machine, cpu.request()).count(stats);
    stats.flushes += 1;
}

fn page_address(pfn: Pfn) -> Hva {
    match direct(pfn.hpa()) {
        Some(at) => at,
        None => panic!("broken invariant: {} is beyond the direct map", pfn.hpa()),
    }
}

/// Zeroes a frame that is ours alone, through the direct map, as Linux does.
fn zero<M: Machine>(machine: &M, pfn: Pfn) {
    machine.zero(WindowSpan::new(page_address(pfn), PAGE_SIZE as usize));
}

fn slot_of<M: Machine>(machine: &M, root: Pfn, gfn: Gfn) -> Option<Slot<'_, M>> {
    match find::<LongMode, M>(machine, root, Hva::new(gfn.gpa().get()), Level::L1) {
        Found::Slot(slot) => Some(slot),
        Found::Leaf | Found::Absent => None,
    }
}

/// The level-1 entry for a guest frame; tables on the way are made.
fn make_slot<'a, M: Machine>(
    machine: &'a M,
    frames: &mut FrameTable<'_>,
    root: Pfn,
    gfn: Gfn,
) -> Result<Slot<'a, M>, OutOfMemory> {
    let at = Hva::new(gfn.gpa().get());
    for level in [Level::L4, Level::L3, Level::L2] {
        if let Found::Slot(slot) = find::<LongMode, M>(machine, root, at, level)
            && matches!(slot.decode::<LongMode>(), Decoded::Absent)
            && let Some(table) = frames.reserve_tables(machine, 1)?.pop(frames)
        {
            slot.link::<LongMode>(table.link(frames, 0));
        }
    }
    slot_of(machine, root, gfn).ok_or_else(|| frames.out_of_memory(1))
}

/// Frees a tree of tables whose leaves are gone.
fn free_tables<M: Machine>(machine: &M, frames: &mut FrameTable<'_>, table: Pfn, level: Level) {
    if let Some(below) = level.below() {
        for entry in machine.table(TableAt::new(table)) {
            let entry = entry.load(core::sync::atomic::Ordering::Relaxed);
            if let Decoded::Table(lower) = LongMode::decode(level, entry) {
                free_tables(machine, frames, lower, below);
            }
        }
    }
    frames.free_table(TableFrame::unlinked(table));
}

impl FrameTable<'_> {
    /// Ages free memory: takes up to `count` single frames, keeps for good those of which `keep` says so, the unmovable neighbours,
    /// and frees the others. What is free afterwards is scattered among what is not. Returns how many were kept.
    pub fn age(&mut self, count: u64, mut keep: impl FnMut() -> bool) -> u64 {
        let (mut kept, mut others) = (0, TableList::new());
        for _ in 0..count {
            let Ok(frame) = self.allocate(0) else { break };
            let pfn = frame.into_pfn();
            if keep() {
                kept += 1;
            } else {
                others.push(self, TableFrame::unlinked(pfn));
            }
        }
        while let Some(frame) = others.pop(self) {
            self.free_table(frame);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, TICK};
    use crate::stats::Costs;

    /// By the looks at the clock, each of which takes a tick: four pieces of work for each page of a launch, of which two count as hiding; the
    /// same for a teardown, and its tables at the end.
    #[test]
    fn the_time_of_each_piece_of_work_is_counted_once() {
        const PAGES: u64 = 3;
        let (machine, mut memory, _) = Fake::boot();
        let id = GuestId::new(1).unwrap();
        let paged = memory.launch_paged(machine, id, PAGES).unwrap();
        let launch = Costs {
            hide: 2 * PAGES * TICK,
            scrub: PAGES * TICK,
            map: PAGES * TICK,
            restore: 0,
        };
        assert_eq!(memory.costs(), launch);
        assert_eq!(memory.stats().bytes_scrubbed, PAGES * PAGE_SIZE);
        memory.teardown_paged(machine, paged);
        let all = Costs {
            scrub: 2 * PAGES * TICK,
            restore: 2 * PAGES * TICK + TICK,
            ..launch
        };
        assert_eq!(memory.costs(), all);
        assert_eq!(memory.stats().bytes_scrubbed, 2 * PAGES * PAGE_SIZE);
    }
}
