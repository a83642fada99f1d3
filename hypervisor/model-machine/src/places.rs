//! Where each table stands: in which tree, at which level, for which addresses. Rebuilt after each operation, added to when a store links
//! a table. A place may be out of date, never missing.

use std::collections::{BTreeMap, HashSet};

use memory::address::Pfn;

/// A tree, or the part of one that CPUs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// What all CPUs' tables share: everything but the windows.
    Shared,
    /// The windows of one CPU.
    Window(usize),
    /// The second stage of the guest with this number.
    Guest(u16),
}

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) space: Space,
    pub(crate) level: u8,
    /// The first address that it translates, without sign.
    pub(crate) base: u64,
}

/// Where all tables stand.
#[derive(Default)]
pub(crate) struct Places {
    of: BTreeMap<u64, Vec<Place>>,
}

impl Places {
    pub(crate) fn clear(&mut self) {
        self.of.clear();
    }

    pub(crate) fn add(&mut self, table: Pfn, place: Place) {
        let places = self.of.entry(table.get()).or_default();
        if !places.contains(&place) {
            places.push(place);
        }
    }

    pub(crate) fn of(&self, table: Pfn) -> Vec<Place> {
        self.of.get(&table.get()).cloned().unwrap_or_default()
    }

    /// The tables among some frames.
    pub(crate) fn among(&self, first: Pfn, frames: u64) -> Vec<Pfn> {
        let range = first.get()..first.get() + frames;
        self.of.range(range).map(|(table, _)| Pfn::new(*table)).collect()
    }

    /// Tables of second stages.
    pub(crate) fn of_guests(&self) -> HashSet<u64> {
        self.of
            .iter()
            .filter(|(_, places)| places.iter().any(|place| matches!(place.space, Space::Guest(_))))
            .map(|(table, _)| *table)
            .collect()
    }
}
