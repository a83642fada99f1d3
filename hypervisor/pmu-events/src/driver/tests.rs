//! The driver on a CPU that misbehaves in every way that is known of emulators, hypervisors and firmware.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use proptest::prelude::*;
use raw_cpuid::CpuIdResult;

use super::*;
use crate::select::Select;
use crate::tables::{Metric, events_of};
use crate::unit::Interface;

/// How the CPU goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Well,
    /// Bochs: every access faults.
    Faulting,
    /// Reads work, writes fault.
    WritesFault,
    /// The register that switches all counters faults.
    SwitchFaults,
    /// It reads 0 and swallows writes.
    SwitchSwallows,
    /// QEMU's emulation: reads 0, swallows writes.
    Swallowing,
    /// Keeps what is written and never counts.
    Frozen,
    /// KVM: this one event is filtered.
    Denied(Metric),
    /// KVM: contention is lost for good after so many events.
    Stopping(u64),
    /// Counts whatever was asked for, and all the time.
    FreeRunning,
    /// KVM on AMD: bits 63:36, 21 and 19 vanish.
    Masking,
    /// AMD: HostOnly is kept, and nothing counts with it (EFER.SVME is clear).
    HostOnlyIsDead,
    /// Counters have so many bits.
    Narrow(u32),
    /// Counters show bits above their width.
    TooWide,
    /// Firmware has left so many counters on.
    Busy(u8),
    /// The access with this number faults.
    FaultsOnce(u32),
}

/// Something that none of the units tried here can count, and that happens all the time.
const OTHER: Metric = Metric::SecondStagePending;

/// Bits of Intel's event registers that KVM gives no guest: writing one of them faults.
const RESERVED: u64 = u64::MAX << 32 | 1 << 21;

/// What happens on the CPU: each event's count so far.
#[derive(Clone, Default)]
struct World(Rc<RefCell<BTreeMap<Metric, u64>>>);

impl World {
    fn happens(&self, metric: Metric, times: u64) {
        *self.0.borrow_mut().entry(metric).or_default() += times;
    }

    fn all(&self) -> u64 {
        self.0.borrow().values().sum()
    }
}

struct Cpu {
    unit: Unit,
    manner: Manner,
    world: World,
    registers: BTreeMap<u32, u64>,
    /// What each counter's event had come to when it was looked at last.
    known: BTreeMap<u8, u64>,
    accesses: u32,
}

impl Cpu {
    fn new(unit: Unit, manner: Manner) -> Self {
        let mut cpu = Self {
            unit,
            manner,
            world: World::default(),
            registers: BTreeMap::new(),
            known: BTreeMap::new(),
            accesses: 0,
        };
        for number in 0..unit.counters {
            let busy = matches!(manner, Manner::Busy(count) if number < count);
            let select = if busy {
                0x0053_003c
            } else {
                0x0003_00c0 + u64::from(number)
            };
            cpu.registers.insert(unit.select(number), select);
            cpu.registers.insert(unit.count(number), 0x10 + u64::from(number));
        }
        if let Some(switch) = unit.switch() {
            let on = if manner == Manner::SwitchSwallows { 0 } else { 5 };
            cpu.registers.insert(switch, on);
        }
        cpu
    }

    /// The counter that a register belongs to.
    fn counter(&self, register: u32) -> Option<(u8, bool)> {
        (0..self.unit.counters).find_map(|number| {
            (register == self.unit.select(number))
                .then_some((number, false))
                .or((register == self.unit.count(number)).then_some((number, true)))
        })
    }

    fn stored(&self, register: u32) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn runs(&self, number: u8) -> bool {
        let switched = self
            .unit
            .switch()
            .is_none_or(|register| self.stored(register) >> number & 1 != 0);
        switched && is_on(self.stored(self.unit.select(number)))
    }

    /// What its event has come to.
    fn seen(&self, number: u8) -> u64 {
        let select = self.stored(self.unit.select(number));
        let event = self
            .unit
            .all()
            .find(|event| event.select.ring_0(self.unit.vendor) == select & !HOST_ONLY);
        let count = |metric| self.world.0.borrow().get(&metric).copied().unwrap_or(0);
        match (self.manner, event) {
            (Manner::Frozen, _) => 0,
            (Manner::FreeRunning, _) => self.world.all(),
            (Manner::Denied(metric), Some(event)) if event.metric == metric => 0,
            (Manner::Stopping(end), Some(event)) => count(event.metric).min(end),
            (Manner::HostOnlyIsDead, _) if select & HOST_ONLY != 0 => 0,
            (_, Some(event)) => count(event.metric),
            (_, None) => 0,
        }
    }

    fn settle(&mut self, number: u8) {
        let seen = self.seen(number);
        let register = self.unit.count(number);
        if self.runs(number) {
            let known = self.known.get(&number).copied().unwrap_or(0);
            let more = seen - known.min(seen);
            let count = self.stored(register).wrapping_add(more);
            self.registers.insert(register, count);
        }
        self.known.insert(number, seen);
    }

    fn settle_all(&mut self) {
        for number in 0..self.unit.counters {
            self.settle(number);
        }
    }

    fn faults(&mut self, register: u32, write: bool) -> bool {
        self.accesses += 1;
        match self.manner {
            Manner::Faulting => true,
            Manner::WritesFault => write,
            Manner::SwitchFaults => Some(register) == self.unit.switch(),
            Manner::FaultsOnce(access) => self.accesses == access,
            _ => false,
        }
    }
}

impl Registers for Cpu {
    fn read(&mut self, register: u32) -> Result<u64, Fault> {
        if self.faults(register, false) {
            return Err(Fault);
        }
        if self.manner == Manner::Swallowing
            || self.manner == Manner::SwitchSwallows && Some(register) == self.unit.switch()
        {
            return Ok(0);
        }
        self.settle_all();
        let value = self.stored(register);
        Ok(match (self.manner, self.counter(register)) {
            (Manner::Narrow(bits), Some((_, true))) => value & ((1 << bits) - 1),
            (Manner::TooWide, Some((_, true))) => value | 0xffff << 48,
            _ => value,
        })
    }

    fn write(&mut self, register: u32, value: u64) -> Result<(), Fault> {
        if self.faults(register, true) {
            return Err(Fault);
        }
        // Ours are all known: a write elsewhere is a mistake of the driver's.
        assert!(
            self.registers.contains_key(&register),
            "wrote {value:#x} to {register:#x}"
        );
        if self.manner == Manner::Swallowing
            || self.manner == Manner::SwitchSwallows && Some(register) == self.unit.switch()
        {
            return Ok(());
        }
        if self.unit.vendor == Vendor::Intel
            && matches!(self.counter(register), Some((_, false)))
            && value & RESERVED != 0
        {
            return Err(Fault);
        }
        self.settle_all();
        let value = match (self.manner, self.counter(register)) {
            (Manner::Masking, Some((_, false))) => value & !(u64::MAX << 36 | 1 << 21 | 1 << 19),
            (Manner::TooWide, Some((_, true))) => value & ((1 << 48) - 1),
            _ => value,
        };
        self.registers.insert(register, value);
        // From here on it counts what comes, not what was.
        for number in 0..self.unit.counters {
            let seen = self.seen(number);
            self.known.insert(number, seen);
        }
        Ok(())
    }
}

/// Work that makes each event happen, and everything else a little.
struct Busy(World);

impl Work for Busy {
    fn provoke(&mut self, metric: Metric) {
        self.0.happens(metric, 1010);
        self.0.happens(OTHER, 5000);
    }

    fn idle(&mut self, metric: Metric) {
        self.0.happens(metric, 3);
        self.0.happens(OTHER, 200);
    }

    fn expected(&self, _: Metric) -> u64 {
        1000
    }
}

/// A CPU of this maker, by its registers alone.
fn unit(text: &[(u32, u32, [u32; 4])]) -> Unit {
    let leaves: Rc<Vec<_>> = Rc::new(text.to_vec());
    let reader = move |leaf: u32, subleaf: u32| {
        let found = leaves.iter().find(|row| (row.0, row.1) == (leaf, subleaf));
        let [eax, ebx, ecx, edx] = found.map_or([0; 4], |row| row.2);
        CpuIdResult { eax, ebx, ecx, edx }
    };
    Unit::detect(&reader).unwrap()
}

const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];

fn intel(version: u32) -> Unit {
    let [b, c, d] = INTEL;
    unit(&[
        (0, 0, [0xa, b, c, d]),
        (1, 0, [0x0008_06f8, 0, 0, 0]),
        (0xa, 0, [0x0830_0800 | version, 0, 0, 0]),
    ])
}

fn amd(eax: u32, core: bool, v2: bool) -> Unit {
    let [b, c, d] = AMD;
    unit(&[
        (0, 0, [0x10, b, c, d]),
        (1, 0, [eax, 0, 0, 0]),
        (0x8000_0000, 0, [0x8000_0028, b, c, d]),
        (0x8000_0001, 0, [0, 0, u32::from(core) << 23, 0]),
        (0x8000_0022, 0, [u32::from(v2), 6, 0, 0]),
    ])
}

fn units() -> [Unit; 8] {
    [
        intel(1),
        intel(2),
        intel(3),
        intel(4),
        intel(5),
        amd(0x0083_0f10, false, false),
        amd(0x00a0_0f11, true, false),
        amd(0x00a1_0f11, true, true),
    ]
}

/// What is found, and whether no trace is left.
fn surveyed(unit: Unit, manner: Manner) -> Result<Vec<State>, Death> {
    let mut cpu = Cpu::new(unit, manner);
    let world = cpu.world.clone();
    let before = cpu.registers.clone();
    let states = Pmu::open(unit, &mut cpu).map(|mut pmu| pmu.survey(&mut Busy(world)).to_vec());
    cpu.manner = Manner::Well;
    for (register, value) in before {
        // Firmware's counters go on meanwhile.
        let ours = cpu.counter(register).is_none_or(|(number, is_count)| {
            !is_count || !matches!(manner, Manner::Busy(count) if number < count)
        });
        assert!(
            !ours || cpu.stored(register) == value,
            "{manner:?} on {unit:?}: {register:#x} has {:#x}, had {value:#x}",
            cpu.stored(register)
        );
    }
    states
}

fn all_are(unit: Unit, manner: Manner, expected: Liveness) {
    let states = surveyed(unit, manner).unwrap();
    assert_eq!(states.len(), unit.all().count());
    for state in states {
        assert_eq!(
            state.liveness, expected,
            "{:?} of {unit:?}, {manner:?}",
            state.event.metric
        );
    }
}

#[test]
fn what_is_well_lives_on_every_interface() {
    let interfaces: Vec<_> = units().map(|unit| unit.interface).to_vec();
    assert!(interfaces.contains(&Interface::AmdV2) && interfaces.contains(&Interface::Architectural(1)));
    for unit in units() {
        for manner in [Manner::Well, Manner::Masking, Manner::HostOnlyIsDead] {
            if unit.vendor == Vendor::Amd || manner == Manner::Well {
                all_are(unit, manner, Liveness::Live);
            }
        }
    }
}

#[test]
fn each_way_to_misbehave_is_told() {
    for unit in units() {
        for (manner, death) in [
            (Manner::WritesFault, Death::Faults),
            (Manner::Swallowing, Death::WritesAreLost),
            (Manner::Frozen, Death::Silent),
            (Manner::Narrow(8), Death::WritesAreLost),
            (Manner::TooWide, Death::TooWide),
            (Manner::Stopping(1020), Death::Stopped),
        ] {
            all_are(unit, manner, Liveness::Dead(death));
        }
        assert_eq!(surveyed(unit, Manner::Faulting), Err(Death::Faults));
        let switch = surveyed(unit, Manner::SwitchFaults);
        assert_eq!(switch.is_err(), unit.switch().is_some());
        if unit.switch().is_some() {
            // Off for good.
            all_are(unit, Manner::SwitchSwallows, Liveness::Dead(Death::Silent));
        }
    }
}

#[test]
fn a_counter_that_counts_all_the_time_is_not_believed() {
    for unit in units() {
        let states = surveyed(unit, Manner::FreeRunning).unwrap();
        assert!(
            states
                .iter()
                .all(|state| state.liveness == Liveness::Dead(Death::CountsIdle))
        );
    }
}

#[test]
fn one_denied_event_is_dead_and_the_others_live() {
    for unit in units() {
        let denied = if unit.vendor == Vendor::Intel {
            Metric::LoadWalks2M
        } else {
            Metric::Walks2M
        };
        for state in surveyed(unit, Manner::Denied(denied)).unwrap() {
            let expected = if state.event.metric == denied {
                Liveness::Dead(Death::Silent)
            } else {
                Liveness::Live
            };
            assert_eq!(state.liveness, expected, "{:?}", state.event.metric);
        }
    }
}

#[test]
fn counters_that_are_on_are_let_alone() {
    for unit in units() {
        all_are(unit, Manner::Busy(1), Liveness::Live);
        assert_eq!(surveyed(unit, Manner::Busy(8)), Err(Death::InUse));
    }
}

#[test]
fn four_events_a_pass_are_counted_exactly_and_no_trace_is_left() {
    for unit in units() {
        let mut cpu = Cpu::new(unit, Manner::Busy(1));
        let world = cpu.world.clone();
        let before = cpu.registers.clone();
        let mut pmu = Pmu::open(unit, &mut cpu).unwrap();
        let states = pmu.survey(&mut Busy(world.clone()));
        // Intel's tables use the counters 0 to 3, of which firmware has one.
        let at_once = pmu.free().min(MOST_AT_ONCE);
        assert_eq!(at_once, if pmu.unit.usable() == 4 { 3 } else { 4 });
        let mut counted = Vec::new();
        for pass in passes(&states, pmu.free()) {
            assert!(pass.len() <= at_once);
            let counts = pmu
                .count(&pass, || {
                    for (number, state) in (1..).zip(&states) {
                        world.happens(state.event.metric, 100 * number);
                    }
                })
                .unwrap();
            // What happens between windows is not counted.
            world.happens(OTHER, 1_000_000);
            states
                .iter()
                .for_each(|state| world.happens(state.event.metric, 7));
            counted.extend(pass.iter().map(|event| event.metric).zip(counts));
        }
        let expected: Vec<_> = states
            .iter()
            .zip(1..)
            .map(|(state, number)| (state.event.metric, 100 * number))
            .collect();
        assert_eq!(counted, expected);
        drop(pmu);
        let firmware = unit.count(0);
        for (register, value) in before {
            assert!(
                register == firmware || cpu.stored(register) == value,
                "{register:#x}"
            );
        }
    }
}

#[test]
fn without_the_bit_for_the_host_alone_there_are_counts_all_the_same() {
    let unit = amd(0x00a1_0f11, true, true);
    let mut cpu = Cpu::new(unit, Manner::HostOnlyIsDead);
    let world = cpu.world.clone();
    let events: Vec<_> = unit.all().take(1).collect();
    let count = |pmu: &mut Pmu<'_, Cpu>| {
        let counted = pmu.count(&events, || world.happens(Metric::Cycles, 5));
        counted.map(|counts| counts.to_vec())
    };
    let mut pmu = Pmu::open(unit, &mut cpu).unwrap();
    assert_eq!((pmu.host_only(), count(&mut pmu)), (true, Ok(Vec::from([0]))));
    pmu.survey(&mut Busy(world.clone()));
    assert_eq!((pmu.host_only(), count(&mut pmu)), (false, Ok(Vec::from([5]))));
    drop(pmu);
    // Opened anew it knows nothing of that.
    let mut pmu = Pmu::open(unit, &mut cpu).unwrap();
    pmu.forgo_host_only();
    assert_eq!(count(&mut pmu), Ok(Vec::from([5])));
}

#[test]
fn a_counter_that_is_taken_away_gives_no_figure() {
    let unit = intel(2);
    let mut cpu = Cpu::new(unit, Manner::Well);
    let events: Vec<_> = unit.all().take(4).collect();
    // Taken away in the window: what was written is gone.
    let mut pmu = Pmu::open(unit, &mut cpu).unwrap();
    pmu.registers.manner = Manner::SwitchSwallows;
    assert_eq!(pmu.count(&events, || {}), Err(Death::WritesAreLost));
    pmu.registers.manner = Manner::TooWide;
    assert_eq!(pmu.count(&events, || {}), Err(Death::TooWide));
    pmu.registers.manner = Manner::Faulting;
    assert_eq!(pmu.count(&events, || {}), Err(Death::Faults));
}

#[test]
fn passes_have_all_live_events_once() {
    let events = events_of(Vendor::Amd, 0x19, 0x11).unwrap().events;
    let mut states: Vec<_> = events
        .iter()
        .map(|event| State {
            event: *event,
            liveness: Liveness::Live,
        })
        .collect();
    states[2].liveness = Liveness::Dead(Death::Silent);
    for counters in 0..8 {
        let all: Vec<_> = passes(&states, counters).flatten().collect();
        let live: Vec<_> = states
            .iter()
            .filter(|state| state.liveness == Liveness::Live)
            .map(|state| state.event)
            .collect();
        assert_eq!(all, live);
    }
    assert_eq!(passes(&[], 4).count(), 0);
    assert_ne!(states[2].event.select, Select::new(0, 0));
}

proptest! {
    /// A fault anywhere does no harm: nothing panics, and what is put back is what was there, but for the one register that faulted.
    #[test]
    fn a_fault_at_any_access_does_no_harm(access in 1..2_000_u32, which in 0..8_usize) {
        let unit = units()[which];
        let mut cpu = Cpu::new(unit, Manner::FaultsOnce(access));
        let world = cpu.world.clone();
        let before = cpu.registers.clone();
        if let Ok(mut pmu) = Pmu::open(unit, &mut cpu) {
            let states = pmu.survey(&mut Busy(world));
            for pass in passes(&states, pmu.free()) {
                let _ = pmu.count(&pass, || {});
            }
        }
        let differ = before.iter().filter(|(register, value)| cpu.stored(**register) != **value).count();
        prop_assert!(differ <= 1);
        for number in 0..unit.counters {
            prop_assert!(!is_on(cpu.stored(unit.select(number))) || differ == 1);
        }
    }
}
