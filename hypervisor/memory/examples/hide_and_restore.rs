//! Memory is hidden from the whole machine, used through a window, and put back without a trace.
//!
//! `cargo run -p memory --example hide_and_restore`. It runs on the model machine, on which what a CPU has cached stays until it is flushed.

use memory::address::{Level, REGION_ORDER};
use memory::layout::direct;
use model_machine::{Board, Booted};

type Anything = Box<dyn std::error::Error>;

fn main() -> Result<(), Anything> {
    // 4 GiB, two CPUs, and a direct map of four leaves of 1G.
    let mut board = Board::new(&[(0, 4 << 30)], 2, Level::L3);
    let (
        machine,
        Booted {
            mut memory,
            mut windows,
        },
    ) = board.boot();
    let (cpu, other) = (machine.cpu(0), machine.cpu(1));
    let (windows, free) = (&mut windows[0], memory.frames.free_frames());
    println!("4 GiB, two CPUs, four leaves of 1G.");

    // 2 MiB of private memory: taken from the host, hidden by one cleared entry and one flush, and zeroed.
    let region = memory.allocate_private(&cpu, windows, REGION_ORDER)?;
    let stats = memory.stats();
    println!(
        "Hid 2 MiB at {}: {} split of a 1G leaf, {} flush.",
        region.pfn().hpa(),
        stats.level3_splits,
        stats.flushes
    );
    ensure(
        (stats.level3_splits, stats.flushes) == (1, 1),
        "one split, one flush",
    )?;

    // Nobody can reach it by its address, not even with what was cached before.
    let at = direct(region.pfn().hpa()).ok_or("RAM has an address in the direct map")?;
    for cpu in [cpu, other] {
        ensure(cpu.load(at).is_err(), "the memory is hidden from each CPU")?;
    }
    println!("Both CPUs fault at {at}.");

    // Its owner uses it through a window of its own CPU. From now on it holds something, so it can't be handed on before a scrub.
    let mut region = region.used();
    let mut back = [0; 6];
    region.write(&cpu, windows, 4096, b"secret")?;
    region.read(&cpu, windows, 4096, &mut back)?;
    ensure(&back == b"secret", "what was written is read")?;
    ensure(cpu.load(at).is_err(), "the window is closed again")?;
    println!("Its owner has written and read it, through a window.");

    // Back: scrubbed, restored, merged. This needs no memory and cannot fail. The merged table is freed by the flush after it.
    memory.free_private(&cpu, windows, region);
    memory.drain(&cpu).wait(&cpu).release(&mut memory, &cpu);
    let stats = memory.stats();
    println!(
        "Gave it back: {} merge, {} bytes zeroed since the start.",
        stats.level3_collapses, stats.bytes_scrubbed
    );
    ensure(stats.level3_collapses == 1, "the leaf is whole again")?;
    ensure(memory.frames.free_frames() == free, "nothing is missing")?;
    for cpu in [cpu, other] {
        ensure(
            cpu.load(at.checked_add(4096).unwrap_or(at)) == Ok(0),
            "nothing is left of the secret",
        )?;
    }
    println!("Both CPUs read zeros there.");
    Ok(())
}

fn ensure(holds: bool, what: &str) -> Result<(), Anything> {
    if holds {
        Ok(())
    } else {
        Err(format!("this does not hold: {what}").into())
    }
}
