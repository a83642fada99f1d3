//! One pool for users of every size, on a host that runs out of memory.
//!
//! `cargo run -p memory --example pool_under_pressure`

use memory::HostMemory;
use memory::address::Level;
use memory::region::{Magazine, Watermarks};
use model_machine::{Board, Booted};

type Anything = Box<dyn std::error::Error>;

fn main() -> Result<(), Anything> {
    let mut board = Board::new(&[(0, 1 << 30)], 1, Level::L3);
    let (
        machine,
        Booted {
            mut memory,
            mut windows,
        },
    ) = board.boot();
    let (cpu, windows) = (machine.cpu(0), &mut windows[0]);
    let free = memory.frames.free_frames();
    // Up to 16 empty regions are kept for reuse, until less than 64 MiB are free.
    memory.set_cache(16);
    memory.set_watermarks(Watermarks {
        low: (64 << 20) >> 12,
        high: (80 << 20) >> 12,
    });

    // 4 KiB to 2 MiB, side by side. What is below 2 MiB shares regions.
    let mut held = Vec::new();
    for round in 0..20 {
        let order = [0, 3, 5, 9][round % 4];
        held.push(memory.allocate_private(&cpu, windows, order)?);
    }
    show("20 extents of 4 KiB to 2 MiB", &memory);
    let regions = memory.stats().regions_hidden;
    ensure(
        regions == 6,
        "the small ones share one region, the others have one each",
    )?;

    // Given back, the regions stay hidden in the cache; who comes next costs no change of the direct map and no flush.
    let before = memory.stats();
    held.drain(..)
        .for_each(|extent| memory.free_private(&cpu, windows, extent.used()));
    show("all given back", &memory);
    held.push(memory.allocate_private(&cpu, windows, 9)?);
    let after = memory.stats();
    ensure(
        after.cache_hits == before.cache_hits + 1,
        "a region came from the cache",
    )?;
    ensure(after.flushes == before.flushes, "nothing was flushed")?;

    // In front of the pool each CPU has a magazine: a frame from there takes no lock and touches nothing that CPUs share.
    let mut magazine = Magazine::new();
    magazine.refill(&mut memory, &cpu, windows)?;
    let flushes = memory.stats().flushes;
    for _ in 0..1000 {
        let frame = match magazine.take() {
            Some(frame) => frame,
            None => {
                magazine.settle(&cpu, windows);
                magazine
                    .take()
                    .ok_or("used frames are ready again after a scrub")?
            }
        };
        if let Err(used) = magazine.put(frame.used()) {
            magazine.settle(&cpu, windows);
            magazine.put(used).map_err(|_| "there is room after a scrub")?;
        }
    }
    ensure(memory.stats().flushes == flushes, "a magazine flushes nothing")?;
    magazine.drain(&mut memory, &cpu, windows);
    show("1000 frames through a magazine", &memory);

    // The host wants everything. Below the low mark the cache goes back to it, so that it gets that, too.
    let mut host = Vec::new();
    while let Ok(frames) = memory.allocate(&cpu, 0) {
        host.push(frames);
    }
    show("the host has taken what it could", &memory);
    ensure(memory.pool().cached_regions() == 0, "the cache is empty")?;
    ensure(memory.stats().regions_shrunk > 0, "by the shrinker")?;
    match memory.allocate_private(&cpu, windows, 9) {
        Ok(_) => return Err("there was memory left".into()),
        Err(error) => println!("  refused: {error}"),
    }

    host.drain(..).for_each(|frames| memory.frames.free(frames));
    held.drain(..)
        .for_each(|extent| memory.free_private(&cpu, windows, extent.used()));
    memory.drain(&cpu).wait(&cpu).release(&mut memory, &cpu);
    show("everything given back", &memory);
    ensure(memory.frames.free_frames() == free, "nothing is missing")?;
    ensure(memory.frames.holes() == (0, 0), "the direct map has no hole")
}

fn show(what: &str, memory: &HostMemory<'_>) {
    let stats = memory.stats();
    println!("{what}:");
    println!(
        "  {} regions hidden now, {} of them cached; {} flushes, {} entries of the direct map written so far",
        memory.frames.holes().0,
        memory.pool().cached_regions(),
        stats.flushes,
        stats.direct_map_writes
    );
}

fn ensure(holds: bool, what: &str) -> Result<(), Anything> {
    if holds {
        Ok(())
    } else {
        Err(format!("this does not hold: {what}").into())
    }
}
