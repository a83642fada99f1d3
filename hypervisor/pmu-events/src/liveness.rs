//! Whether an event counts: tried, never believed.

use core::fmt;

use crate::tables::Metric;
use crate::unit::Absence;

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
    /// Makes what is counted happen at least [`Work::expected`] times.
    fn provoke(&mut self, metric: Metric);
    /// Makes it happen next to never.
    fn idle(&mut self, metric: Metric);
    /// How often `provoke` makes it happen, at least.
    fn expected(&self, metric: Metric) -> u64;
}

/// What an event was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// There is none to try.
    Absent(Absence),
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
    /// It stays at 0: the event is denied by a filter, or somebody else has the counter. KVM raises no fault then. Or nothing here makes it happen, as
    /// with walks for leaves of a size that an outer hypervisor does not give.
    Silent,
    /// It counted once and then no more.
    Stopped,
    /// It counts as much when nothing happens.
    CountsIdle,
    /// It shows bits that it should not have by CPUID.
    TooWide,
    /// All counters were on before anybody here used them: the firmware has them, or who started us.
    InUse,
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent(absence) => return absence.fmt(f),
            Self::Dead(Death::Faults) => "advertised, but its registers fault",
            Self::Dead(Death::WritesAreLost) => "advertised, but what is written is lost",
            Self::Dead(Death::Silent) => {
                "advertised, but stays 0: denied or in use by a hypervisor below, or nothing here makes it happen"
            }
            Self::Dead(Death::Stopped) => "advertised, but stopped counting: lost to the hypervisor below",
            Self::Dead(Death::TooWide) => "advertised, but wider than CPUID says",
            Self::Dead(Death::InUse) => "advertised, but all counters were on already: the firmware uses them",
            Self::Dead(Death::CountsIdle) => "advertised, but counts as much when nothing happens",
            Self::Live => "live",
        })
    }
}

/// Idle windows may see a tenth of what is provoked: an interrupt in between misses a few times, too.
const NOISE: u64 = 10;
/// A value whose bits all counters have: they are at least 40 bits wide, and writes reach 31 of them (SDM vol. 3B 20.2.1.1).
const MARK: u64 = 0x2aaa_5555;

/// Tries an event on a counter: `value` goes into its event register, `width` are the bits that it should have. The counter is off
/// afterwards, if its register lets itself be written.
pub fn try_event(
    counter: &mut impl Counter,
    value: u64,
    width: u8,
    metric: Metric,
    work: &mut impl Work,
) -> Liveness {
    let found = examine(counter, value, width, metric, work);
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

fn examine(
    counter: &mut impl Counter,
    value: u64,
    width: u8,
    metric: Metric,
    work: &mut impl Work,
) -> Result<(), Death> {
    // Off, so that it keeps what is written.
    counter.write_select(0)?;
    counter.write_count(MARK)?;
    let kept = counter.read_count()?;
    counter.write_select(value)?;
    if within(kept, width)? != MARK || counter.read_select()? != value {
        return Err(Death::WritesAreLost);
    }
    let mut window = |run: &mut dyn FnMut()| -> Result<u64, Death> {
        counter.write_count(0)?;
        run();
        within(counter.read_count()?, width)
    };
    let expected = work.expected(metric);
    if window(&mut || work.provoke(metric))? < expected {
        return Err(Death::Silent);
    }
    if window(&mut || work.idle(metric))? > expected / NOISE {
        return Err(Death::CountsIdle);
    }
    // Once more: a counter may be taken away meanwhile.
    if window(&mut || work.provoke(metric))? < expected {
        return Err(Death::Stopped);
    }
    Ok(())
}

/// A count, if it has no more than so many bits.
pub(crate) fn within(count: u64, width: u8) -> Result<u64, Death> {
    let most = 1_u64.checked_shl(width.into()).map_or(u64::MAX, |end| end - 1);
    if count <= most {
        Ok(count)
    } else {
        Err(Death::TooWide)
    }
}

impl From<Fault> for Death {
    fn from(_: Fault) -> Self {
        Self::Faults
    }
}

#[cfg(test)]
mod tests;
