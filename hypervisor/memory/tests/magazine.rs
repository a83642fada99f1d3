//! Magazines of hidden frames, on the model machine: what they hold, what it costs, and that all of it comes back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::Hpa;
use memory::region::{Magazine, PrivateError};
use model_machine::Bench;
use model_machine::bench::small_machine;

#[test]
fn a_magazine_holds_what_it_has_room_for_and_loses_nothing() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let (cpu, windows) = (bench.cpu, &mut bench.windows[0]);
    let memory = &mut bench.memory;
    const BATCH: usize = Magazine::BATCH;
    let mut magazine = Magazine::new();
    let mut held = Vec::new();
    assert!(magazine.is_empty());
    for _ in 0..3 {
        magazine.refill(memory, &cpu, windows).unwrap();
        assert_eq!((magazine.len(), magazine.is_empty()), (BATCH, false));
        held.extend(std::iter::from_fn(|| magazine.take()));
    }
    assert_eq!((held.len(), magazine.len()), (3 * BATCH, 0));
    let mut put = |magazine: &mut Magazine, count: usize| {
        for extent in held.drain(..count) {
            let pfn = extent.pfn();
            bench.machine.used_by_guest(pfn, 1);
            magazine.put(extent.used()).unwrap();
        }
    };
    put(&mut magazine, 1);
    assert_eq!((magazine.len(), magazine.is_empty()), (1, false));
    put(&mut magazine, BATCH - 1);
    magazine.settle(&cpu, windows);
    put(&mut magazine, BATCH);
    magazine.settle(&cpu, windows);
    // Two batches are ready, so the next stay used.
    put(&mut magazine, BATCH);
    magazine.settle(&cpu, windows);
    assert_eq!(magazine.len(), 3 * BATCH);
    let taken: Vec<_> = (0..BATCH / 2).map(|_| magazine.take().unwrap()).collect();
    magazine.settle(&cpu, windows);
    assert_eq!(magazine.len(), 5 * BATCH / 2);
    for extent in &taken {
        assert_eq!(bench.machine.writer(extent.pfn()), model_machine::Writer::Zeroed);
    }
    // Half a batch is used: there is room for as many, and no more.
    for (index, extent) in taken.into_iter().enumerate() {
        bench.machine.used_by_guest(extent.pfn(), 1);
        magazine.put(extent.used()).unwrap();
        assert_eq!(magazine.len(), 5 * BATCH / 2 + 1 + index);
    }
    let more = memory.allocate_private(&cpu, windows, 0).unwrap();
    let more = magazine.put(more.used()).unwrap_err();
    memory.free_private(&cpu, windows, more);
    magazine.drain(memory, &cpu, windows);
    assert!(magazine.is_empty());
    assert_eq!(memory.stats().bytes_scrubbed, bench.machine.zeroed());
    assert_eq!(memory.stats().pool_allocations, memory.stats().pool_frees);
    bench.assert_as_at_boot();
}

#[test]
fn a_magazine_takes_what_is_there_and_says_when_there_is_nothing() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let first = bench.allocate(0).unwrap();
    let host = bench.take_all_of_the_host();
    let mut held = vec![first];
    while bench.memory.frames.pool_free_frames() > 5 {
        held.push(bench.memory.take_private(0).unwrap());
    }
    let mut magazine = Magazine::new();
    let (memory, cpu) = (&mut bench.memory, &bench.cpu);
    magazine.refill(memory, cpu, &mut bench.windows[0]).unwrap();
    assert_eq!(magazine.len(), 5);
    held.extend(std::iter::from_fn(|| magazine.take()));
    let refused = magazine.refill(memory, cpu, &mut bench.windows[0]);
    assert!(matches!(refused, Err(PrivateError::OutOfMemory(_))));
    assert!(magazine.is_empty() && magazine.take().is_none());
    host.into_iter().for_each(|frame| memory.frames.free(frame));
    magazine.refill(memory, cpu, &mut bench.windows[0]).unwrap();
    magazine.trim(memory, cpu, &mut bench.windows[0], 10);
    assert_eq!(magazine.len(), 10);
    magazine.drain(memory, cpu, &mut bench.windows[0]);
    held.into_iter().for_each(|extent| bench.free(extent));
    bench.assert_as_at_boot();
}

#[test]
fn two_users_that_alternate_flush_nothing() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let mut magazine = Magazine::new();
    let Bench {
        memory, cpu, windows, ..
    } = &mut bench;
    magazine.refill(memory, cpu, &mut windows[0]).unwrap();
    let (flushes, writes) = (memory.stats().flushes, memory.stats().direct_map_writes);
    let invalidated = windows[0].invalidations();
    for _ in 0..1000 {
        for _user in ["first", "second"] {
            let extent = match magazine.take() {
                Some(extent) => extent,
                None => {
                    magazine.refill(memory, cpu, &mut windows[0]).unwrap();
                    magazine.take().unwrap()
                }
            };
            magazine.put(extent.used()).unwrap_or_else(|extent| {
                magazine.settle(cpu, &mut windows[0]);
                magazine.put(extent).unwrap();
            });
        }
    }
    assert_eq!(
        (memory.stats().flushes, memory.stats().direct_map_writes),
        (flushes, writes)
    );
    // Each use is scrubbed through a window of its page, once.
    assert!(windows[0].invalidations() - invalidated <= 2000);
    magazine.drain(memory, cpu, &mut windows[0]);
    assert!(magazine.is_empty());
    assert_eq!(memory.stats().pool_allocations, 2000);
    assert_eq!(memory.stats().pool_frees, 2000);
    bench.check();
    bench.assert_as_at_boot();
}

#[test]
fn what_one_user_leaves_in_a_frame_does_not_reach_the_next_by_way_of_a_magazine() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let mut magazine = Magazine::new();
    let Bench {
        memory,
        cpu,
        windows,
        machine,
        ..
    } = &mut bench;
    magazine.refill(memory, cpu, &mut windows[0]).unwrap();
    // More than are ready at once, so that the same frames come again.
    for _ in 0..200 {
        let Some(extent) = magazine.take() else {
            magazine.refill(memory, cpu, &mut windows[0]).unwrap();
            continue;
        };
        for offset in [0, 8, 4088] {
            let at = Hpa::new(extent.pfn().hpa().get() + offset);
            assert_eq!(machine.ram().load(at), 0, "{at} was not scrubbed");
        }
        let mut extent = extent.used();
        for offset in [0, 8, 4088] {
            extent.write(cpu, &mut windows[0], offset, b"a secret").unwrap();
        }
        magazine.put(extent).unwrap_or_else(|extent| {
            magazine.settle(cpu, &mut windows[0]);
            magazine.put(extent).unwrap();
        });
    }
    magazine.drain(memory, cpu, &mut windows[0]);
    bench.check();
    bench.assert_as_at_boot();
    assert!(!bench.machine.ram().contains(u64::from_le_bytes(*b"a secret")));
}

/// While the pool grew, used frames came and fill the magazine: what it grew by goes back, and is in no counter.
#[test]
fn a_magazine_that_is_full_when_the_pool_has_grown_takes_nothing() {
    let mut board = small_machine();
    let mut bench = Bench::new(&mut board);
    let mut held: Vec<_> = (0..512).map(|_| bench.allocate(0).unwrap()).collect();
    let before = bench.stats();
    let mut magazine = Magazine::new();
    let (memory, cpu, windows) = (&mut bench.memory, &bench.cpu, &mut bench.windows[0]);
    let growing = magazine.restock(memory, cpu).unwrap().unwrap();
    for _ in 0..2 {
        for extent in held.drain(..Magazine::BATCH) {
            magazine.put(extent.used()).unwrap();
        }
        magazine.settle(cpu, windows);
    }
    assert_eq!(magazine.len(), 2 * Magazine::BATCH);
    magazine.grown(growing.wait(cpu), memory, cpu, windows);
    assert_eq!(magazine.len(), 2 * Magazine::BATCH);
    let stats = memory.stats();
    assert_eq!(
        (stats.pool_allocations, stats.pool_frees),
        (before.pool_allocations, before.pool_frees)
    );
    magazine.drain(memory, cpu, windows);
    held.into_iter().for_each(|extent| bench.free(extent));
    assert_eq!(bench.stats().pool_frees, 512);
    bench.assert_as_at_boot();
}
