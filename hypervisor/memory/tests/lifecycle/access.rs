//! What the host reads and writes of a guest's memory before it runs, and what is left of it.

use super::*;

#[test]
fn nothing_of_a_guest_stays_in_ram_and_a_new_one_reads_zeros() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let secret = 0x5ec2_e700_5ec2_e711_u64;
    let mut guest = launch(cpu, &mut booted, 1, 4 * MIB);
    let Booted { memory, windows } = &mut booted;
    // Across the boundary of two regions.
    let bytes: Vec<u8> = (0..64).flat_map(|_| secret.to_le_bytes()).collect();
    guest
        .write(
            &cpu,
            &memory.frames,
            &mut windows[0],
            Gpa::new(2 * MIB - 256),
            &bytes,
        )
        .unwrap();
    let mut back = vec![0; 512];
    guest
        .read(
            &cpu,
            &memory.frames,
            &mut windows[0],
            Gpa::new(2 * MIB - 256),
            &mut back,
        )
        .unwrap();
    assert_eq!(back, bytes);
    assert!(machine.ram().contains(secret), "the search finds what is there");
    teardown(cpu, &mut booted, guest);
    assert!(!machine.ram().contains(secret));

    let Booted { memory, windows } = &mut booted;
    // What the host left in free memory does not reach a guest either.
    cpu.store(at(Pfn::new(300 * 512)), secret).unwrap();
    let all = memory.frames.free_regions() * 2 * MIB - 4 * MIB;
    let guest = memory
        .launch(&cpu, kind(2), id(2), all)
        .unwrap()
        .wait(&cpu)
        .finish(memory, &cpu, &mut windows[0]);
    assert!(
        !machine.ram().contains(secret),
        "the guest was given unscrubbed memory"
    );
    teardown(cpu, &mut booted, guest);
}

#[test]
fn writes_of_any_alignment_touch_nothing_beside_them() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let mut guest = launch(cpu, &mut booted, 1, 4 * MIB);
    let Booted { memory, windows } = &mut booted;
    let mut expected = vec![0xaa; 64];
    guest
        .write(
            &cpu,
            &memory.frames,
            &mut windows[0],
            Gpa::new(2 * MIB - 32),
            &expected,
        )
        .unwrap();
    for (offset, length) in [(3, 1), (5, 9), (30, 5), (40, 24)] {
        let data: Vec<u8> = (0..length as u8).collect();
        let at = Gpa::new(2 * MIB - 32 + offset as u64);
        guest
            .write(&cpu, &memory.frames, &mut windows[0], at, &data)
            .unwrap();
        expected[offset..offset + length].copy_from_slice(&data);
    }
    let mut found = vec![0; 64];
    guest
        .read(
            &cpu,
            &memory.frames,
            &mut windows[0],
            Gpa::new(2 * MIB - 32),
            &mut found,
        )
        .unwrap();
    assert_eq!(found, expected);
    teardown(cpu, &mut booted, guest);
}

#[test]
fn a_guest_s_addresses_end_where_its_memory_ends() {
    let (machine, mut booted) = ModelMachine::boot(&[(0, GIB)], 1, Level::L3);
    let cpu = machine.cpu(0);
    let mut guest = launch(cpu, &mut booted, 1, 4 * MIB);
    let Booted { memory, windows } = &mut booted;
    for (at, bytes) in [(4 * MIB - 1, 2), (u64::MAX, 1), (4 * MIB, 1), (u64::MAX - 3, 8)] {
        let mut data = vec![7; bytes];
        assert!(
            guest
                .write(&cpu, &memory.frames, &mut windows[0], Gpa::new(at), &data)
                .is_err()
        );
        assert!(
            guest
                .read(&cpu, &memory.frames, &mut windows[0], Gpa::new(at), &mut data)
                .is_err()
        );
        assert!(data.iter().all(|byte| *byte == 7));
    }
    teardown(cpu, &mut booted, guest);
}
