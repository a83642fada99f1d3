//! Whether an event counts: tried, never believed.

use core::fmt;

use crate::select::{Select, Vendor};

/// An access to a register of the PMU raised an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// One counter with its event register. Every access may fault, and what is written need not be there when it is read.
pub trait Counter {
    /// Writes the event register.
    ///
    /// # Errors
    /// It faulted.
    fn write_select(&mut self, value: u64) -> Result<(), Fault>;
    /// Reads it.
    ///
    /// # Errors
    /// It faulted.
    fn read_select(&mut self) -> Result<u64, Fault>;
    /// Writes the counter.
    ///
    /// # Errors
    /// It faulted.
    fn write_count(&mut self, value: u64) -> Result<(), Fault>;
    /// Reads it.
    ///
    /// # Errors
    /// It faulted.
    fn read_count(&mut self) -> Result<u64, Fault>;
}

/// What is done while an event is tried.
pub trait Work {
    /// Makes the event happen at least [`Work::EXPECTED`] times.
    fn provoke(&mut self);
    /// Takes about as long, and makes it happen next to never.
    fn idle(&mut self);
    /// How often `provoke` makes it happen, at least.
    const EXPECTED: u64;
}

/// What an event was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// CPUID does not speak of a counter, or the core's events are not known.
    Absent,
    /// There is said to be one, but it is not to be used.
    Dead(Death),
    /// It counts what it should.
    Live,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its registers fault (Bochs with `ignore_bad_msrs=0`).
    Faults,
    /// What is written is gone (QEMU's emulation: unknown registers read 0).
    WritesAreLost,
    /// It stays at 0: the event is denied by a filter, or somebody else has the counter. KVM raises no fault then.
    Silent,
    /// It counted once and then no more.
    Stopped,
    /// It counts as much when nothing happens.
    CountsIdle,
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "no counter, or no known event for this core",
            Self::Dead(Death::Faults) => "advertised, but its registers fault",
            Self::Dead(Death::WritesAreLost) => "advertised, but what is written is lost",
            Self::Dead(Death::Silent) => {
                "advertised, but stays 0: denied by the hypervisor below, or in use by it"
            }
            Self::Dead(Death::Stopped) => "advertised, but stopped counting: lost to the hypervisor below",
            Self::Dead(Death::CountsIdle) => "advertised, but counts as much when nothing happens",
            Self::Live => "live",
        })
    }
}

/// Idle windows may see a tenth of what is provoked: an interrupt in between misses a few times, too.
const NOISE: u64 = 10;
/// A value whose bits all counters have: they are at least 40 bits wide, and writes reach 31 of them (SDM vol. 3B 20.2.1.1).
const MARK: u64 = 0x2aaa_5555;

/// Tries an event on a counter. The counter is off afterwards, if its register lets itself be written.
pub fn try_event<W: Work>(
    counter: &mut impl Counter,
    vendor: Vendor,
    select: Select,
    work: &mut W,
) -> Liveness {
    let found = examine(counter, select.ring_0(vendor), work);
    // Whatever it is, it must not go on counting; one that faults does not.
    let _ = counter.write_select(0);
    match found {
        Ok(()) => Liveness::Live,
        Err(death) => Liveness::Dead(death),
    }
}

/// Whether all of an event register's bits stay: AMD's HostOnly vanishes in a guest whose host does not give it the real PMU.
///
/// # Errors
/// The register faulted.
pub fn keeps(counter: &mut impl Counter, value: u64) -> Result<bool, Fault> {
    counter.write_select(value)?;
    let kept = counter.read_select()? & value == value;
    counter.write_select(0)?;
    Ok(kept)
}

fn examine<W: Work>(counter: &mut impl Counter, value: u64, work: &mut W) -> Result<(), Death> {
    let fault = |Fault| Death::Faults;
    // Off, so that it keeps what is written.
    counter.write_select(0).map_err(fault)?;
    counter.write_count(MARK).map_err(fault)?;
    let kept = counter.read_count().map_err(fault)? == MARK;
    counter.write_select(value).map_err(fault)?;
    if !kept || counter.read_select().map_err(fault)? != value {
        return Err(Death::WritesAreLost);
    }
    let mut window = |run: &mut dyn FnMut()| -> Result<u64, Death> {
        counter.write_count(0).map_err(fault)?;
        run();
        counter.read_count().map_err(fault)
    };
    if window(&mut || work.provoke())? < W::EXPECTED {
        return Err(Death::Silent);
    }
    if window(&mut || work.idle())? > W::EXPECTED / NOISE {
        return Err(Death::CountsIdle);
    }
    // Once more: a counter may be taken away meanwhile.
    if window(&mut || work.provoke())? < W::EXPECTED {
        return Err(Death::Stopped);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
