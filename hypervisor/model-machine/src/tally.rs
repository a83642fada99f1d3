//! What happened to the direct map and to guests' tables, counted by the machine itself from the stores that it sees: what the counters of
//! `memory` must say, too.

use audit::Entry;
use memory::address::{Hpa, Pfn};
use memory::layout::DIRECT_MAP_BASE;
use memory::stats::Stats;

use crate::check::{Rule, Violation};
use crate::machine::ModelMachine;
use crate::places::{Place, Space};
use crate::ram::Ram;
use crate::reach::{LINEAR, Walker, hpa};
use crate::state::State;

/// Counts since the boot. Only those that stores tell are in use.
#[derive(Default)]
pub(crate) struct Tally {
    counted: Stats,
    /// Bytes zeroed through windows.
    zeroed: u64,
}

impl Tally {
    /// An entry of a table that is linked at `place` became another.
    fn count(&mut self, place: Place, before: &Entry, after: &Entry) {
        let counted = &mut self.counted;
        if let Space::Guest(_) = place.space {
            // As in `Stats`: a 1G leaf that is cut into leaves of 2M is none.
            if matches!((place.level, before, after), (2, Entry::Leaf(_), Entry::Table(_))) {
                counted.second_stage_splits += 1;
            }
            return;
        }
        counted.direct_map_writes += 1;
        match (place.level, before, after) {
            (3, Entry::Leaf(_), Entry::Table(_)) => counted.level3_splits += 1,
            (3, Entry::Table(_), Entry::Leaf(_)) => counted.level3_collapses += 1,
            (3, Entry::Table(_), Entry::Absent) => counted.tables_parked += 1,
            (3, Entry::Leaf(_), Entry::Absent) => {
                counted.gigablocks_hidden += 1;
                counted.regions_hidden += 512;
            }
            (3, Entry::Absent, Entry::Leaf(_)) => counted.regions_restored += 512,
            (2, Entry::Leaf(_), Entry::Table(_)) => counted.level2_splits += 1,
            (2, Entry::Table(_), Entry::Leaf(_)) => counted.level2_collapses += 1,
            (2, Entry::Leaf(_), Entry::Absent) => counted.regions_hidden += 1,
            (2, Entry::Absent, Entry::Leaf(_)) => counted.regions_restored += 1,
            (1, Entry::Leaf(_), Entry::Absent) => counted.pages_hidden += 1,
            (1, Entry::Absent, Entry::Leaf(_)) => counted.pages_restored += 1,
            _ => {}
        }
    }

    /// Bytes were zeroed through a window.
    pub(crate) fn zeroed(&mut self, bytes: u64) {
        self.zeroed += bytes;
    }
}

impl State {
    /// Counts a store, if the table is linked there right now.
    pub(crate) fn tally(&mut self, ram: &Ram, table: Pfn, place: Place, linear: u64, (old, new): (u64, u64)) {
        let root = match place.space {
            Space::Shared if is_direct(linear) => self.cpus.first().map(|cpu| cpu.root),
            Space::Guest(number) => self
                .guests
                .iter()
                .find(|tree| tree.number == number)
                .map(|tree| tree.root),
            Space::Shared | Space::Window(_) => None,
        };
        let (Some(root), Some(walker)) = (root, self.walker_at(ram, place.space)) else {
            return;
        };
        if is_linked(&walker, root, table, place.level, linear) {
            let (before, after) = (
                walker.decode(place.level, linear, old),
                walker.decode(place.level, linear, new),
            );
            self.tally.count(place, &before, &after);
        }
    }
}

/// Whether an address lies in the half of the direct map (all of it below the windows' slot).
fn is_direct(linear: u64) -> bool {
    (DIRECT_MAP_BASE.get() & LINEAR..crate::state::WINDOWS.0).contains(&linear)
}

/// Whether a walk from `root` comes by `table` at `level` for an address.
fn is_linked(walker: &Walker<'_>, root: Pfn, table: Pfn, level: u8, linear: u64) -> bool {
    let (mut at, mut current) = (root, 4);
    while current > level {
        let index = linear >> (12 + 9 * (current - 1)) & 511;
        let entry = walker.ram.load(Hpa::new(at.hpa().get() + 8 * index));
        let Entry::Table(below) = walker.decode(current, linear, entry) else {
            return false;
        };
        (at, current) = (hpa(below).pfn(), current - 1);
    }
    at == table
}

impl ModelMachine {
    /// Judges the counters of `memory`: of what the machine has seen they must say exactly as much, and no more scrubbed than it saw zeroed.
    pub fn check_counters(&self, said: &Stats) -> Vec<Violation> {
        let state = self.state();
        let counted = &state.tally.counted;
        let expected = Stats {
            level2_splits: counted.level2_splits,
            level3_splits: counted.level3_splits,
            level2_collapses: counted.level2_collapses,
            level3_collapses: counted.level3_collapses,
            direct_map_writes: counted.direct_map_writes,
            tables_parked: counted.tables_parked,
            regions_hidden: counted.regions_hidden,
            regions_restored: counted.regions_restored,
            gigablocks_hidden: counted.gigablocks_hidden,
            pages_hidden: counted.pages_hidden,
            pages_restored: counted.pages_restored,
            second_stage_splits: counted.second_stage_splits,
            bytes_scrubbed: said.bytes_scrubbed.min(state.tally.zeroed),
            ..*said
        };
        if expected == *said {
            return Vec::new();
        }
        let what = format!("{said:?}, but the stores say {expected:?}");
        vec![Violation {
            rule: Rule::Counters,
            what,
        }]
    }

    /// Bytes zeroed through windows since the boot.
    pub fn zeroed(&self) -> u64 {
        self.state().tally.zeroed
    }
}
