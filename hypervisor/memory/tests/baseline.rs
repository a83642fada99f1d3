//! The page-by-page policy does what it says: honest work, so that the comparison is one.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Level, Pfn};
use memory::frame::GuestId;
use memory::guest::{GuestFlushed, SecondStageKind};
use memory::layout::direct;
use model_machine::{Booted, ModelMachine};

const GIB: u64 = 1 << 30;

fn boot() -> (&'static ModelMachine, Booted<'static>) {
    ModelMachine::boot(&[(0, 3 * GIB)], 2, Level::L3)
}

#[test]
fn each_page_is_hidden_from_every_cpu_and_costs_a_flush() {
    let (machine, mut booted) = boot();
    let cpu = machine.cpu(0);
    // Both CPUs have translations of everything cached.
    for other in [cpu, machine.cpu(1)] {
        for block in 0..3 * 512 {
            other.load(direct(Pfn::new(block << 9).hpa()).unwrap()).unwrap();
        }
    }
    let free = booted.memory.frames.free_frames();
    let paged = booted
        .memory
        .launch_paged(&cpu, GuestId::new(1).unwrap(), 1024)
        .unwrap();
    let frames: Vec<Pfn> = paged.frames(&cpu).collect();
    assert_eq!(frames.len(), 1024);
    for pfn in &frames {
        for other in [cpu, machine.cpu(1)] {
            assert!(
                other.load(direct(pfn.hpa()).unwrap()).is_err(),
                "{} can be reached",
                pfn.hpa()
            );
        }
    }
    let stats = booted.memory.stats();
    // 1024 frames fill two blocks; what is left of the boot's blocks comes first.
    let splits = stats.level3_splits + stats.level2_splits;
    assert!(
        (1..=2).contains(&stats.level3_splits) && (2..=5).contains(&stats.level2_splits),
        "{stats:?}"
    );
    assert_eq!(stats.flushes, 1024 + splits);

    booted.memory.teardown_paged(&cpu, paged);
    for pfn in frames {
        assert!(cpu.load(direct(pfn.hpa()).unwrap()).is_ok());
    }
    // Nothing was merged, so the tables of the splits stay.
    assert_eq!(booted.memory.frames.free_frames(), free - splits);
    assert_eq!(booted.memory.stats().flushes, 1024 + splits);
    assert_eq!(booted.memory.stats().level3_collapses, 0);
}

/// Zeroed before the guest has it, and before the host has it again.
#[test]
fn pages_are_zero_before_and_after() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 16 << 20)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let frames = &mut booted.memory.frames;
    let all: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok()).collect();
    for frame in &all {
        cpu.store(direct(frame.pfn().hpa()).unwrap(), 7).unwrap();
    }
    all.into_iter().for_each(|frame| frames.free(frame));
    let paged = booted
        .memory
        .launch_paged(&cpu, GuestId::new(1).unwrap(), 8)
        .unwrap();
    let used: Vec<Pfn> = paged.frames(&cpu).collect();
    for pfn in &used {
        assert_eq!(machine.ram().load(pfn.hpa()), 0);
        machine.ram().store(pfn.hpa(), 9);
    }
    booted.memory.teardown_paged(&cpu, paged);
    for pfn in used {
        assert_eq!(cpu.load(direct(pfn.hpa()).unwrap()), Ok(0));
    }
}

#[test]
fn running_out_of_memory_gives_every_frame_back() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 64 << 20)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let (free, regions) = (
        booted.memory.frames.free_frames(),
        booted.memory.frames.free_regions(),
    );
    assert!(
        booted
            .memory
            .launch_paged(&cpu, GuestId::new(1).unwrap(), free)
            .is_err()
    );
    let splits = booted.memory.stats().level2_splits;
    assert!(splits > 0 && splits <= regions + 2);
    assert_eq!(booted.memory.frames.free_frames(), free - splits);
}

#[test]
fn aged_memory_is_scattered() {
    let (_, mut booted) = boot();
    let frames = &mut booted.memory.frames;
    let (free, regions) = (frames.free_frames(), frames.free_regions());
    let mut turn = 0;
    let kept = frames.age(100 * 512, || {
        turn += 1;
        turn % 4 != 0
    });
    assert_eq!(kept, 75 * 512);
    assert_eq!(frames.free_frames(), free - kept);
    assert!(frames.free_regions() <= regions - 99);
}

#[test]
fn without_merging_a_split_stays_and_is_used_again() {
    let (machine, mut booted) = boot();
    let cpu = machine.cpu(0);
    booted.memory.stop_merging();
    let free = booted.memory.frames.free_frames();
    // What gigablocks without a 1G leaf have is taken first and costs no split: this is a machine of three 1G leaves but for its tables.
    for (turn, regions) in [(0, 4), (1, 4), (2, 1024)] {
        let id = GuestId::new(turn + 1).unwrap();
        let hiding = booted
            .memory
            .launch(&cpu, SecondStageKind::Nested, id, regions << 21)
            .unwrap();
        let windows = &mut booted.windows[0];
        let guest = hiding.wait(&cpu).finish(&mut booted.memory, &cpu, windows);
        let teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
        let restored = teardown.finish(&mut booted.memory, &cpu, windows);
        restored.wait(&cpu).release(&mut booted.memory, &cpu);
    }
    let stats = booted.memory.stats();
    assert_eq!(
        (stats.level3_collapses, stats.merges_blocked.total()),
        (0, 0),
        "{stats:?}"
    );
    assert!((1..=3).contains(&stats.level3_splits), "{stats:?}");
    // All is back but for the tables of the splits.
    assert_eq!(booted.memory.frames.free_frames(), free - stats.level3_splits);
}
