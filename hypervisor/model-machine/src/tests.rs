//! The model itself: what it believes a CPU may still use, with tables written by hand.

use memory::address::{Hpa, Hva, Level, Pfn};
use memory::layout::{WINDOW_BASE, direct};
use memory::machine::Machine;

use crate::board::Board;
use crate::check::{Rule, Violation};
use crate::hardware::ModelCpu;
use crate::machine::ModelMachine;
use crate::tags::Writer;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Present, writable, accessed, dirty, no-execute; and large.
const DATA: u64 = 1 << 63 | 0x63;
const LARGE: u64 = 0x80;
/// Present, writable, user: an entry that leads to a table.
const TABLE: u64 = 7;

/// The entry of level `level` for an address under a root, as the tables are.
fn entry(machine: &ModelMachine, root: Pfn, at: Hva, level: u8) -> Hpa {
    let mut table = root.hpa();
    for current in (level + 1..=4).rev() {
        let entry = machine
            .ram()
            .load(Hpa::new(table.get() + 8 * at.index(current) as u64));
        table = Hpa::new(entry & 0x000f_ffff_ffff_f000);
    }
    Hpa::new(table.get() + 8 * at.index(level) as u64)
}

fn reached(machine: &ModelMachine, cpu: usize, at: u64) -> bool {
    let state = machine.state();
    state.host_reaches(machine.ram(), cpu, at, 4096).is_some()
}

fn rules(found: Vec<Violation>) -> Vec<Rule> {
    found.into_iter().map(|violation| violation.rule).collect()
}

/// All CPUs flush.
fn flush(cpu: ModelCpu<'_>) {
    let request = cpu.cpu().request();
    cpu.cpu().wait(&cpu, request);
}

/// A machine whose second gigablock has a 1G leaf, and where that leaf's entry is.
fn board() -> (Board, Hva) {
    (
        Board::new(&[(0, 64 * MIB), (GIB, GIB)], 2, Level::L3),
        direct(Hpa::new(GIB)).unwrap(),
    )
}

#[test]
fn what_was_overwritten_is_used_until_each_cpu_has_flushed() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let (cpu, other) = (machine.cpu(0), machine.cpu(1));
    let slot = entry(machine, machine.shared_root(), at, 3);
    assert!(reached(machine, 0, GIB) && reached(machine, 1, GIB));
    cpu.note_store(slot, 0);
    assert!(reached(machine, 0, GIB) && reached(machine, 1, GIB));
    // The other one is in a guest: after the flush it can't use it, though it holds it still.
    other.enter_guest();
    assert!(reached(machine, 1, GIB), "it may come back without a flush");
    flush(cpu);
    assert!(!reached(machine, 0, GIB) && !reached(machine, 1, GIB));
    assert!(
        !machine.state().journal.frame(slot.pfn().get()).unwrap()[slot.get() as usize % 4096 / 8]
            .past
            .is_empty()
    );
    other.leave_guest();
    assert!(!reached(machine, 1, GIB));
}

#[test]
fn an_nmi_in_a_guest_counts_as_the_host() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let (cpu, other) = (machine.cpu(0), machine.cpu(1));
    other.enter_guest();
    cpu.note_store(entry(machine, machine.shared_root(), at, 3), 0);
    let mut before_the_flush = false;
    other.nmi(|| before_the_flush = reached(machine, 1, GIB));
    assert!(before_the_flush);
    flush(cpu);
    other.nmi(|| assert!(!reached(machine, 1, GIB)));
}

/// A walk reads upper entries first: what a frame held before it was linked is not found, what it held while it was linked is.
#[test]
fn a_walk_does_not_go_back_in_time() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    let slot = entry(machine, machine.shared_root(), at, 3);
    let leaf = machine.ram().load(slot);
    let table = Pfn::new(0x3000);
    let inner = |index: u64| Hpa::new(table.hpa().get() + 8 * index);
    cpu.note_store(slot, 0);
    flush(cpu);
    // Before the link: leads to the third region.
    cpu.note_store(inner(0), (GIB + 4 * MIB) | DATA | LARGE);
    cpu.note_store(inner(0), 0);
    cpu.note_store(slot, table.hpa().get() | TABLE);
    let leads_to = |wanted: u64| {
        let mut found = false;
        let state = machine.state();
        let first = at.get() & crate::reach::LINEAR;
        let cpu = &state.cpus[1];
        state
            .host(machine.ram())
            .walk(cpu.root, cpu.flushed, (first, first + 2 * MIB - 1), &mut |node| {
                found |= matches!(node, crate::reach::Node::Leaf(leaf) if leaf.leaf.pa.get() == wanted);
            });
        found
    };
    assert!(!leads_to(GIB + 4 * MIB));
    // After it: leads to the first region, until the flush, although table and entry are gone.
    cpu.note_store(inner(0), GIB | DATA | LARGE);
    cpu.note_store(inner(0), 0);
    cpu.note_store(slot, 0);
    assert!(leads_to(GIB));
    // A frame that is still walked is filled with something else: that is found, too.
    cpu.note_store(inner(1), (GIB + 2 * MIB) | DATA | LARGE);
    assert!(reached(machine, 1, GIB + 2 * MIB));
    assert!(machine.state().may_walk(machine.ram(), table).is_some());
    flush(cpu);
    assert!(!leads_to(GIB));
    assert!(machine.state().may_walk(machine.ram(), table).is_none());
    cpu.note_store(slot, leaf);
    assert!(leads_to(GIB));
}

#[test]
fn a_dropped_translation_is_dropped_on_one_cpu_and_for_one_page() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    cpu.note_store(entry(machine, machine.shared_root(), at, 3), 0);
    cpu.invalidate(Hva::new(at.get() + GIB));
    assert!(reached(machine, 0, GIB));
    cpu.invalidate(Hva::new(at.get() + 5 * MIB));
    assert!(!reached(machine, 0, GIB), "the page is 1G large");
    assert!(reached(machine, 1, GIB));
}

#[test]
fn a_global_translation_survives_a_flush_but_not_an_invalidation() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    let slot = entry(machine, machine.shared_root(), at, 3);
    cpu.note_store(slot, machine.ram().load(slot) | 1 << 8);
    cpu.note_store(slot, 0);
    flush(cpu);
    assert!(reached(machine, 0, GIB));
    cpu.invalidate(at);
    assert!(!reached(machine, 0, GIB));
    assert!(reached(machine, 1, GIB));
}

#[test]
fn windows_are_their_cpu_s_own() {
    let (mut board, _) = board();
    let (machine, booted) = board.boot();
    let root = machine.state().cpus[0].root;
    let slot = entry(machine, root, WINDOW_BASE, 2);
    // Hidden, so that only windows lead there.
    machine.cpu(0).note_store(
        entry(machine, machine.shared_root(), direct(Hpa::new(GIB)).unwrap(), 3),
        0,
    );
    flush(machine.cpu(0));
    machine.cpu(0).note_store(slot, GIB | DATA | LARGE);
    assert!(!reached(machine, 0, GIB) && !reached(machine, 1, GIB));
    // Closed, not invalidated: only this CPU.
    machine.cpu(0).note_store(slot, 0);
    assert!(reached(machine, 0, GIB) && !reached(machine, 1, GIB));
    // Opened on something else meanwhile: two translations for one page.
    assert_eq!(machine.take_violations(), []);
    machine.cpu(0).note_store(slot, (GIB + 2 * MIB) | DATA | LARGE);
    assert_eq!(rules(machine.take_violations()), [Rule::SizeAndAttributesApart]);
    machine.cpu(0).note_store(slot, 0);
    machine.cpu(0).invalidate(WINDOW_BASE);
    assert!(!reached(machine, 0, GIB));
    // By another CPU's hand.
    machine.cpu(1).note_store(slot, GIB | DATA | LARGE);
    assert_eq!(rules(machine.take_violations()), [Rule::HiddenMeansHidden]);
    drop(booted);
}

#[test]
fn entries_that_disagree_are_noticed_in_splits_and_merges() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    let slot = entry(machine, machine.shared_root(), at, 3);
    let leaf = machine.ram().load(slot);
    let table = Pfn::new(0x3000);
    let inner = |index: u64| Hpa::new(table.hpa().get() + 8 * index);
    let fill = |wrong: Option<u64>| {
        for index in 0..512 {
            let right = (GIB + 2 * MIB * index) | DATA | LARGE;
            machine.ram().store(inner(index), right);
        }
        if let Some(entry) = wrong {
            machine.ram().store(inner(7), entry);
        }
    };
    let right = (GIB + 14 * MIB) | DATA | LARGE;
    for wrong in [
        0,
        right & !2,
        right ^ 1 << 12,
        right ^ 1 << 63,
        right + 2 * MIB,
        right | 4,
    ] {
        fill(Some(wrong));
        cpu.note_store(slot, table.hpa().get() | TABLE);
        assert!(
            rules(machine.take_violations()).contains(&Rule::SizeAndAttributesApart),
            "a split into {wrong:#x}"
        );
        cpu.note_store(slot, leaf);
        assert!(
            rules(machine.take_violations()).contains(&Rule::SizeAndAttributesApart),
            "a merge of {wrong:#x}"
        );
        flush(cpu);
    }
    fill(None);
    cpu.note_store(slot, table.hpa().get() | TABLE);
    cpu.note_store(slot, leaf);
    assert_eq!(machine.take_violations(), []);
    // Accessed and dirty bits are or-ed, not lost.
    cpu.note_store(slot, table.hpa().get() | TABLE);
    cpu.note_store(slot, leaf & !0x40);
    assert_eq!(rules(machine.take_violations()), [Rule::SizeAndAttributesApart]);
    // Reserved bits.
    cpu.note_store(slot, leaf | 1 << 13);
    assert!(rules(machine.take_violations()).contains(&Rule::SizeAndAttributesApart));
}

#[test]
fn leaves_over_the_end_of_ram_and_at_the_wrong_place_are_noticed() {
    let (mut board, _) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    let first = direct(Hpa::new(0)).unwrap();
    // The first gigablock has 64 MiB; its table is replaced by one leaf over all of it.
    let slot = entry(machine, machine.shared_root(), first, 3);
    cpu.note_store(slot, 0);
    flush(cpu);
    cpu.note_store(slot, DATA | LARGE);
    assert_eq!(rules(machine.take_violations()), [Rule::SizeAndAttributesApart]);
    cpu.note_store(slot, 0);
    flush(cpu);
    cpu.note_store(slot, GIB | DATA | LARGE);
    assert_eq!(rules(machine.take_violations()), [Rule::DirectMapShape]);
}

#[test]
fn what_a_guest_wrote_must_not_be_seen_in_the_direct_map() {
    let (mut board, at) = board();
    let (machine, _booted) = board.boot();
    let cpu = machine.cpu(0);
    let slot = entry(machine, machine.shared_root(), at, 3);
    let leaf = machine.ram().load(slot);
    cpu.note_store(slot, 0);
    flush(cpu);
    machine
        .state()
        .tags
        .set(Pfn::new((GIB >> 12) + 77), Writer::Guest);
    cpu.note_store(slot, leaf);
    assert_eq!(rules(machine.take_violations()), [Rule::NothingLeaks]);
}
