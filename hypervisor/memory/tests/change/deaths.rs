//! Guests that die with shared memory, or in the middle of a change: everything comes back.

use super::*;

/// Wherever a guest dies in the middle of a change, everything comes back, with no memory free.
#[test]
fn a_guest_can_die_at_every_step_of_a_change() {
    for kind in KINDS {
        for dies_in in Change::ALL {
            for steps in 0.. {
                let mut bench = Bench::of_ram(128 * MIB);
                let mut guest = bench.launch_as(1, kind, 6 * MIB);
                let (start, bytes) = (2 * MIB - PAGE_SIZE, 2 * MIB + 2 * PAGE_SIZE);
                for change in Change::ALL {
                    if change == dies_in {
                        break;
                    }
                    bench.change(&mut guest, change, start, bytes).unwrap();
                }
                guest.begin(dies_in, Gpa::new(start), bytes).unwrap();
                let done = (0..steps).any(|_| matches!(bench.step(&mut guest), Progress::Done(_)));
                let mut hoard = Vec::new();
                while let Ok(frame) = bench.memory.frames.allocate(0) {
                    hoard.push(frame);
                }
                bench.teardown(guest);
                hoard
                    .into_iter()
                    .for_each(|frame| bench.memory.frames.free(frame));
                bench.check();
                let now = bench.snapshot();
                assert_eq!(
                    bench.boot.0.trace(&now),
                    None,
                    "{kind:?} {dies_in:?} after {steps} steps"
                );
                if done {
                    break;
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "the wrong guest was flushed")]
fn another_guest_s_flush_is_no_proof() {
    let mut bench = Bench::of_ram(128 * MIB);
    let mut guest = bench.launch_as(1, SecondStageKind::Nested, 4 * MIB);
    let receipt = bench.machine.translations_flushed(id(2));
    guest.flushed(&mut bench.memory, receipt);
}

/// What a guest shares beyond its first gigabyte comes back with it, wherever it lies there.
#[test]
fn what_is_shared_in_any_gigabyte_comes_back() {
    let (second, third) = ([2 * GIB - PAGE_SIZE, GIB + 6 * MIB], 2 * GIB + 2 * MIB);
    let places = [vec![second[0], second[1], third], vec![third]];
    for (kind, places) in KINDS
        .iter()
        .flat_map(|kind| places.each_ref().map(|places| (*kind, places)))
    {
        let mut bench = Bench::of_ram(4 * GIB);
        let free = bench.memory.frames.free_frames();
        let mut guest = bench.launch_as(1, kind, 2 * GIB + 8 * MIB);
        for at in places {
            bench.change(&mut guest, Change::Share, *at, PAGE_SIZE).unwrap();
        }
        bench.teardown(guest);
        let (cpu, memory) = (bench.cpu, &mut bench.memory);
        memory.drain(&cpu).wait(&cpu).release(memory, &cpu);
        assert_eq!(memory.frames.free_frames(), free);
    }
}
