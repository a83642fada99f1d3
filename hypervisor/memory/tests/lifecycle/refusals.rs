//! Launches that are refused, and proofs that are none: nothing changes.

use super::*;

#[test]
fn refused_launches_change_nothing() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, 256 * MIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let (boot, free) = (leaves(machine), booted.memory.frames.free_frames());
    let mut refuse = |bytes| match booted.memory.launch(&cpu, kind(1), id(1), bytes) {
        Err(error) => error,
        Ok(_) => panic!("{bytes} bytes were granted"),
    };
    assert!(matches!(refuse(0), LaunchError::BadSize(0)));
    assert!(matches!(refuse(3 * MIB), LaunchError::BadSize(_)));
    assert!(matches!(refuse(1 << 40), LaunchError::TooLarge { .. }));
    let LaunchError::OutOfMemory(error) = refuse(GIB) else {
        panic!("not out of memory")
    };
    assert_eq!(error.wanted, GIB);
    assert_eq!(leaves(machine), boot);
    assert_eq!(booted.memory.frames.free_frames(), free);
    assert_eq!(booted.memory.stats(), Default::default());
}

/// Restore writes data leaves, so what is anything else must not be hidden: it would not come back as it was.
#[test]
fn memory_that_is_not_ordinary_data_is_not_hidden() {
    for largest in [Level::L2, Level::L3] {
        let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, largest);
        let cpu = machine.cpu(0);
        let root = machine.shared_root().hpa().get();
        let below =
            |table: u64, index: u64| machine.ram().load(Hpa::new(table + 8 * index)) & 0x000f_ffff_ffff_f000;
        let third = below(root, 256);
        // Read-only: the one 1G leaf, or every 2M leaf.
        let entries: Vec<u64> = match largest {
            Level::L3 => vec![third],
            _ => (0..512).map(|index| below(third, 0) + 8 * index).collect(),
        };
        for entry in entries {
            let entry = Hpa::new(entry);
            machine.ram().store(entry, machine.ram().load(entry) & !2);
        }
        let (before, free) = (leaves(machine), booted.memory.frames.free_frames());
        let refused = booted
            .memory
            .launch(&cpu, SecondStageKind::Nested, id(1), 4 * MIB);
        assert!(matches!(refused, Err(LaunchError::Hide(_))), "{largest:?}");
        assert_eq!(
            (leaves(machine), booted.memory.frames.free_frames()),
            (before, free)
        );
    }
}

#[test]
fn a_launch_that_fails_at_any_allocation_changes_nothing() {
    let mut outcomes = Vec::new();
    for left in 0..10 {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 3 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        // Leave 600 regions and `left` single frames: the launch needs the regions, second-stage tables and tables for splits.
        let frames = &mut booted.memory.frames;
        let regions = frames.carve(600).unwrap();
        let mut held = Vec::new();
        while let Ok(frame) = frames.allocate(0) {
            held.push(frame);
        }
        for _ in 0..left {
            frames.free(held.pop().unwrap());
        }
        frames.uncarve(regions);
        let free = (frames.free_frames(), frames.free_regions());
        assert_eq!(free, (600 * 512 + left, 600));
        let before = leaves(machine);
        match booted
            .memory
            .launch(&cpu, kind(left as u16 % 2), id(1), 600 * 2 * MIB)
        {
            Ok(hiding) => {
                let guest = hiding
                    .wait(&cpu)
                    .finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
                teardown(cpu, &mut booted, guest);
                outcomes.push(true);
            }
            Err(LaunchError::OutOfMemory(_) | LaunchError::Hide(_)) => {
                assert_eq!(booted.memory.stats(), Default::default());
                outcomes.push(false);
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(leaves(machine), before);
        assert_eq!(
            (
                booted.memory.frames.free_frames(),
                booted.memory.frames.free_regions()
            ),
            free
        );
    }
    // Two tables on top, two for two GiB of guest, and one for the gigablock that is broken: the other one is hidden whole.
    assert_eq!(outcomes, (0..10).map(|left| left >= 5).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "the wrong guest was flushed")]
fn another_guest_s_flush_is_no_proof() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let guest = launch(cpu, &mut booted, 1, 2 * MIB);
    let _ = guest.revoke(&cpu).reclaim(GuestFlushed::new(id(2)));
}
