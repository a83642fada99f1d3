//! Using the counters: what is free, what lives, counting over a window, and leaving no trace.

use heapless::Vec;

use crate::liveness::{Counter, Death, Fault, Liveness, Work, keeps, try_event, within};
use crate::select::{HOST_ONLY, Vendor, is_on};
use crate::tables::Event;
use crate::unit::{MOST_COUNTERS, Unit};

/// Events that are counted at once: all cores known have as many counters that can count all of them.
pub const MOST_AT_ONCE: usize = 4;
/// The most events that a core has.
pub const MOST_EVENTS: usize = 24;

/// The CPU's model-specific registers. Every access may fault, and what is written need not be there when it is read.
pub trait Registers {
    /// Reads one.
    ///
    /// # Errors
    /// It faulted.
    fn read(&mut self, register: u32) -> Result<u64, Fault>;
    /// Writes one.
    ///
    /// # Errors
    /// It faulted.
    fn write(&mut self, register: u32, value: u64) -> Result<(), Fault>;
}

/// An event and what it was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The event.
    pub event: Event,
    /// Whether it counts.
    pub liveness: Liveness,
}

/// A counter that nobody used, and what was in its registers.
#[derive(Clone, Copy, Debug)]
struct Free {
    number: u8,
    select: u64,
    count: u64,
}

/// The counters in use by us. Dropping it puts back what was in their registers.
pub struct Pmu<'r, R: Registers> {
    unit: Unit,
    registers: &'r mut R,
    free: Vec<Free, { MOST_COUNTERS as usize }>,
    /// What was in the register that switches all of them.
    switch: u64,
    /// AMD: the bit "only while not in a guest" stays and lets count.
    host_only: bool,
}

impl<'r, R: Registers> Pmu<'r, R> {
    /// Takes the counters that are off. Others belong to somebody, such as the firmware, and are let alone but for windows, in which all
    /// that can be switched off together are.
    ///
    /// # Errors
    /// A register faults ([`Death::Faults`]), or all counters are on ([`Death::InUse`]). Nothing was changed.
    pub fn open(unit: Unit, registers: &'r mut R) -> Result<Self, Death> {
        let mut free = Vec::new();
        for number in 0..unit.usable() {
            let select = registers.read(unit.select(number))?;
            let count = registers.read(unit.count(number))?;
            if !is_on(select) {
                // There are no more counters than fit.
                let _ = free.push(Free {
                    number,
                    select,
                    count,
                });
            }
        }
        let switch = unit.switch().map_or(Ok(0), |register| registers.read(register))?;
        if free.is_empty() {
            return Err(Death::InUse);
        }
        let mut pmu = Self {
            unit,
            registers,
            free,
            switch,
            host_only: false,
        };
        if unit.vendor == Vendor::Amd {
            let value = unit
                .all()
                .next()
                .map_or(0, |event| event.select.ring_0(unit.vendor));
            pmu.host_only = pmu
                .slot()
                .and_then(|mut slot| keeps(&mut slot, value | HOST_ONLY).ok())
                .unwrap_or(false);
        }
        Ok(pmu)
    }

    /// Whether guests' events are masked by the counters themselves. Else only what is done in a window says whose they are.
    pub fn host_only(&self) -> bool {
        self.host_only
    }

    /// Does without that bit from now on, as [`Self::survey`] does when nothing counts with it.
    pub fn forgo_host_only(&mut self) {
        self.host_only = false;
    }

    /// Counters that are ours.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Tries every event of this core.
    pub fn survey(&mut self, work: &mut impl Work) -> Vec<State, MOST_EVENTS> {
        let mut states = Vec::new();
        for event in self.unit.all() {
            let liveness = self.try_one(event, work);
            // No core has more.
            let _ = states.push(State { event, liveness });
        }
        states
    }

    fn try_one(&mut self, event: Event, work: &mut impl Work) -> Liveness {
        let found = self.try_value(event, self.value(event), work);
        if found != Liveness::Dead(Death::Silent) || !self.host_only {
            return found;
        }
        // The bit counts only where EFER.SVME is set, and a hypervisor below may keep it and count nothing.
        let without = self.try_value(event, event.select.ring_0(self.unit.vendor), work);
        if without == Liveness::Live {
            self.host_only = false;
        }
        without
    }

    fn try_value(&mut self, event: Event, value: u64, work: &mut impl Work) -> Liveness {
        let width = self.unit.width;
        match self.slot() {
            Some(mut slot) => try_event(&mut slot, value, width, event.metric, work),
            None => Liveness::Dead(Death::InUse),
        }
    }

    fn value(&self, event: Event) -> u64 {
        let host = if self.host_only { HOST_ONLY } else { 0 };
        event.select.ring_0(self.unit.vendor) | host
    }

    fn slot(&mut self) -> Option<Slot<'_, R>> {
        let number = self.free.first()?.number;
        Some(Slot {
            unit: self.unit,
            registers: self.registers,
            number,
        })
    }

    /// Counts events over a window that must contain no VM entry: one number for each, as many as there are counters, at most
    /// [`MOST_AT_ONCE`]. [`passes`] makes such lists.
    ///
    /// # Errors
    /// A register faults, does not keep what it is given, or shows too many bits.
    pub fn count(
        &mut self,
        events: &[Event],
        window: impl FnOnce(),
    ) -> Result<Vec<u64, MOST_AT_ONCE>, Death> {
        let unit = self.unit;
        let used: Vec<(u8, u64), MOST_AT_ONCE> = events
            .iter()
            .zip(&self.free)
            .take(MOST_AT_ONCE)
            .map(|(event, free)| (free.number, self.value(*event)))
            .collect();
        let counted = self.count_on(&used, window);
        // Off, whatever happened.
        if let Some(register) = unit.switch() {
            let _ = self.registers.write(register, 0);
        }
        for (number, _) in &used {
            let _ = self.registers.write(unit.select(*number), 0);
        }
        counted
    }

    fn count_on(
        &mut self,
        used: &[(u8, u64)],
        window: impl FnOnce(),
    ) -> Result<Vec<u64, MOST_AT_ONCE>, Death> {
        let unit = self.unit;
        let switch = unit.switch();
        if let Some(register) = switch {
            self.registers.write(register, 0)?;
        }
        for (number, _) in used {
            self.registers.write(unit.select(*number), 0)?;
            self.registers.write(unit.count(*number), 0)?;
        }
        let mut all = 0;
        for (number, value) in used {
            self.registers.write(unit.select(*number), *value)?;
            all |= 1 << number;
        }
        if let Some(register) = switch {
            self.registers.write(register, all)?;
        }
        window();
        match switch {
            Some(register) => {
                if self.registers.read(register)? != all {
                    return Err(Death::WritesAreLost);
                }
                self.registers.write(register, 0)?;
            }
            None => {
                for (number, value) in used {
                    if self.registers.read(unit.select(*number))? != *value {
                        return Err(Death::WritesAreLost);
                    }
                    self.registers.write(unit.select(*number), 0)?;
                }
            }
        }
        let mut counts = Vec::new();
        for (number, _) in used {
            let count = within(self.registers.read(unit.count(*number))?, unit.width)?;
            // As many as are used fit.
            let _ = counts.push(count);
        }
        Ok(counts)
    }
}

impl<R: Registers> Drop for Pmu<'_, R> {
    fn drop(&mut self) {
        // What faults keeps what it has. Counters first, while they are off.
        for free in &self.free {
            let _ = self.registers.write(self.unit.select(free.number), 0);
            let _ = self.registers.write(self.unit.count(free.number), free.count);
            let _ = self.registers.write(self.unit.select(free.number), free.select);
        }
        if let Some(register) = self.unit.switch() {
            let _ = self.registers.write(register, self.switch);
        }
    }
}

/// Live events in lists that can be counted at once, on so many counters.
pub fn passes(states: &[State], counters: usize) -> impl Iterator<Item = Vec<Event, MOST_AT_ONCE>> {
    let live = || {
        states
            .iter()
            .filter(|state| state.liveness == Liveness::Live)
            .map(|state| state.event)
    };
    let size = counters.clamp(1, MOST_AT_ONCE);
    (0..live().count().div_ceil(size)).map(move |pass| live().skip(pass * size).take(size).collect())
}

/// One counter, for trying events.
struct Slot<'p, R: Registers> {
    unit: Unit,
    registers: &'p mut R,
    number: u8,
}

impl<R: Registers> Counter for Slot<'_, R> {
    fn write_select(&mut self, value: u64) -> Result<(), Fault> {
        self.registers.write(self.unit.select(self.number), value)?;
        match self.unit.switch() {
            Some(register) => {
                let on = if is_on(value) { 1 << self.number } else { 0 };
                self.registers.write(register, on)
            }
            None => Ok(()),
        }
    }

    fn read_select(&mut self) -> Result<u64, Fault> {
        self.registers.read(self.unit.select(self.number))
    }

    fn write_count(&mut self, value: u64) -> Result<(), Fault> {
        self.registers.write(self.unit.count(self.number), value)
    }

    fn read_count(&mut self) -> Result<u64, Fault> {
        self.registers.read(self.unit.count(self.number))
    }
}

#[cfg(test)]
mod tests;
