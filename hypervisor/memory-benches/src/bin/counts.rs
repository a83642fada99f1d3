//! What callgrind counts: instructions of the operations themselves. Zeroing and what tables and boots cost the machine is not in them.

use std::hint::black_box;

use memory::address::REGION_ORDER;
use memory::region::Magazine;
use memory_benches::counting::counted;
use memory_benches::{Board, board, ordinary};

const GIB: u64 = 1 << 30;
const REGION: u64 = 2 << 20;

/// RAM sizes in GiB, and regions in use, at which taking and giving back one more region is counted.
const RAM: [u64; 5] = [4, 16, 64, 256, 1024];
const IN_USE: [u64; 6] = [1, 10, 100, 1000, 10_000, 100_000];
/// Guests, in regions.
const GUESTS: [u64; 6] = [1, 32, 100, 512, 1000, 64 * 512];

fn main() {
    counted("empty", 1000, || {});
    magazine();
    ordinary_memory();
    guests();
    one_more_region();
}

/// Single private frames.
fn magazine() {
    let mut storage = board::storage(4 * GIB);
    let mut board = Board::boot(4 * GIB, &mut storage);
    let Board {
        machine,
        memory,
        windows,
        ..
    } = &mut board;
    let mut magazine = Magazine::new();
    assert!(magazine.refill(memory, machine, windows).is_ok());
    let frames = magazine.len() as u64;
    let mut taken = Vec::with_capacity(magazine.len());
    counted("magazine/take", frames, || taken.extend(magazine.take()));
    assert_eq!(taken.len() as u64, frames);
    counted("magazine/put", frames, || {
        let used = taken.pop().map(|extent| extent.used());
        used.into_iter().for_each(|extent| drop(magazine.put(extent)));
    });
    counted("magazine/settle", 1, || magazine.settle(machine, windows));
    magazine.drain(memory, machine, windows);
    // The same without a magazine, from a region that is partly used.
    let kept = memory.allocate_private(machine, windows, 0);
    counted("pool/take-4K", 32, || {
        taken.extend(memory.take_private(black_box(0)))
    });
    counted("pool/give-4K", 32, || {
        taken
            .pop()
            .into_iter()
            .for_each(|extent| memory.give_back(machine, extent));
    });
    kept.into_iter()
        .for_each(|extent| memory.give_back(machine, extent));
}

/// Host allocations, with more and more regions in use.
fn ordinary_memory() {
    let mut storage = board::storage(64 * GIB);
    let mut board = Board::boot(64 * GIB, &mut storage);
    ordinary::count("no-regions", &mut board.memory.frames);
    for regions in [1, 1000, 20_000] {
        let guest = launch(&mut board, regions * REGION);
        ordinary::count(&format!("{regions}-regions"), &mut board.memory.frames);
        board.teardown(guest);
    }
}

/// Launch and teardown of whole guests.
fn guests() {
    let mut storage = board::storage(256 * GIB);
    let mut board = Board::boot(256 * GIB, &mut storage);
    for regions in GUESTS {
        let mut guest = None;
        counted(&format!("launch/{regions}"), 1, || {
            guest = Some(launch(&mut board, regions * REGION));
        });
        counted(&format!("teardown/{regions}"), 1, || {
            guest.take().into_iter().for_each(|guest| board.teardown(guest));
        });
    }
}

/// One region taken, and given back, while others are in use.
fn one_more_region() {
    for ram in RAM {
        let mut storage = board::storage(ram * GIB);
        let mut board = Board::boot(ram * GIB, &mut storage);
        let Board {
            machine,
            memory,
            windows,
            ..
        } = &mut board;
        let mut held = Vec::new();
        for in_use in IN_USE.into_iter().filter(|in_use| in_use * REGION < ram * GIB) {
            while (held.len() as u64) < in_use {
                match memory.allocate_private(machine, windows, REGION_ORDER) {
                    Ok(extent) => held.push(extent),
                    Err(error) => panic!("{in_use} regions on {ram} GiB: {error}"),
                }
            }
            let mut taken = None;
            counted(&format!("carve/{ram}/{in_use}"), 1, || {
                taken = memory.allocate_private(machine, windows, REGION_ORDER).ok();
            });
            counted(&format!("free/{ram}/{in_use}"), 1, || {
                taken
                    .take()
                    .into_iter()
                    .for_each(|extent| memory.give_back(machine, extent));
            });
        }
        held.into_iter()
            .for_each(|extent| memory.give_back(machine, extent));
    }
}

fn launch(board: &mut Board<'_>, bytes: u64) -> memory::guest::GuestMemory {
    match board.launch(bytes) {
        Ok(guest) => guest,
        Err(error) => panic!("a guest of {bytes} bytes: {error}"),
    }
}
