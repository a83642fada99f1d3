//! Changes of guests whose memory is in pieces, as there was no whole region left.

use super::*;

/// One frame of each region, the last, is the host's, with a word in it; so the guest's 2 MiB begin with what begins a region.
fn in_pieces(bench: &mut Bench<'_>) -> Vec<Pfn> {
    let frames = &mut bench.memory.frames;
    let all: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok()).collect();
    let (held, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|frame| frame.pfn().get() % 512 == 511);
    free.into_iter().for_each(|frame| frames.free(frame));
    let held: Vec<Pfn> = held.into_iter().map(|frame| frame.pfn()).collect();
    for pfn in &held {
        let at = direct(pfn.hpa()).unwrap();
        bench.cpu.store(at, pfn.get()).unwrap();
    }
    held
}

/// Only the guest's own frames are zeroed for a change of 2 MiB, wherever they lie; and frames that do not follow each other are not mapped by
/// one leaf when all of them are accepted again.
#[test]
fn two_mebibytes_in_pieces_are_shared_and_come_back() {
    for kind in [SecondStageKind::Nested, SecondStageKind::Extended] {
        let mut bench = Bench::of_ram(64 * MIB);
        let held = in_pieces(&mut bench);
        let mut guest = bench.launch_as(1, kind, 4 * MIB);
        let frames = &bench.memory.frames;
        assert_eq!(guest.regions(&bench.cpu, frames).count(), 0);
        let (first, _) = guest.pieces(&bench.cpu, frames).next().unwrap();
        assert!(first.is_aligned(512), "the first piece does not begin a region");
        let pages = || (0..4 * MIB).step_by(PAGE_SIZE as usize);
        pages().for_each(|at| assert!(bench.store(at, !at)));
        let before = bench.memory.stats();
        for change in [Change::Share, Change::Unshare, Change::Accept] {
            bench.change(&mut guest, change, 0, 2 * MIB).unwrap();
        }
        for at in pages() {
            let expected = if at < 2 * MIB { 0 } else { !at };
            assert_eq!(bench.load(&guest, at), Some(expected), "{kind:?} {at:#x}");
        }
        for pfn in held {
            assert_eq!(bench.cpu.load(direct(pfn.hpa()).unwrap()), Ok(pfn.get()));
        }
        let stats = bench.memory.stats();
        assert_eq!(stats.bytes_scrubbed - before.bytes_scrubbed, 2 * MIB);
        assert_eq!(stats.second_stage_collapses, before.second_stage_collapses);
        let blocked = stats.promotions_blocked.address - before.promotions_blocked.address;
        assert_eq!(blocked, 1);
        bench.teardown(guest);
    }
}

/// What the host's window shows is the guest's: one entry for a region, and for pieces one for each page, as what follows in the guest need not
/// follow in RAM.
#[test]
fn a_region_is_read_through_one_window_and_pieces_page_by_page() {
    let mut bench = Bench::of_ram(64 * MIB);
    for (pieces, entries) in [(false, 2), (true, 2 * 512)] {
        if pieces {
            in_pieces(&mut bench);
        }
        let mut guest = bench.launch_as(1, SecondStageKind::Nested, 2 * MIB);
        let pages = || (0..2 * MIB).step_by(PAGE_SIZE as usize);
        pages().for_each(|at| assert!(bench.store(at, !at)));
        let Bench {
            machine,
            cpu,
            memory,
            windows,
            ..
        } = &mut bench;
        let mut data = vec![0; 2 << 20];
        let before = machine.stores();
        let at = Gpa::new(0);
        guest
            .read(cpu, &memory.frames, &mut windows[0], at, &mut data)
            .unwrap();
        // Opened and closed.
        assert_eq!(machine.stores() - before, entries);
        for (page, at) in data.chunks(PAGE_SIZE as usize).zip(pages()) {
            assert_eq!(page[..8], (!at).to_le_bytes());
        }
        data.reverse();
        guest
            .write(cpu, &memory.frames, &mut windows[0], at, &data)
            .unwrap();
        assert_eq!(machine.stores() - before, 2 * entries);
        for (page, at) in data.chunks(PAGE_SIZE as usize).zip(pages()) {
            let word = u64::from_le_bytes(page[..8].try_into().unwrap());
            assert_eq!(bench.load(&guest, at), Some(word));
        }
        bench.teardown(guest);
    }
}
