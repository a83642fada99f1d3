//! Putting extents back into the direct map, and merging what is whole again. Nothing here can fail or allocates.

use crate::address::{GIGABLOCK_ORDER, Pfn, REGION_ORDER};
use crate::frame::extent::{Clean, Extent};
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::machine::Machine;
use crate::paging::edit::Slot;
use crate::paging::format::{Attributes, Decoded, LongMode};
use crate::stats::Stats;
use crate::tlb::FlushBatch;

use super::hide::{pages, regions};
use super::{Action, DirectMap, first_level, second_level, trace, unreachable_shape};

impl DirectMap {
    /// Puts the next extents on the list, all regions that lie in one gigablock or one smaller extent, back into the direct map, merges
    /// what is whole again, and frees them. False when the list was empty.
    pub fn restore<M: Machine>(
        &mut self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        extents: &mut ExtentList<Clean>,
        batch: &mut FlushBatch,
    ) -> bool {
        let Some(first) = extents.pop(frames) else {
            return false;
        };
        if first.is_regions() {
            self.restore_regions(machine, frames, stats, (first, extents), batch);
        } else {
            self.restore_piece(machine, frames, stats, first, batch);
        }
        true
    }

    /// Restores `first` and what follows it in the same gigablock.
    fn restore_regions<M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        (first, rest): (Extent<Clean>, &mut ExtentList<Clean>),
        batch: &mut FlushBatch,
    ) {
        let (pfn, index) = (first.pfn(), first.gigablock(frames));
        let Some(slot) = self.third_level(machine, pfn) else {
            unreachable_shape(pfn)
        };
        let parked = frames.gigablock(index).parked();
        let table = match (parked, slot.decode::<LongMode>()) {
            (Some(table), _) | (None, Decoded::Table(table)) => table,
            (None, Decoded::Absent) if first.order() == GIGABLOCK_ORDER => {
                // Hidden by one entry, so back by one entry.
                fill(&slot, pfn);
                trace(machine, Action::Restore, pfn, GIGABLOCK_ORDER);
                stats.direct_map_writes += 1;
                stats.regions_restored += 512;
                frames.add_holes(index, -512);
                first.free(frames);
                return;
            }
            _ => unreachable_shape(pfn),
        };
        if parked.is_some() {
            // First of all: nothing is freed that the direct map does not show yet.
            slot.link::<LongMode>(table);
            stats.direct_map_writes += 1;
            frames.set_parked(index, None);
        }
        let mut filled = 0;
        let mut next = Some(first);
        while let Some(extent) = next {
            for region in regions(extent.pfn(), extent.order()) {
                fill(&second_level(machine, table, region), region);
                filled += 1;
            }
            trace(machine, Action::Restore, extent.pfn(), extent.order());
            extent.free(frames);
            next = rest.pop_in(frames, index);
        }
        stats.regions_restored += filled as u64;
        stats.direct_map_writes += filled as u64;
        frames.add_holes(index, -filled);
        if frames.add_canonical(table, i32::from(filled)) == Some(512)
            && frames.gigablock(index).whole_at_boot()
            && self.merging
        {
            merge(machine, frames, stats, &slot, batch, (pfn, GIGABLOCK_ORDER));
        }
    }

    /// Restores an extent below 2 MiB.
    fn restore_piece<M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        stats: &mut Stats,
        piece: Extent<Clean>,
        batch: &mut FlushBatch,
    ) {
        let (pfn, order) = (piece.pfn(), piece.order());
        let third = self.third_level(machine, pfn);
        let Some((slot, Decoded::Table(table))) = third.map(|slot| {
            let says = slot.decode::<LongMode>();
            (slot, says)
        }) else {
            unreachable_shape(pfn)
        };
        let middle = second_level(machine, table, pfn);
        let Decoded::Table(low) = middle.decode::<LongMode>() else {
            unreachable_shape(pfn)
        };
        for page in pages(pfn, order) {
            fill(&first_level(machine, low, page), page);
        }
        stats.direct_map_writes += 1 << order;
        stats.pages_restored += 1 << order;
        frames.add_hidden_frames(pfn, -(1 << order));
        trace(machine, Action::Restore, pfn, order);
        piece.free(frames);
        if frames.add_canonical(low, 1 << order) != Some(512)
            || !self.merging
            || !merge(machine, frames, stats, &middle, batch, (pfn, REGION_ORDER))
        {
            return;
        }
        let whole_at_boot = frames
            .gigablock_of(pfn)
            .is_some_and(|index| frames.gigablock(index).whole_at_boot());
        if frames.add_canonical(table, 1) == Some(512) && whole_at_boot {
            merge(machine, frames, stats, &slot, batch, (pfn, GIGABLOCK_ORDER));
        }
    }
}

/// Writes a leaf over a hole.
fn fill<M: Machine>(slot: &Slot<'_, M>, pfn: Pfn) {
    let filled = slot.fill::<LongMode>(pfn, Attributes::DATA);
    assert!(filled, "broken invariant: the hole at {} is not empty", pfn.hpa());
}

/// Merges the table below an entry, if its entries agree; whether they did. The entry covers `1 << order` frames, `pfn` among them.
pub(crate) fn merge<M: Machine>(
    machine: &M,
    frames: &mut FrameTable<'_>,
    stats: &mut Stats,
    slot: &Slot<'_, M>,
    batch: &mut FlushBatch,
    (pfn, order): (Pfn, u8),
) -> bool {
    match slot.merge::<LongMode>() {
        Ok(table) => {
            batch.push_table(frames, table);
            stats.direct_map_writes += 1;
            if order == GIGABLOCK_ORDER {
                stats.level3_collapses += 1;
            } else {
                stats.level2_collapses += 1;
            }
            let start = Pfn::new(pfn.get() & !((1 << order) - 1));
            trace(machine, Action::Merge, start, order);
            true
        }
        Err(blocked) => {
            stats.merges_blocked.count(blocked);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::frame::extent::Carved;
    use crate::host::HostMemory;
    use std::vec::Vec;

    /// Hides memory, waits for the flush, and counts it as zeroed.
    fn hidden(memory: &mut HostMemory<'_>, machine: &Fake, extents: ExtentList<Carved>) -> ExtentList<Clean> {
        let posted = memory.hide(machine, extents).unwrap();
        let receipt = posted.wait(machine);
        let mut dirty = memory.complete(machine, receipt).take(&mut memory.frames);
        let mut clean = ExtentList::new();
        while let Some(extent) = dirty.pop(&memory.frames) {
            clean.push(&mut memory.frames, extent.scrubbed());
        }
        clean
    }

    /// A merge is noted with all of what it merges, wherever in it the last piece lay.
    #[test]
    fn a_merge_is_noted_with_its_whole_extent() {
        let (machine, mut memory, _) = Fake::boot();
        // A block that is partly free, and not the first of its gigablock.
        while memory.frames.allocate(0).unwrap().pfn().region_number() == 0 {}
        let pieces = memory.frames.carve_pieces(1).unwrap();
        let (page, _) = pieces.extents(&memory.frames).next().unwrap();
        let block = Pfn::new(page.region_number() << REGION_ORDER);
        assert!(page != block && block != Pfn::new(0));
        let mut clean = hidden(&mut memory, machine, pieces);
        machine.noted.borrow_mut().clear();
        memory.restore_all(machine, &mut clean);
        let noted = machine.noted.take();
        let merges = noted.iter().filter(|event| event.action == Action::Merge);
        let merges: Vec<(u64, u64)> = merges.map(|event| (event.address, event.bytes)).collect();
        let mut expected = std::vec![(block.hpa().get(), 2 << 20)];
        // Miri's machine has no leaf of 1G.
        if memory.stats.level3_collapses > 0 {
            expected.push((0, 1 << 30));
        }
        assert_eq!(merges, expected);
    }

    /// The table that its entry stands in is gone: the region must not come back inside a leaf of 1G.
    #[test]
    #[should_panic(expected = "changed behind the frame records")]
    fn a_region_does_not_come_back_where_a_gigablock_is_missing() {
        let (machine, mut memory, _) = Fake::boot();
        let carved = memory.frames.carve(1).unwrap();
        let mut clean = hidden(&mut memory, machine, carved);
        let (pfn, _) = clean.extents(&memory.frames).next().unwrap();
        memory.direct_map.third_level(machine, pfn).unwrap().clear();
        memory.restore_all(machine, &mut clean);
    }
}
