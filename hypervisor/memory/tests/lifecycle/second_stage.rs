//! The second stage as its entries say it, read by hand.

use super::*;

/// The second-level entry of a guest's nested tables for the region at `gpa` below 1 GiB, and where it is.
fn nested_entry(machine: &ModelMachine, root: Hpa, gpa: u64) -> (Hpa, u64) {
    let below = |table: Hpa, index: u64| {
        let at = Hpa::new(table.get() + 8 * index);
        (at, machine.ram().load(at))
    };
    let address = |entry: u64| Hpa::new(entry & 0x000f_ffff_ffff_f000);
    let (_, top) = below(root, 0);
    let (_, third) = below(address(top), 0);
    below(address(third), gpa >> 21)
}

/// The entries of each layout, read by hand: nested tables by AMD APM vol. 2, 15.25.3 (present, writable, user, large), extended
/// ones by Intel SDM vol. 3C, tables 29-1 to 29-4 (read, write, execute; in the leaf write-back, ignore PAT, large).
#[test]
fn a_guest_s_tables_are_of_the_kind_that_was_asked_for() {
    for (kind, table_bits, leaf_bits) in [
        (SecondStageKind::Nested, 0x7, 0x87),
        (SecondStageKind::Extended, 0x7, 0xf7),
    ] {
        let (machine, mut booted) = ModelMachine::boot(&[(0, 2 * GIB)], 1, Level::L3);
        let cpu = machine.cpu(0);
        let free = booted.memory.frames.free_frames();
        let launching = booted
            .memory
            .launch(&cpu, kind, id(1), GIB + 4 * MIB)
            .unwrap()
            .wait(&cpu);
        let guest = launching.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
        let entry = |table: u64, index: u64| machine.ram().load(Hpa::new(table + 8 * index));
        let below = |table: u64, index: u64| {
            let entry = entry(table, index);
            assert_eq!(entry & 0xfff0_0000_0000_0fff, table_bits, "{kind:?}");
            entry & 0x000f_ffff_ffff_f000
        };
        let middle = below(guest.second_stage().get(), 0);
        let mut mapped = Vec::new();
        for gigabyte in 0..2 {
            let low = below(middle, gigabyte);
            for index in 0..512 {
                match entry(low, index) {
                    0 => assert!(gigabyte == 1 && index >= 2, "{kind:?}: a hole"),
                    leaf => {
                        assert_eq!(leaf & 0xfff0_0000_001f_ffff, leaf_bits, "{kind:?}");
                        mapped.push(Pfn::new((leaf & 0x000f_ffff_ffe0_0000) >> 12));
                    }
                }
            }
        }
        let mut regions: Vec<Pfn> = guest.regions(&cpu, &booted.memory.frames).collect();
        regions.sort();
        mapped.sort();
        assert_eq!(mapped, regions);
        teardown(cpu, &mut booted, guest);
        assert_eq!(booted.memory.frames.free_frames(), free);
    }
}

/// On a CPU that must not execute through large leaves: nothing is executable until it is asked for, then one region is, by small leaves.
/// Read by hand (Intel SDM vol. 3C, tables 29-4 and 29-6).
#[test]
fn a_fetch_from_a_large_leaf_splits_it_and_no_other() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L2);
    let cpu = machine.cpu(0);
    let (boot, free) = (leaves(machine), booted.memory.frames.free_frames());
    let kind = SecondStageKind::ExtendedSplit;
    let launching = booted
        .memory
        .launch(&cpu, kind, id(1), 8 * MIB)
        .unwrap()
        .wait(&cpu);
    let mut guest = launching.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
    // Eight MiB, three tables, and one for each of four regions.
    assert_eq!(booted.memory.frames.free_frames(), free - 4 * 512 - 3 - 4);
    let entry = |table: u64, index: u64| machine.ram().load(Hpa::new(table + 8 * index));
    let below = |table: u64, index: u64| entry(table, index) & 0x000f_ffff_ffff_f000;
    let low = below(below(guest.second_stage().get(), 0), 0);
    let before: Vec<u64> = (0..4).map(|index| entry(low, index)).collect();
    assert!(before.iter().all(|leaf| leaf & 0xfff == 0xf3));

    assert!(guest.allow_fetch(&mut booted.memory, &cpu, Gpa::new(5 * MIB + 123)));
    assert_eq!(booted.memory.stats().second_stage_splits, 1);
    let region = before[2] & 0x000f_ffff_ffff_f000;
    assert_eq!(entry(low, 2) & 0xfff, 0x7);
    for index in 0..512 {
        assert_eq!(entry(below(low, 2), index), (region + 4096 * index) | 0x77);
    }
    for index in [0, 1, 3] {
        assert_eq!(entry(low, index), before[index as usize]);
    }
    // What is executable already, or not there, is not split again.
    assert!(!guest.allow_fetch(&mut booted.memory, &cpu, Gpa::new(4 * MIB)));
    assert!(!guest.allow_fetch(&mut booted.memory, &cpu, Gpa::new(8 * MIB)));
    assert!(!guest.allow_fetch(&mut booted.memory, &cpu, Gpa::new(u64::MAX)));
    assert_eq!(booted.memory.stats().second_stage_splits, 1);

    // The host still finds the bytes, on both sides of the boundary.
    let Booted { memory, windows } = &mut booted;
    let at = Gpa::new(4 * MIB - 4);
    guest
        .write(&cpu, &memory.frames, &mut windows[0], at, b"boundary")
        .unwrap();
    let mut back = [0; 8];
    guest
        .read(&cpu, &memory.frames, &mut windows[0], at, &mut back)
        .unwrap();
    assert_eq!(&back, b"boundary");
    assert_eq!(
        machine.ram().load(Hpa::new(region)) as u32,
        u32::from_le_bytes(*b"dary")
    );
    teardown(cpu, &mut booted, guest);
    assert_eq!(leaves(machine), boot);
    assert_eq!(booted.memory.frames.free_frames(), free);
}

#[test]
fn large_leaves_that_may_be_executed_are_never_split() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    for kind in [SecondStageKind::Nested, SecondStageKind::Extended] {
        let launching = booted
            .memory
            .launch(&cpu, kind, id(1), 4 * MIB)
            .unwrap()
            .wait(&cpu);
        let mut guest = launching.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
        assert!(!guest.allow_fetch(&mut booted.memory, &cpu, Gpa::new(0)));
        teardown(cpu, &mut booted, guest);
    }
    assert_eq!(booted.memory.stats().second_stage_splits, 0);
}

#[test]
fn a_guest_s_leaves_let_it_read_write_and_execute() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let guest = launch(cpu, &mut booted, 1, 4 * MIB);
    for gpa in [0, 2 * MIB] {
        let (_, entry) = nested_entry(machine, guest.second_stage(), gpa);
        // Present, writable, user, large; no-execute clear (APM vol. 2, 15.25.5: a nested walk is a user access).
        assert_eq!(entry & (1 << 63 | 0x87), 0x87, "{entry:#x}");
    }
    teardown(cpu, &mut booted, guest);
}

#[test]
fn revoking_cuts_the_second_stage_at_its_root() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let guest = launch(cpu, &mut booted, 1, 4 * MIB);
    let root = guest.second_stage();
    assert_ne!(machine.ram().load(root), 0);
    let revoked = guest.revoke(&cpu);
    assert_eq!(machine.ram().load(root), 0);
    let teardown = revoked.reclaim(GuestFlushed::new(id(1)));
    let restored = teardown.finish(&mut booted.memory, &cpu, &mut booted.windows[0]);
    restored.wait(&cpu).release(&mut booted.memory, &cpu);
}

#[test]
fn a_nested_entry_that_leads_to_another_guest_s_frame_is_not_believed() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let (one, two) = (
        launch(cpu, &mut booted, 1, 4 * MIB),
        launch(cpu, &mut booted, 2, 4 * MIB),
    );
    let (at, own) = nested_entry(machine, one.second_stage(), 0);
    let (_, foreign) = nested_entry(machine, two.second_stage(), 0);
    let (_, shifted) = nested_entry(machine, one.second_stage(), 2 * MIB);
    for wrong in [foreign, shifted] {
        machine.ram().store(at, wrong);
        let mut byte = [7];
        let Booted { memory, windows } = &mut booted;
        assert!(
            one.read(&cpu, &memory.frames, &mut windows[0], Gpa::new(0), &mut byte)
                .is_err()
        );
        assert_eq!(byte, [7]);
    }
    machine.ram().store(at, own);
    for guest in [one, two] {
        teardown(cpu, &mut booted, guest);
    }
}
