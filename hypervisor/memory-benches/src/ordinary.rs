//! Host allocations of ordinary memory: the same sequence, counted with regions in use, without any, and in a program that has no
//! code for regions.

use std::hint::black_box;

use memory::address::REGION_ORDER;
use memory::frame::FrameTable;

use crate::counting::counted;

/// Pairs of allocating and freeing that are counted at once.
const TIMES: u64 = 100;

/// Counts allocating and freeing one extent of 4 KiB and of 2 MiB, over and over, and a batch of 4K frames that breaks up blocks.
pub fn count(label: &str, frames: &mut FrameTable<'_>) {
    // The same state each time, whatever was allocated before: no block is partly free but the one that 100 frames come from.
    let mut before = Vec::new();
    while frames.free_frames() > frames.free_regions() * 512 {
        before.extend(frames.allocate(0));
    }
    before.extend((0..100).filter_map(|_| frames.allocate(0).ok()));
    for (name, order) in [("4K", 0), ("64K", 4), ("2M", REGION_ORDER)] {
        counted(&format!("ordinary/{label}/{name}"), TIMES, || {
            if let Ok(extent) = frames.allocate(black_box(order)) {
                frames.free(extent);
            }
        });
    }
    let mut batch = Vec::with_capacity(2000);
    counted(&format!("ordinary/{label}/4K-allocate"), 2000, || {
        batch.extend(frames.allocate(black_box(0)));
    });
    counted(&format!("ordinary/{label}/4K-free"), 2000, || {
        batch.pop().into_iter().for_each(|extent| frames.free(extent));
    });
    before.into_iter().for_each(|extent| frames.free(extent));
}
