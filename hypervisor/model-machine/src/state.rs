//! Everything of the machine but its RAM, and what follows from it: who may reach and walk what.

use std::collections::BTreeMap;

use audit::Leaf;
use memory::address::{Hpa, Hva, Pfn};
use memory::layout::{DIRECT_MAP_BASE, SLOT_BYTES, WINDOW_BASE};

use crate::check::{Rule, Violation};
use crate::cpu::Cpu;
use crate::guests::{GuestTree, TableKind, is_shared};
use crate::journal::{Journal, Time};
use crate::places::{Place, Places, Space};
use crate::ram::Ram;
use crate::reach::{LINEAR, Node, Reached, Walker, host_format};
use crate::tags::{Tags, Writer};
use crate::tally::Tally;

/// The addresses of the windows, without sign.
pub(crate) const WINDOWS: (u64, u64) = {
    let first = WINDOW_BASE.get() & LINEAR;
    (first, first + SLOT_BYTES - 1)
};

/// The tables before and after the windows.
pub(crate) const AROUND_WINDOWS: [(u64, u64); 2] = [(0, WINDOWS.0 - 1), (WINDOWS.1 + 1, LINEAR)];

/// Everything but the RAM.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) guests: Vec<GuestTree>,
    pub(crate) journal: Journal,
    pub(crate) tags: Tags,
    pub(crate) places: Places,
    /// What guests may reach: start to length and guest. Too much in it does no harm.
    pub(crate) reached_by_guests: BTreeMap<u64, (u64, u16)>,
    /// The CPU that filled each window entry last.
    pub(crate) opened: BTreeMap<u64, usize>,
    /// Where a CPU's window entries are that were ever written, by CPU, first address without sign, and level.
    pub(crate) window_entries: BTreeMap<(usize, u64, u8), Hpa>,
    /// Interrupts that are on their way, by the CPU that they go to.
    pub(crate) interrupted: Vec<usize>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) stores: u64,
    pub(crate) tally: Tally,
}

impl State {
    /// The walker over host tables.
    pub(crate) fn host<'a>(&'a self, ram: &'a Ram) -> Walker<'a> {
        Walker {
            ram,
            journal: &self.journal,
            format: host_format(),
        }
    }

    /// The walker over second-stage tables of a kind.
    pub(crate) fn second_stage<'a>(&'a self, ram: &'a Ram, kind: TableKind) -> Walker<'a> {
        Walker {
            ram,
            journal: &self.journal,
            format: kind.format(),
        }
    }

    /// Notes that a rule was broken.
    pub(crate) fn broken(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// Whether a leaf of a guest's leads to memory that the direct map does not show: at the private alias always, at the shared one when it is
    /// shared in place.
    pub(crate) fn is_hidden_leaf(&self, ram: &Ram, leaf: &Leaf) -> bool {
        if !is_shared(leaf) {
            return true;
        }
        let frame = Hpa::new(leaf.pa.get()).pfn();
        // Written since it was zeroed: then it is known by whom.
        match self.tags.get(frame) {
            Writer::Shared | Writer::Host => return false,
            Writer::Guest => return true,
            Writer::Unknown | Writer::Zeroed => {}
        }
        let Some(cpu) = self.cpus.first() else {
            return false;
        };
        let at = (DIRECT_MAP_BASE.get() & LINEAR) + leaf.pa.get();
        let mut shown = false;
        self.host(ram)
            .walk(cpu.root, self.journal.now(), (at, at), &mut |node| {
                shown |= matches!(node, Node::Leaf(reached) if reached.current);
            });
        !shown
    }

    /// When the CPU, and when the CPU or guest, that flushed least recently did so.
    fn oldest_flush(&self) -> (Time, Time) {
        let now = self.journal.now();
        let walking = self.cpus.iter().filter(|cpu| cpu.may_walk());
        let host = walking.map(|cpu| cpu.flushed).min().unwrap_or(now);
        let guest = self.guests.iter().map(|guest| guest.flushed).min().unwrap_or(now);
        (host, host.min(guest))
    }

    pub(crate) fn trim(&mut self) {
        let (host, all) = self.oldest_flush();
        self.journal.trim(host, all, &self.places.of_guests());
    }

    /// A CPU flushes: global translations stay.
    pub(crate) fn flush_cpu(&mut self, ram: &Ram, index: usize) {
        if self.journal.saw_global {
            let mut globals = Vec::new();
            let cpu = &self.cpus[index];
            self.host(ram)
                .walk(cpu.root, cpu.flushed, (0, LINEAR), &mut |node| {
                    if let Node::Leaf(reached) = node
                        && reached.leaf.attributes.global
                        && !cpu.has_dropped(&reached.leaf, reached.until)
                        && !cpu.globals.contains(&reached.leaf)
                    {
                        globals.push(reached.leaf);
                    }
                });
            self.cpus[index].globals.extend(globals);
        }
        let now = self.journal.now();
        self.cpus[index].flush(now);
    }

    /// Finds every table's place anew.
    pub(crate) fn place_all(&mut self, ram: &Ram, shared_root: Pfn) {
        self.places.clear();
        self.reached_by_guests.clear();
        let top = Place {
            space: Space::Shared,
            level: 4,
            base: 0,
        };
        self.places.add(shared_root, top);
        let mut found = Vec::new();
        let (oldest, _) = self.oldest_flush();
        for (index, cpu) in self.cpus.iter().enumerate() {
            let mut add = |space, span| {
                self.host(ram).walk(cpu.root, oldest, span, &mut |node| {
                    if let Node::Table { pfn, level, base, .. } = node {
                        let space = if level == 4 { Space::Shared } else { space };
                        found.push((pfn, Place { space, level, base }));
                    }
                });
            };
            add(Space::Window(index), WINDOWS);
            if index == 0 {
                AROUND_WINDOWS.iter().for_each(|span| add(Space::Shared, *span));
            }
        }
        for (pfn, place) in found {
            self.places.add(pfn, place);
        }
        let numbers: Vec<u16> = self.guests.iter().map(|guest| guest.number).collect();
        for number in numbers {
            self.place_guest(ram, number);
        }
    }

    /// Finds the places of a guest's tables, and what it may reach.
    pub(crate) fn place_guest(&mut self, ram: &Ram, number: u16) {
        let Some(tree) = self.guests.iter().find(|tree| tree.number == number).copied() else {
            return;
        };
        let (mut tables, mut leaves) = (Vec::new(), Vec::new());
        self.second_stage(ram, tree.kind).walk(
            tree.root,
            tree.flushed,
            (0, LINEAR),
            &mut |node| match node {
                Node::Table { pfn, level, base, .. } => tables.push((pfn, level, base)),
                Node::Leaf(reached) if self.is_hidden_leaf(ram, &reached.leaf) => {
                    leaves.push(reached.extent())
                }
                Node::Leaf(_) => {}
                Node::Bad { .. } => {}
            },
        );
        let space = Space::Guest(number);
        for (pfn, level, base) in tables {
            self.places.add(pfn, Place { space, level, base });
        }
        for (start, bytes) in leaves {
            self.reached_by_guests.insert(start, (bytes, number));
        }
    }

    /// How a CPU's host code could reach bytes of these: by the direct map, or by a window that is not its own open one.
    pub(crate) fn host_reaches(
        &self,
        ram: &Ram,
        index: usize,
        start: u64,
        bytes: u64,
    ) -> Option<(Reached, &'static str)> {
        let cpu = &self.cpus[index];
        if cpu.is_held() {
            return None;
        }
        let overlaps = |leaf: &Leaf| {
            let (from, length) = (leaf.pa.get(), leaf.size.bytes());
            from < start + bytes && start < from + length
        };
        let mut found = None;
        let direct = (DIRECT_MAP_BASE.get() & LINEAR) + start;
        self.host(ram)
            .walk(cpu.root, cpu.flushed, (direct, direct + bytes - 1), &mut |node| {
                if let Node::Leaf(reached) = node
                    && overlaps(&reached.leaf)
                    && !cpu.has_dropped(&reached.leaf, reached.until)
                {
                    found = Some((reached, "the direct map"));
                }
            });
        self.host(ram).walk(cpu.root, cpu.flushed, WINDOWS, &mut |node| {
            if let Node::Leaf(reached) = node
                && overlaps(&reached.leaf)
                && !cpu.has_dropped(&reached.leaf, reached.until)
                && !(reached.current && self.opened.get(&reached.at.get()) == Some(&index))
            {
                found = Some((reached, "a window"));
            }
        });
        if let Some(leaf) = cpu.globals.iter().find(|leaf| overlaps(leaf)) {
            let reached = Reached {
                leaf: *leaf,
                at: Hpa::new(0),
                until: 0,
                current: false,
            };
            found = Some((reached, "a global translation"));
        }
        found
    }

    /// Whether some CPU, held or not, or some guest may walk a frame as a table.
    pub(crate) fn may_walk(&self, ram: &Ram, frame: Pfn) -> Option<String> {
        let mut found = None;
        for (index, cpu) in self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.may_walk()) {
            self.host(ram)
                .walk(cpu.root, cpu.flushed, (0, LINEAR), &mut |node| {
                    if matches!(node, Node::Table { pfn, .. } if pfn == frame) {
                        found = Some(format!("CPU {index}"));
                    }
                });
        }
        for tree in &self.guests {
            self.second_stage(ram, tree.kind)
                .walk(tree.root, tree.flushed, (0, LINEAR), &mut |node| {
                    if matches!(node, Node::Table { pfn, .. } if pfn == frame) {
                        found = Some(format!("guest {}", tree.number));
                    }
                });
        }
        found
    }

    /// A CPU has dropped a translation: if it is one of a window entry that no other CPU's tables lead to, nobody has what the entry was.
    pub(crate) fn forget_window(&mut self, index: usize, at: Hva) {
        for level in 1..=3_u8 {
            let first = at.get() & LINEAR & !((1_u64 << (12 + 9 * (level - 1))) - 1);
            let Some(entry) = self.window_entries.get(&(index, first, level)).copied() else {
                continue;
            };
            let own = |place: &Place| place.space == Space::Window(index);
            if self.places.of(entry.pfn()).iter().all(own) {
                self.journal.forget(entry);
            }
        }
    }
}
