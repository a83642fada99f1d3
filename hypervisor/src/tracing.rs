//! The trace: a ring of events for each CPU, written as JSON lines at the end.

use boot_config::Traces;
use memory::frame::OutOfMemory;
use memory::machine::Machine;
use memory::trace::{Action, Ring, Traced, Tracer};
use report::{Event, Trace};
use spin::Once;

use crate::frames::{leak_slice, leak_slice_with};
use crate::hardware::Hardware;
use crate::lock::{MaskedLock, Rank};
use crate::reporting::json;

/// Events that each CPU keeps: 128 KiB, a choice.
const EVENTS: usize = 4096;

/// The rings, once a trace was asked for. Only the ring's own CPU writes to it, so its lock is free but for the report at the end.
static RINGS: Once<Rings> = Once::new();

struct Rings {
    wanted: Traces,
    of_cpus: &'static [MaskedLock<Ring<'static>>],
}

/// Starts to trace, on so many CPUs, if anything is to be traced.
///
/// # Errors
/// When there is no memory for the rings.
pub fn start(wanted: Traces, cpus: usize) -> Result<(), OutOfMemory> {
    if !wanted.any() {
        return Ok(());
    }
    let nothing = Traced {
        time: 0,
        action: Action::Carve,
        address: 0,
        bytes: 0,
    };
    let of_cpus = leak_slice_with(cpus, |_| {
        Ok(MaskedLock::new(
            Rank::Trace,
            Ring::new(leak_slice(EVENTS, nothing)?),
        ))
    })?;
    RINGS.call_once(|| Rings { wanted, of_cpus });
    Ok(())
}

/// Whoever traces, if anybody does.
pub fn tracer() -> Option<&'static dyn Tracer> {
    RINGS.get().map(|rings| rings as &dyn Tracer)
}

impl Tracer for Rings {
    fn note(&self, event: Traced) {
        if !self.wanted.contains(event.action.name()) {
            return;
        }
        if let Some(ring) = self.of_cpus.get(Hardware.cpu().index().get() as usize) {
            ring.with(|ring| ring.note(event));
        }
    }
}

/// Writes all events that are left.
pub fn write() {
    let Some(rings) = RINGS.get() else { return };
    for (cpu, ring) in (0..).zip(rings.of_cpus) {
        ring.with(|ring| {
            for (number, event) in (ring.dropped()..).zip(ring.events()) {
                json::event(&Event::Trace(Trace {
                    cpu,
                    number,
                    time: event.time,
                    action: event.action.name(),
                    address: event.address,
                    bytes: event.bytes,
                }));
            }
        });
    }
}
