//! Merging, from every state that 512 leaves can be in.

use memory::address::{Level, Pfn, REGION_ORDER};
use memory::testing::Mark;

use crate::steps::{equal, must, stats};
use crate::{Failed, Outcome, Place};

/// Leaves of which one is changed: the first, a middle one, the last.
const PLACES: [u64; 3] = [0, 200, 511];

pub(crate) fn from_every_start<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let Ok(held) = place.with(|memory, _| memory.frames.allocate(REGION_ORDER)) else {
        return Ok(Outcome::Skipped("no region is free"));
    };
    let region = held.pfn();
    let size = place.leaf(region).unwrap_or(0);
    if size == Level::L3.bytes() {
        split(place, region, Level::L3)?;
    }
    equal(
        "bytes of the leaf to split",
        place.leaf(region).unwrap_or(0),
        Level::L2.bytes(),
    )?;
    for mark in Mark::ALL {
        for leaf in PLACES {
            let page = region.add(leaf);
            split(place, region, Level::L2)?;
            turn_over(place, page, mark)?;
            try_merge(place, region, Level::L2, mark, page)?;
        }
    }
    if size == Level::L3.bytes() {
        for mark in Mark::ALL {
            turn_over(place, region, mark)?;
            try_merge(place, region, Level::L3, mark, region)?;
            split(place, region, Level::L3)?;
        }
        // A table of smaller leaves is in the way of a 1G leaf.
        split(place, region, Level::L2)?;
        let before = stats(place).merges_blocked.smaller_leaves;
        must(
            "a 1G leaf is merged over smaller ones",
            !merge(place, region, Level::L3),
        )?;
        equal(
            "merges blocked by smaller leaves",
            stats(place).merges_blocked.smaller_leaves - before,
            1,
        )?;
        must("2M of equal leaves do not merge", merge(place, region, Level::L2))?;
        must("1G of equal leaves do not merge", merge(place, region, Level::L3))?;
    }
    equal(
        "bytes of the leaf at the end",
        place.leaf(region).unwrap_or(0),
        size,
    )?;
    place.with(|memory, _| memory.frames.free(held));
    Ok(Outcome::Held)
}

/// Merges leaves of which one is marked: where that forbids it, only when the mark is taken back. `level` is that of the leaf to come.
fn try_merge<P: Place>(place: &mut P, region: Pfn, level: Level, mark: Mark, at: Pfn) -> Result<(), Failed> {
    let before = stats(place).merges_blocked.attributes;
    let merged = merge(place, region, level);
    equal(
        "whether leaves that differ are merged",
        merged.into(),
        mark.merges().into(),
    )?;
    if !merged {
        equal(
            "merges blocked by attributes",
            stats(place).merges_blocked.attributes - before,
            1,
        )?;
        let small = if level == Level::L3 { Level::L2 } else { Level::L1 };
        equal(
            "bytes of the leaf that stays",
            place.leaf(at).unwrap_or(0),
            small.bytes(),
        )?;
        turn_over(place, at, mark)?;
        must(
            "leaves that agree again do not merge",
            merge(place, region, level),
        )?;
    }
    equal(
        "bytes of the merged leaf",
        place.leaf(region).unwrap_or(0),
        level.bytes(),
    )
}

/// Changes one leaf.
fn turn_over<P: Place>(place: &mut P, at: Pfn, mark: Mark) -> Result<(), Failed> {
    let machine = place.machine();
    let marked = place.with(|memory, _| memory.test_mark(&machine, at, mark));
    must("a leaf is there to be changed", marked)
}

fn split<P: Place>(place: &mut P, region: Pfn, level: Level) -> Result<(), Failed> {
    let machine = place.machine();
    let done = place.with(|memory, _| memory.test_split(&machine, region, level));
    must("a leaf can be split", done.is_ok())
}

fn merge<P: Place>(place: &mut P, region: Pfn, level: Level) -> bool {
    let machine = place.machine();
    let merged = place.with(|memory, _| memory.test_merge(&machine, region, level));
    // The table that went must not be used again before a flush.
    crate::steps::drain(place);
    merged
}
