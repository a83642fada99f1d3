//! Extents, the cache, the magazine.

use memory::address::{GIGABLOCK_ORDER, PAGE_SIZE, Pfn, REGION_ORDER};
use memory::frame::extent::{Clean, Extent};
use memory::region::{Magazine, Watermarks};

use crate::steps::{State, allocate, equal, free, hidden, must, stats, take, zeroed};
use crate::{Failed, Outcome, Place};

/// Orders 0 to 12, three of each.
const ORDERS: usize = 13;
const HELD: usize = 3 * ORDERS;

pub(crate) fn side_by_side<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let mut held: [Option<Extent<Clean>>; HELD] = [const { None }; HELD];
    for (number, slot) in held.iter_mut().enumerate() {
        let order = (number % ORDERS) as u8;
        let extent = take(place, order)?;
        equal("order of an extent", extent.order().into(), order.into())?;
        must(
            "an extent is aligned to its size",
            extent.pfn().is_aligned(extent.frames()),
        )?;
        hidden(place, extent.pfn(), order)?;
        zeroed(place, &extent)?;
        *slot = Some(extent);
    }
    for (number, one) in held.iter().enumerate() {
        for other in &held[number + 1..] {
            if let (Some(one), Some(other)) = (one, other) {
                let apart = end(one) <= other.pfn() || end(other) <= one.pfn();
                must("extents do not overlap", apart)?;
            }
        }
    }
    for step in [3, 2, 1] {
        for slot in held.iter_mut().step_by(step) {
            if let Some(extent) = slot.take() {
                free(place, extent);
            }
        }
    }
    Ok(Outcome::Held)
}

fn end(extent: &Extent<Clean>) -> Pfn {
    extent.pfn().add(extent.frames())
}

pub(crate) fn nothing_is_left<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let machine = place.machine();
    for order in [0, 4, REGION_ORDER, REGION_ORDER + 1] {
        // Somebody else keeps the block, so that the same frames come again.
        let keep = take(place, 0)?;
        let mut used = take(place, order)?.used();
        let pfn = used.pfn();
        let last = used.frames() * PAGE_SIZE - 8;
        for offset in [0, (last / 2) & !7, last] {
            let written = place.with(|_, windows| used.write(&machine, windows, offset, b"a secret"));
            must("an extent can be written by its owner", written.is_ok())?;
            let mut back = [0; 8];
            let read = place.with(|_, windows| used.read(&machine, windows, offset, &mut back));
            must(
                "what was written is read back",
                read.is_ok() && back == *b"a secret",
            )?;
        }
        let past = place.with(|_, windows| used.write(&machine, windows, last + 1, b"a secret"));
        must("a write past the end is refused", past.is_err())?;
        place.with(|memory, windows| memory.free_private(&machine, windows, used));
        let next = take(place, order)?;
        if order < REGION_ORDER {
            equal("frame that the next user gets", next.pfn().get(), pfn.get())?;
        }
        zeroed(place, &next)?;
        free(place, next);
        free(place, keep);
    }
    Ok(Outcome::Held)
}

pub(crate) fn gigablock<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let before = stats(place);
    let Ok(extent) = allocate(place, GIGABLOCK_ORDER) else {
        return Ok(Outcome::Skipped("no gigablock is free as a whole"));
    };
    hidden(place, extent.pfn(), GIGABLOCK_ORDER)?;
    let now = stats(place);
    let whole = now.gigablocks_hidden - before.gigablocks_hidden;
    if whole == 1 {
        equal(
            "entries written to hide it",
            now.direct_map_writes - before.direct_map_writes,
            1,
        )?;
        equal("1G leaves split", now.level3_splits - before.level3_splits, 0)?;
    }
    let pfn = extent.pfn();
    // Not scrubbed once more: that was done when it was hidden.
    let machine = place.machine();
    place.with(|memory, _| memory.give_back(&machine, extent));
    let written = stats(place).direct_map_writes - now.direct_map_writes;
    if whole == 1 {
        equal("entries written to restore it", written, 1)?;
        equal(
            "bytes of the leaf that is back",
            place.leaf(pfn).unwrap_or(0),
            1 << 30,
        )?;
    }
    Ok(Outcome::Held)
}

pub(crate) fn cache<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    place.with(|memory, _| memory.set_cache(6));
    let first = take(place, REGION_ORDER + 2)?;
    free(place, first);
    equal(
        "regions in the cache",
        place.with(|memory, _| memory.pool().cached_regions()),
        4,
    )?;
    let before = stats(place);
    for _ in 0..20 {
        let (small, region) = (take(place, 2)?, take(place, REGION_ORDER)?);
        hidden(place, small.pfn(), 2)?;
        hidden(place, region.pfn(), REGION_ORDER)?;
        free(place, region);
        free(place, small);
    }
    let now = stats(place);
    equal(
        "flushes while the cache had enough",
        now.flushes - before.flushes,
        0,
    )?;
    equal(
        "entries written meanwhile",
        now.direct_map_writes - before.direct_map_writes,
        0,
    )?;
    let machine = place.machine();
    let given = place.with(|memory, _| memory.shrink(&machine, 1));
    equal("regions given back when one was asked for", given, 1)?;
    place.with(|memory, _| memory.set_cache(0));
    Ok(Outcome::Held)
}

pub(crate) fn pieces<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    // All whole regions are somebody's; so is a block of which some frames are free.
    let marks = place.with(|memory, _| {
        let marks = memory.pool().watermarks();
        memory.set_watermarks(Watermarks::default());
        marks
    });
    let torn = place.with(|memory, _| memory.frames.allocate(0));
    let all = place.with(|memory, _| memory.frames.carve(memory.frames.free_regions()));
    let (Ok(torn), Ok(all)) = (torn, all) else {
        return Err(Failed {
            what: "memory that was free is refused",
            found: 0,
            wanted: 1,
        });
    };
    let before = (State::of(place), stats(place));
    let mut held: [Option<Extent<Clean>>; 40] = [const { None }; 40];
    for slot in &mut held {
        let extent = take(place, 0)?;
        hidden(place, extent.pfn(), 0)?;
        zeroed(place, &extent)?;
        *slot = Some(extent);
    }
    let now = stats(place);
    must(
        "pages were hidden one by one",
        now.pages_hidden - before.1.pages_hidden >= 40,
    )?;
    equal("regions hidden", now.regions_hidden - before.1.regions_hidden, 0)?;
    must("one flush serves many", now.flushes - before.1.flushes <= 2)?;
    for extent in held.into_iter().flatten() {
        free(place, extent);
    }
    crate::steps::drain(place);
    before.0.compare(&State::of(place))?;
    let now = stats(place);
    equal(
        "2M leaves merged back",
        now.level2_collapses - before.1.level2_collapses,
        now.level2_splits - before.1.level2_splits,
    )?;
    place.with(|memory, _| {
        memory.frames.uncarve(all);
        memory.frames.free(torn);
        memory.set_watermarks(marks);
    });
    Ok(Outcome::Held)
}

pub(crate) fn alternate<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let machine = place.machine();
    let mut magazine = Magazine::new();
    let refill = |magazine: &mut Magazine, place: &mut P| {
        place.with(|_, windows| magazine.settle(&machine, windows));
        let growing = place.with(|memory, _| magazine.restock(memory, &machine));
        if let Ok(Some(growing)) = growing {
            let grown = growing.wait(&machine);
            place.with(|memory, windows| magazine.grown(grown, memory, &machine, windows));
        }
        must("the magazine is filled", !magazine.is_empty())
    };
    refill(&mut magazine, place)?;
    let before = stats(place);
    for _ in 0..500 {
        let extent = match magazine.take() {
            Some(extent) => extent,
            None => {
                refill(&mut magazine, place)?;
                continue;
            }
        };
        hidden(place, extent.pfn(), 0)?;
        if let Err(extent) = magazine.put(extent.used()) {
            place.with(|_, windows| magazine.settle(&machine, windows));
            must("there is room after that", magazine.put(extent).is_ok())?;
        }
    }
    let now = stats(place);
    equal("flushes", now.flushes - before.flushes, 0)?;
    equal(
        "entries written",
        now.direct_map_writes - before.direct_map_writes,
        0,
    )?;
    place.with(|memory, windows| magazine.drain(memory, &machine, windows));
    must("the magazine is empty", magazine.is_empty())?;
    Ok(Outcome::Held)
}

pub(crate) fn refused<P: Place>(place: &mut P) -> Result<Outcome, Failed> {
    let before = (State::of(place), stats(place));
    must(
        "more than a gigablock is refused",
        allocate(place, GIGABLOCK_ORDER + 1).is_err(),
    )?;
    let all = place.with(|memory, _| memory.frames.carve(memory.frames.free_regions()));
    let Ok(all) = all else {
        return Err(Failed {
            what: "memory that was free is refused",
            found: 0,
            wanted: 1,
        });
    };
    let none = (State::of(place), stats(place));
    for order in [REGION_ORDER, REGION_ORDER + 3, GIGABLOCK_ORDER] {
        must(
            "a region is refused where there is none",
            allocate(place, order).is_err(),
        )?;
    }
    none.0.compare(&State::of(place))?;
    must("no counter moved", none.1 == stats(place))?;
    place.with(|memory, _| memory.frames.uncarve(all));
    before.0.compare(&State::of(place))?;
    Ok(Outcome::Held)
}
