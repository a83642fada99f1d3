//! What happened, in order: a ring of events for each CPU.
//!
//! A machine that wants to know gives a [`Tracer`] ([`Machine::tracer`](crate::machine::Machine::tracer)); without one an event costs a
//! test of a pointer. A [`Ring`] keeps the newest events and counts what it had to drop.

use crate::address::{PAGE_SIZE, Pfn};

/// One thing that happened to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Action {
    /// An extent was taken from the host allocator, to be hidden.
    Carve,
    /// An extent's entries in the direct map were cleared.
    Hide,
    /// A leaf of the direct map became a table of 512.
    Split,
    /// A table of the direct map became a leaf.
    Merge,
    /// A flush was acknowledged; the bytes are those that it hid.
    Flush,
    /// An extent's entries in the direct map were filled again.
    Restore,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Carve,
        Self::Hide,
        Self::Split,
        Self::Merge,
        Self::Flush,
        Self::Restore,
    ];

    /// Its name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Carve => "carve",
            Self::Hide => "hide",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Flush => "flush",
            Self::Restore => "restore",
        }
    }
}

/// What happened, when, and to which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Traced {
    /// Ticks of [`Machine::now`](crate::machine::Machine::now).
    pub time: u64,
    /// What.
    pub action: Action,
    /// The first byte concerned; 0 for a flush.
    pub address: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Traced {
    /// Something that happened to `1 << order` frames.
    pub(crate) fn extent(time: u64, action: Action, pfn: Pfn, order: u8) -> Self {
        Self {
            time,
            action,
            address: pfn.hpa().get(),
            bytes: PAGE_SIZE << order,
        }
    }
}

/// Whoever wants to know what happens.
pub trait Tracer {
    /// Something happened on the CPU that calls.
    fn note(&self, event: Traced);
}

/// The newest events of one CPU.
#[derive(Debug)]
pub struct Ring<'s> {
    slots: &'s mut [Traced],
    /// Events noted so far, dropped ones included.
    noted: u64,
}

impl<'s> Ring<'s> {
    /// An empty ring in storage whose contents do not matter.
    pub fn new(slots: &'s mut [Traced]) -> Self {
        Self { slots, noted: 0 }
    }

    /// Adds an event, in place of the oldest if there is no room.
    pub fn note(&mut self, event: Traced) {
        if self.slots.is_empty() {
            return;
        }
        let slot = (self.noted % self.slots.len() as u64) as usize;
        self.slots[slot] = event;
        self.noted += 1;
    }

    /// Events that were dropped for newer ones.
    pub fn dropped(&self) -> u64 {
        self.noted.saturating_sub(self.slots.len() as u64)
    }

    /// The events that are left, oldest first.
    pub fn events(&self) -> impl Iterator<Item = Traced> {
        let length = self.slots.len() as u64;
        (self.dropped()..self.noted).map(move |number| self.slots[(number % length) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn event(time: u64) -> Traced {
        Traced::extent(time, Action::Hide, Pfn::new(time), 9)
    }

    #[test]
    fn a_ring_keeps_the_newest_in_order_and_counts_the_others() {
        for size in [0, 1, 3, 8] {
            let mut slots = std::vec![event(99); size];
            let mut ring = Ring::new(&mut slots);
            for time in 0..8 {
                ring.note(event(time));
            }
            let times: Vec<u64> = ring.events().map(|event| event.time).collect();
            assert_eq!(times, (8 - size as u64..8).collect::<Vec<_>>());
            assert_eq!(ring.dropped(), if size == 0 { 0 } else { 8 - size as u64 });
        }
    }

    #[test]
    fn every_action_has_its_name() {
        let names = Action::ALL.map(Action::name);
        assert_eq!(names, ["carve", "hide", "split", "merge", "flush", "restore"]);
    }
}
