//! A guest's memory from launch to teardown, on the model machine: what the host can reach, what it costs, and that all of it
//! comes back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gpa, Hpa, Hva, Level, Pfn};
use memory::frame::GuestId;
use memory::guest::{GuestFlushed, GuestMemory, LaunchError, SecondStageKind};
use memory::layout::direct;
use model_machine::{Booted, ModelCpu, ModelMachine};
use proptest::prelude::*;

#[path = "lifecycle/access.rs"]
mod access;
#[path = "lifecycle/refusals.rs"]
mod refusals;
#[path = "lifecycle/second_stage.rs"]
mod second_stage;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn id(number: u16) -> GuestId {
    GuestId::new(number).unwrap()
}

/// The layouts take turns: what the host sees and gets back does not depend on them.
fn kind(number: u16) -> SecondStageKind {
    match number % 3 {
        0 => SecondStageKind::Nested,
        1 => SecondStageKind::Extended,
        _ => SecondStageKind::ExtendedSplit,
    }
}

fn launch(cpu: ModelCpu<'_>, booted: &mut Booted, number: u16, bytes: u64) -> GuestMemory {
    let hiding = booted
        .memory
        .launch(&cpu, kind(number), id(number), bytes)
        .unwrap();
    hiding
        .wait(&cpu)
        .finish(&mut booted.memory, &cpu, &mut booted.windows[0])
}

fn teardown(cpu: ModelCpu<'_>, booted: &mut Booted, guest: GuestMemory) {
    let id = guest.id();
    let teardown = guest.revoke(&cpu).reclaim(GuestFlushed::new(id));
    let restored = teardown.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
    restored.wait(&cpu).release(&mut booted.memory, &cpu);
}

/// Every leaf of the direct map, read by a walk of this test's own: (virtual address, entry without accessed and dirty, level).
fn leaves(machine: &ModelMachine) -> Vec<(u64, u64, u8)> {
    fn visit(machine: &ModelMachine, table: u64, level: u8, base: u64, found: &mut Vec<(u64, u64, u8)>) {
        for index in 0..512 {
            let entry = machine.ram().load(Hpa::new(table + 8 * index));
            let at = base | index << (12 + 9 * (level - 1));
            if entry & 1 == 0 {
                continue;
            }
            if level == 1 || (level < 4 && entry & 0x80 != 0) {
                found.push((at, entry & !0x60, level));
            } else if level < 4 || (256..448).contains(&index) {
                visit(machine, entry & 0x000f_ffff_ffff_f000, level - 1, at, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(
        machine,
        machine.shared_root().hpa().get(),
        4,
        0xffff << 48,
        &mut found,
    );
    found
}

/// The third-level entries of the first three gigablocks of the direct map.
fn third_level(machine: &ModelMachine) -> [u64; 3] {
    let root = machine.shared_root().hpa().get();
    let table = machine.ram().load(Hpa::new(root + 8 * 256)) & 0x000f_ffff_ffff_f000;
    [0, 1, 2].map(|index| machine.ram().load(Hpa::new(table + 8 * index)))
}

fn at(pfn: Pfn) -> Hva {
    direct(pfn.hpa()).unwrap()
}

#[test]
fn a_guest_s_memory_is_hidden_by_one_flush_and_comes_back_as_it_was() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 4 * GIB)], 2, Level::L3);
    let cpu = machine.cpu(0);
    let (boot, free) = (leaves(machine), booted.memory.frames.free_frames());
    assert_eq!(boot.iter().filter(|leaf| leaf.2 == 3).count(), 4);

    // The first gigablock has the boot's tables in it but is one 1G leaf all the same: the lowest one is broken.
    let guest = launch(cpu, &mut booted, 1, 64 * MIB);
    assert_eq!(booted.memory.stats().flushes, 1);
    assert_eq!(booted.memory.stats().level3_splits, 1);
    for pfn in guest.regions(&cpu, &booted.memory.frames).collect::<Vec<_>>() {
        for other in [machine.cpu(0), machine.cpu(1)] {
            assert!(other.load(at(pfn)).is_err(), "{} can be reached", pfn.hpa());
            assert!(other.load(at(pfn.add(511))).is_err());
        }
    }
    assert_eq!(
        leaves(machine).iter().filter(|leaf| leaf.2 == 2).count(),
        512 - 32
    );
    teardown(cpu, &mut booted, guest);
    assert_eq!(booted.memory.stats().level3_collapses, 1);
    assert_eq!(booted.memory.stats().flushes, 2);
    assert_eq!(leaves(machine), boot);
    assert_eq!(booted.memory.frames.free_frames(), free);
}

#[test]
fn a_translation_cached_before_the_hide_does_not_reach_the_guest() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 2, Level::L3);
    // Fill both CPUs' TLBs with translations of everything.
    for cpu in [machine.cpu(0), machine.cpu(1)] {
        for block in 0..512 {
            cpu.load(at(Pfn::new(block * 512))).unwrap();
        }
    }
    let guest = launch(machine.cpu(0), &mut booted, 1, 16 * MIB);
    for pfn in guest
        .regions(&machine.cpu(0), &booted.memory.frames)
        .collect::<Vec<_>>()
    {
        assert!(machine.cpu(0).load(at(pfn)).is_err());
        assert!(machine.cpu(1).load(at(pfn)).is_err());
    }
    teardown(machine.cpu(0), &mut booted, guest);
}

#[test]
fn a_cpu_in_guest_mode_is_flagged_and_keeps_table_frames_waiting() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 2 * GIB)], 2, Level::L3);
    let (cpu, other) = (machine.cpu(0), machine.cpu(1));
    let free = booted.memory.frames.free_frames();
    let guest = launch(cpu, &mut booted, 1, 2 * MIB);
    // The other CPU caches the way through the split table, then enters a guest.
    let hidden = guest.regions(&cpu, &booted.memory.frames).next().unwrap();
    let neighbour = Pfn::new(hidden.gigablock_number() << 18 | 0x3_fe00);
    other.load(at(neighbour)).unwrap();
    other.enter_guest();
    teardown(cpu, &mut booted, guest);
    assert_eq!(
        booted.memory.waiting_tables(),
        1,
        "the merged table may still be walked by the flagged CPU"
    );
    assert_eq!(booted.memory.view().waiting_tables, 1);
    assert_eq!(booted.memory.frames.free_frames(), free - 1);
    other.leave_guest();
    // The next flush finds that every CPU has flushed, and releases it.
    let guest = launch(cpu, &mut booted, 2, 2 * MIB);
    assert_eq!(booted.memory.waiting_tables(), 0);
    teardown(cpu, &mut booted, guest);
    assert_eq!(booted.memory.frames.free_frames(), free);
}

#[test]
fn whom_a_flush_reached_is_counted() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 4, Level::L3);
    let cpu = machine.cpu(0);
    machine.cpu(1).enter_guest();
    // Two more CPUs are in the host, one is in a guest.
    let mut alive = Vec::new();
    for number in 1..=3 {
        let guest = launch(cpu, &mut booted, number, 2 * MIB);
        let stats = booted.memory.stats();
        assert_eq!(stats.flushes, u64::from(number));
        assert_eq!(stats.cpus_interrupted, 2 * u64::from(number));
        assert_eq!(stats.cpus_flagged, u64::from(number));
        assert_eq!(stats.cpus_spared, 0);
        // It stays: a teardown could flush, too.
        alive.push(guest);
    }
}

#[test]
fn a_gigablock_of_holes_loses_its_third_level_entry_and_gets_it_back() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 3 * GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let (boot, free) = (leaves(machine), booted.memory.frames.free_frames());
    // One guest fills the lowest gigablock, two others the next.
    let lowest = (booted.memory.frames.free_regions() - 2 * 512) * 2 * MIB;
    let guests = [
        launch(cpu, &mut booted, 1, lowest),
        launch(cpu, &mut booted, 2, 600 * MIB),
        launch(cpu, &mut booted, 3, 424 * MIB),
    ];
    let stats = booted.memory.stats();
    assert_eq!(stats.tables_parked, 1);
    // One entry for each region, each split, and the gigablock that is all holes.
    assert_eq!(stats.regions_hidden, lowest / (2 * MIB) + 512);
    assert_eq!(
        stats.direct_map_writes,
        stats.regions_hidden + stats.level3_splits + 1
    );
    // The third-level entries of the direct map, read from RAM: one of them, and only one, is gone.
    let entries = third_level(machine);
    assert_eq!(
        entries.iter().filter(|entry| **entry == 0).count(),
        1,
        "{entries:x?}"
    );
    for guest in guests {
        let hidden: Vec<_> = guest.regions(&cpu, &booted.memory.frames).collect();
        assert!(hidden.iter().all(|pfn| cpu.load(at(*pfn)).is_err()));
        teardown(cpu, &mut booted, guest);
    }
    assert_eq!(leaves(machine), boot);
    assert_eq!(booted.memory.frames.free_frames(), free);
}

/// Every entry counts as canonical again, and yet the table must not be merged away: somebody has changed one meanwhile.
#[test]
fn a_leaf_that_was_changed_meanwhile_blocks_the_merge() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 4 * GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let guest = launch(cpu, &mut booted, 1, 2 * MIB);
    let table = third_level(machine)[0] & 0x000f_ffff_ffff_f000;
    let entry = Hpa::new(table + 8 * 300);
    // A bit that is software's own.
    machine.ram().store(entry, machine.ram().load(entry) | 1 << 9);
    teardown(cpu, &mut booted, guest);
    let stats = booted.memory.stats();
    assert_eq!((stats.level3_collapses, stats.merges_blocked.attributes), (0, 1));
    assert_eq!(third_level(machine)[0] & 0x000f_ffff_ffff_f000, table);
    assert!(cpu.load(at(Pfn::new(300 * 512))).is_ok());
}

#[test]
fn a_gigablock_with_holes_is_preferred_to_a_lower_one_without() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 4 * GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let home = |booted: &Booted, guest: &GuestMemory| {
        guest
            .regions(&cpu, &booted.memory.frames)
            .next()
            .unwrap()
            .gigablock_number()
    };
    // The first guest fills the lowest gigablock, the second one breaks the next; then the lowest becomes whole again.
    let lowest = (booted.memory.frames.free_regions() - 3 * 512) * 2 * MIB;
    let first = launch(cpu, &mut booted, 1, lowest);
    let second = launch(cpu, &mut booted, 2, 64 * MIB);
    assert_eq!((home(&booted, &first), home(&booted, &second)), (0, 1));
    teardown(cpu, &mut booted, first);
    let third = launch(cpu, &mut booted, 3, 2 * MIB);
    assert_eq!(home(&booted, &third), 1);
    assert_eq!(booted.memory.stats().level3_splits, 2);
    for guest in [second, third] {
        teardown(cpu, &mut booted, guest);
    }
}

#[test]
fn holes_gather_where_no_1g_leaf_is_lost() {
    // A machine of 2 GiB and 100 MiB: the last gigablock has no 1G leaf.
    let (machine, mut booted) = ModelMachine::boot(&[(0, 2 * GIB + 100 * MIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let first = launch(cpu, &mut booted, 1, 64 * MIB);
    assert_eq!(
        booted.memory.stats().level3_splits,
        0,
        "a 1G leaf was broken without need"
    );
    let second = launch(cpu, &mut booted, 2, 256 * MIB);
    let third = launch(cpu, &mut booted, 3, 256 * MIB);
    assert_eq!(
        booted.memory.stats().level3_splits,
        1,
        "a second 1G leaf was broken"
    );
    for guest in [second, first, third] {
        teardown(cpu, &mut booted, guest);
    }
    assert_eq!(booted.memory.stats().level3_collapses, 1);
}

#[test]
fn regions_are_recorded_as_hidden_once_the_flush_is_acknowledged() {
    use memory::frame::FrameState;
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let hiding = booted
        .memory
        .launch(&cpu, SecondStageKind::Nested, id(1), 8 * MIB)
        .unwrap();
    let count = |booted: &Booted, wanted: fn(FrameState) -> bool| {
        (0..512)
            .filter(|block| wanted(booted.memory.frames.state(Pfn::new(block << 9))))
            .count()
    };
    assert_eq!(
        count(&booted, |state| matches!(state, FrameState::Hidden { .. })),
        0
    );
    assert_eq!(
        count(&booted, |state| matches!(state, FrameState::Unmapped { .. })),
        4
    );
    let mut launching = hiding.wait(&cpu);
    assert!(launching.step(&mut booted.memory, &cpu, &mut booted.windows[0]));
    assert_eq!(
        count(&booted, |state| matches!(state, FrameState::Hidden { .. })),
        4
    );
    assert_eq!(
        count(&booted, |state| matches!(state, FrameState::Unmapped { .. })),
        0
    );
    let guest = launching.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
    assert_eq!(
        count(&booted, |state| matches!(state, FrameState::Hidden { .. })),
        0
    );
    teardown(cpu, &mut booted, guest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Guests of many sizes come and go in any order; after each death every gigablock without holes is the boot leaf again,
    /// and at the end everything is.
    #[test]
    fn any_order_of_deaths_leaves_no_trace(
        steps in prop::collection::vec((1u64..200, any::<bool>(), any::<u64>()), 1..40),
        largest in prop::sample::select(vec![Level::L2, Level::L3]),
    ) {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 2 * GIB), (4 * GIB, GIB + 37 * MIB)], 2, largest);
        let cpu = machine.cpu(0);
        let (boot, free) = (leaves(machine), booted.memory.frames.free_frames());
        let mut alive: Vec<GuestMemory> = Vec::new();
        for (number, (regions, die, pick)) in steps.into_iter().enumerate() {
            if die && !alive.is_empty() {
                let guest = alive.swap_remove(pick as usize % alive.len());
                teardown(cpu, &mut booted, guest);
            } else if regions <= booted.memory.frames.free_regions() {
                match booted.memory.launch(&cpu, kind(number as u16), id(number as u16 + 1), regions * 2 * MIB) {
                    Ok(hiding) => alive.push(hiding.wait(&cpu).finish(&mut booted.memory, &cpu, &mut booted.windows[0])),
                    Err(LaunchError::OutOfMemory(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let holes: std::collections::BTreeSet<u64> = alive.iter()
                .flat_map(|guest| guest.regions(&cpu, &booted.memory.frames).collect::<Vec<_>>())
                .map(Pfn::gigablock_number).collect();
            let whole = |leaf: &&(u64, u64, u8)| !holes.contains(&((leaf.0 - 0xffff_8000_0000_0000) >> 30));
            let now = leaves(machine);
            prop_assert!(now.iter().filter(whole).eq(boot.iter().filter(whole)));
            let reachable: u64 = now.iter().map(|leaf| 1u64 << (12 + 9 * (leaf.2 - 1))).sum();
            let hidden: u64 = alive.iter().map(GuestMemory::bytes).sum();
            prop_assert_eq!(reachable + hidden, 3 * GIB + 37 * MIB);
        }
        for guest in alive {
            teardown(cpu, &mut booted, guest);
        }
        prop_assert_eq!(leaves(machine), boot);
        prop_assert_eq!(booted.memory.frames.free_frames(), free);
    }
}
