//! Performance counters: tried, then believed.

use memory::address::{PAGE_SIZE, Pfn};
use memory::layout::direct;
use pmu_events::{
    Death, Event as PmuEventOf, Fault, Liveness, Metric, Pmu, Registers, State, Unit, Work, passes,
};
use raw_cpuid::CpuIdReaderNative;
use report::{Event, PmuCount, PmuEvent};
use workloads::{Entries, Extent, Workload};

use super::{AnyLeaf, Place, chase, name_of};
use crate::boot::image;
use crate::cpu::registers::with_interrupts_masked;
use crate::cpu::{msr, tlb};
use crate::println;
use crate::reporting::json;

/// Rounds of what provokes an event. Some of it may be merged or lost, so half of them must be counted.
const ROUNDS: u64 = 1000;
/// Iterations of an empty loop, for cycles and instructions; at least so many of each are seen.
const ITERATIONS: u64 = 100_000;
/// Pages that a second level has and no first level: Zen 5 has the most entries, 96.
const MANY_PAGES: u64 = 512;

/// This CPU's registers.
struct Native;

impl Registers for Native {
    fn read(&mut self, register: u32) -> Result<u64, Fault> {
        msr::read(register).ok_or(Fault)
    }

    fn write(&mut self, register: u32, value: u64) -> Result<(), Fault> {
        // SAFETY: the driver writes registers of the performance counters only, which nothing else here uses, and no value that it writes makes an
        // interrupt.
        if unsafe { msr::write(register, value) } {
            Ok(())
        } else {
            Err(Fault)
        }
    }
}

/// The events that count at this moment on this CPU.
pub struct Counters {
    unit: Option<Unit>,
    /// The bit "only while not in a guest" lets count.
    host_only: bool,
    states: heapless::Vec<State, { pmu_events::MOST_EVENTS }>,
}

impl Counters {
    /// Tries all of them, and reports what they are.
    pub fn open(place: Place, leaf: AnyLeaf, own: &'static [Extent]) -> Self {
        let mut none = Self {
            unit: None,
            host_only: false,
            states: heapless::Vec::new(),
        };
        let unit = match Unit::detect(&CpuIdReaderNative) {
            Ok(unit) => unit,
            Err(absence) => {
                report_pmu(place, None, (0, false), Liveness::Absent(absence));
                return none;
            }
        };
        let mut work = Misses { leaf, own };
        let mut native = Native;
        // Some tens of milliseconds with interrupts masked. All other CPUs rest, so nobody waits for this one.
        let tried = with_interrupts_masked(|| {
            let mut pmu = Pmu::open(unit, &mut native)?;
            let states = pmu.survey(&mut work);
            Ok::<_, Death>((states, pmu.free(), pmu.host_only()))
        });
        let (states, free, host_only) = match tried {
            Ok(tried) => tried,
            Err(death) => {
                report_pmu(place, Some(unit), (0, false), Liveness::Dead(death));
                return none;
            }
        };
        // Any live event makes it live; else the first one's trouble is that of all.
        let all = states
            .iter()
            .map(|state| state.liveness)
            .find(|liveness| *liveness == Liveness::Live)
            .or(states.first().map(|state| state.liveness));
        let all = all.unwrap_or(Liveness::Dead(Death::InUse));
        report_pmu(place, Some(unit), (free, host_only), all);
        states.iter().for_each(|state| report_event(place, unit, state));
        if all == Liveness::Live {
            none.unit = Some(unit);
            none.host_only = host_only;
            none.states = states;
        }
        none
    }

    /// Whether any event counts.
    pub fn any(&self) -> bool {
        self.unit.is_some()
    }

    /// Counts the live events over a workload: as many passes as that takes, each over the same loads, after one that is not counted.
    pub fn count(
        &mut self,
        place: Place,
        workload: Workload,
        entries: Option<Entries>,
        run: impl Fn(),
        loads: usize,
    ) {
        let Some(unit) = self.unit else { return };
        let mut native = Native;
        let opened = Pmu::open(unit, &mut native);
        let mut pmu = match opened {
            Ok(pmu) => pmu,
            Err(death) => return skip(place, workload, death),
        };
        if !self.host_only {
            pmu.forgo_host_only();
        }
        for events in passes(&self.states, pmu.free()) {
            let counted = with_interrupts_masked(|| {
                run();
                pmu.count(&events, &run)
            });
            match counted {
                Ok(counts) => {
                    for (event, count) in events.iter().zip(counts) {
                        report_count(place, workload, event, count, loads as u64, entries);
                    }
                }
                Err(death) => skip(place, workload, death),
            }
        }
    }
}

/// A counter that lived when it was tried does not any more.
fn skip(place: Place, workload: Workload, death: Death) {
    let mut reason = heapless::String::<120>::new();
    // The texts are shorter.
    let _ = core::fmt::write(&mut reason, format_args!("{}", Liveness::Dead(death)));
    place.skip_workload("pmu", workload, &reason);
}

fn report_pmu(place: Place, unit: Option<Unit>, (free, host_only): (usize, bool), liveness: Liveness) {
    let mut interface = heapless::String::<32>::new();
    let mut reason = heapless::String::<120>::new();
    if let Some(unit) = unit {
        // Short names.
        let _ = core::fmt::write(&mut interface, format_args!("{}", unit.interface));
        if let Err(absence) = unit.events {
            let _ = core::fmt::write(&mut reason, format_args!("{absence}"));
        }
    }
    let state = match liveness {
        Liveness::Live => "live",
        Liveness::Dead(_) => "dead",
        Liveness::Absent(_) => "absent",
    };
    if liveness != Liveness::Live {
        reason.clear();
        let _ = core::fmt::write(&mut reason, format_args!("{liveness}"));
    }
    let core = unit.as_ref().map_or("unknown", Unit::core);
    println!(
        "  counters: {state}{}{reason}; {interface}, {free} free, core {core}",
        if reason.is_empty() { "" } else { ": " }
    );
    json::event(&Event::Pmu(report::Pmu {
        phase: place.phase,
        cpu: place.cpu,
        core,
        interface: &interface,
        counters: free as u32,
        width: unit.map_or(0, |unit| unit.width.into()),
        host_only,
        state,
        reason: &reason,
    }));
}

fn report_event(place: Place, unit: Unit, state: &State) {
    let mut reason = heapless::String::<120>::new();
    if state.liveness != Liveness::Live {
        let _ = core::fmt::write(&mut reason, format_args!("{}", state.liveness));
    }
    json::event(&Event::PmuEvent(PmuEvent {
        phase: place.phase,
        cpu: place.cpu,
        metric: state.event.metric.name(),
        select: state.event.select.ring_0(unit.vendor),
        state: if state.liveness == Liveness::Live {
            "live"
        } else {
            "dead"
        },
        reason: &reason,
    }));
}

fn report_count(
    place: Place,
    workload: Workload,
    event: &PmuEventOf,
    count: u64,
    loads: u64,
    entries: Option<Entries>,
) {
    println!(
        "  {:<14} {:<22} {count:>9} in {loads} loads",
        workload.name(),
        event.metric.name()
    );
    json::event(&Event::PmuCount(PmuCount {
        phase: place.phase,
        cpu: place.cpu,
        workload: workload.name(),
        metric: event.metric.name(),
        loads,
        count,
        entries: name_of(entries),
    }));
}

/// What makes an event happen, or not.
struct Misses {
    leaf: AnyLeaf,
    own: &'static [Extent],
}

impl Misses {
    /// An address under a leaf of each size that there is: the image, which has 4K ones, and the direct map.
    fn addresses(&self) -> [Option<u64>; 3] {
        let in_map = |at| direct(at).map(|at| at.get());
        let constants = image::sections()[1];
        [
            Some(constants.start.get()),
            self.leaf.m2.and_then(in_map),
            self.leaf.g1.and_then(in_map),
        ]
    }

    /// A page of the host's own that may be written.
    fn own_page(&self) -> Option<Pfn> {
        self.own.first().map(|extent| extent.start)
    }

    /// Loads from many pages, round and round, all of which a second level holds: those of the image, under leaves of 4K, and one in each
    /// region of ours.
    fn loads_from_many(&self) {
        let image = image::sections()
            .into_iter()
            .flat_map(|section| (section.start.get()..section.end.get()).step_by(PAGE_SIZE as usize));
        let regions = self
            .own
            .iter()
            .filter_map(|extent| direct(extent.start.hpa()).map(|at| at.get()));
        image
            .chain(regions)
            .take(MANY_PAGES as usize)
            .for_each(|at| chase::follow(&[at]));
    }
}

impl Work for Misses {
    fn provoke(&mut self, metric: Metric) {
        match metric {
            Metric::Cycles | Metric::Instructions => (0..ITERATIONS).for_each(|number| {
                core::hint::black_box(number);
            }),
            Metric::StoreWalks | Metric::RetiredStoreMisses => {
                for _ in 0..ROUNDS {
                    tlb::flush();
                    self.own_page().into_iter().for_each(chase::store);
                }
            }
            Metric::LoadSecondHits
            | Metric::SecondHits4K
            | Metric::SecondHitsCoalesced
            | Metric::SecondHits2M
            | Metric::SecondHits1G => (0..ROUNDS / 20).for_each(|_| self.loads_from_many()),
            // A flush, after which every load and every fetch has to walk.
            _ => {
                let addresses = self.addresses();
                for _ in 0..ROUNDS {
                    tlb::flush();
                    addresses.iter().flatten().for_each(|at| chase::follow(&[*at]));
                }
            }
        }
    }

    fn idle(&mut self, metric: Metric) {
        if matches!(metric, Metric::Cycles | Metric::Instructions) {
            return;
        }
        let [small, ..] = self.addresses();
        for _ in 0..ROUNDS {
            small.iter().for_each(|at| chase::follow(&[*at]));
        }
    }

    fn expected(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Cycles | Metric::Instructions => ITERATIONS,
            _ => ROUNDS / 2,
        }
    }
}
