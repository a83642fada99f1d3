//! Time: the local APIC's timer for slices, the TSC as a clock, both measured against the PIT.

use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::apic::LocalApic;
use super::registers::with_interrupts_masked;

/// The PIT's rate in Hz, fixed since the first PC (Intel 8254 data sheet; 14.31818 MHz / 12).
const PIT_HZ: u64 = 1_193_182;
/// Length of one measurement, as a fraction of a second: 10 ms.
const PER_SECOND: u64 = 100;
/// PIT ticks in a measurement.
const PIT_TICKS: u16 = (PIT_HZ / PER_SECOND) as u16;
/// Measurements; the shortest is kept, because anything that gets in the way, such as a busy host, only makes one longer.
const ROUNDS: usize = 3;
/// Polls of the PIT's output before it counts as dead, for when the TSC stands still, too. A PIT that counts ends the 10 ms sooner
/// unless a poll takes less than 10 ms / 2,000,000 = 5 ns, the time of a few instructions; it is a port access.
const POLLS: u32 = 2_000_000;
/// TSC ticks after which it counts as dead too: 4 s at 5 GHz. For machines where a poll is slow.
const POLL_TICKS: u64 = 20_000_000_000;

/// Ports: PIT channel 2, the PIT's control word, and the register with channel 2's gate (bit 0), speaker (bit 1) and
/// output (bit 5).
const CHANNEL_2: u16 = 0x42;
const CONTROL: u16 = 0x43;
const GATE: u16 = 0x61;
const GATE_ON: u8 = 1;
const SPEAKER_ON: u8 = 2;
const OUTPUT: u8 = 0x20;
/// Channel 2, low byte then high byte, mode 0 (output rises at the end of the count), binary.
const ONE_COUNT: u8 = 0xb0;

/// The two rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Counts of the local APIC's timer per second, after the divider.
    pub timer_hz: u64,
    /// TSC ticks per second.
    pub tsc_hz: u64,
}

/// Why there is no calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalibrationError {
    /// The PIT's output did not rise.
    PitSilent,
    /// The PIT's output was up from the start.
    PitNotCounting,
    /// The local APIC's timer or the TSC stood still.
    TimerSilent,
}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PitSilent => "the PIT (port 0x42) does not finish counting 10 ms; use a machine type with a PIT, such as q35",
            Self::PitNotCounting => "the PIT (port 0x42) does not start counting; use a machine type with a PIT, such as q35",
            Self::TimerSilent => "the local APIC's timer or the TSC does not count",
        })
    }
}

/// The TSC now. Neither ordered with other instructions nor meant for short spans.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC only reads; CR4.TSD does not bind privilege level 0.
    unsafe { _rdtsc() }
}

/// The TSC at the first of our instructions in Rust.
static ENTRY: AtomicU64 = AtomicU64::new(0);

/// Remembers this moment as the start of the hypervisor.
pub fn mark_entry() {
    ENTRY.store(tsc(), Ordering::Relaxed);
}

/// TSC ticks since [`mark_entry`].
pub fn ticks_since_entry() -> u64 {
    tsc().wrapping_sub(ENTRY.load(Ordering::Relaxed))
}

/// Measures both rates. Takes 30 ms, with interrupts masked.
///
/// # Errors
/// A [`CalibrationError`] when the PIT or the timer does not count; it is sure after [`POLLS`] polls or [`POLL_TICKS`].
pub fn calibrate(apic: &LocalApic) -> Result<Calibration, CalibrationError> {
    with_interrupts_masked(|| {
        let mut best: Option<Calibration> = None;
        let mut error = CalibrationError::PitNotCounting;
        for _ in 0..ROUNDS {
            match measure(apic) {
                Ok(round) if best.is_none_or(|best| round.tsc_hz < best.tsc_hz) => best = Some(round),
                Ok(_) => {}
                // Waiting for it again would not help.
                Err(CalibrationError::PitSilent) => return Err(CalibrationError::PitSilent),
                // A host that stops us for 10 ms at the wrong moment looks like this.
                Err(other) => error = other,
            }
        }
        apic.stop_timer();
        best.ok_or(error)
    })
}

/// One measurement.
fn measure(apic: &LocalApic) -> Result<Calibration, CalibrationError> {
    apic.start_timer_silent(u32::MAX);
    // SAFETY: these ports belong to the PIT's channel 2 and the speaker gate; nothing else uses them.
    unsafe {
        let gate = x86::io::inb(GATE) & !SPEAKER_ON | GATE_ON;
        x86::io::outb(GATE, gate);
        x86::io::outb(CONTROL, ONE_COUNT);
        x86::io::outb(CHANNEL_2, PIT_TICKS as u8);
        x86::io::outb(CHANNEL_2, (PIT_TICKS >> 8) as u8);
    }
    // SAFETY: reading the port has no effect.
    let output = || unsafe { x86::io::inb(GATE) } & OUTPUT != 0;
    let tsc_start = tsc();
    let timer_start = apic.timer_count();
    if output() {
        return Err(CalibrationError::PitNotCounting);
    }
    let mut polls = 0;
    while !output() {
        polls += 1;
        if polls > POLLS || tsc().wrapping_sub(tsc_start) > POLL_TICKS {
            return Err(CalibrationError::PitSilent);
        }
    }
    let timer_ticks = u64::from(timer_start.wrapping_sub(apic.timer_count()));
    let tsc_ticks = tsc().wrapping_sub(tsc_start);
    if timer_ticks == 0 || tsc_ticks == 0 {
        return Err(CalibrationError::TimerSilent);
    }
    Ok(Calibration {
        timer_hz: timer_ticks * PER_SECOND,
        tsc_hz: tsc_ticks * PER_SECOND,
    })
}

/// Microseconds from the TSC.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    tsc_hz: u64,
}

impl Clock {
    /// A clock that starts now at zero.
    pub fn new(calibration: Calibration) -> Self {
        Self {
            start: tsc(),
            tsc_hz: calibration.tsc_hz,
        }
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        let ticks = tsc().saturating_sub(self.start);
        // In two steps, so that nothing overflows within centuries. A calibrated rate is never zero.
        ticks / self.tsc_hz * 1_000_000 + ticks % self.tsc_hz * 1_000_000 / self.tsc_hz
    }

    /// TSC ticks in so many microseconds.
    pub fn ticks(&self, microseconds: u64) -> u64 {
        microseconds.saturating_mul(self.tsc_hz) / 1_000_000
    }
}

/// The local APIC's timer, with microseconds for counts. Its interrupt is `exception::TIMER_VECTOR`; the handler counts it in the
/// CPU's `ticks`.
#[derive(Debug)]
pub struct Timer<'a> {
    apic: &'a LocalApic,
    timer_hz: u64,
}

impl<'a> Timer<'a> {
    /// The timer of this CPU.
    pub fn new(apic: &'a LocalApic, calibration: Calibration) -> Self {
        Self {
            apic,
            timer_hz: calibration.timer_hz,
        }
    }

    /// One interrupt, `microseconds` from now; replaces what was running. At most the longest count, about a minute.
    pub fn start_slice(&self, microseconds: u64) {
        self.apic.start_timer_once(self.count(microseconds));
    }

    /// No more interrupts, except one that is already pending.
    pub fn stop(&self) {
        self.apic.stop_timer();
    }

    /// At least 1: a count of zero would stop the timer.
    fn count(&self, microseconds: u64) -> u32 {
        let count = microseconds.saturating_mul(self.timer_hz) / 1_000_000;
        u32::try_from(count.max(1)).unwrap_or(u32::MAX)
    }
}
