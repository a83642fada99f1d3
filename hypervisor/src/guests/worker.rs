//! One CPU at work: it launches guests, gives them turns, takes down whoever ends, and dozes when there is nothing to do.

use boot_config::{Ending, Expected};
use memory::address::PAGE_SIZE;
use memory::guest::GuestFlushed;
use memory::window::Windows;

use super::backing;
use super::guest::{Counts, Guest, Label};
use super::launch::{self, Refusal};
use super::list::Place;
use super::operator::Operator;
use super::pressure;
use super::turn::{self, Own, SLICE_US, Slice};
use super::vcpu::{GuestVcpu, Name};
use super::world::{Due, Work, World};
use crate::bring_up::newcomer::Newcomer;
use crate::cpu::descriptor::{CpuTables, Parked};
use crate::cpu::timer::Timer;
use crate::cpu::{registers, stack};
use crate::hardware::Hardware;
#[cfg(feature = "test-hooks")]
use crate::hooks::stress::{self, Piece};
use crate::magazines::OwnMagazine;
use crate::reporting::{GuestResult, Moment};
use crate::shared::Shared;
use crate::virt::{Backend, Vcpu};
use crate::{frames, presence, println};

/// A CPU that runs guests.
pub struct Worker<B: Backend> {
    world: &'static World<B>,
    own: Own<B>,
    random: oorandom::Rand64,
    /// Who had the last turn here.
    last: Option<Name>,
    /// Window invalidations that the world knows of.
    told: u64,
    /// A guest has had a turn since the stack was wiped.
    used: bool,
    /// Who types commands, on the boot CPU of a run that takes some.
    operator: Option<Operator>,
    #[cfg(feature = "test-hooks")]
    commander: super::control::Commander,
}

impl<B: Backend> Worker<B> {
    /// This CPU, which has not begun yet.
    pub fn new(
        world: &'static World<B>,
        cpu: B::Cpu,
        windows: Windows,
        tables: &'static CpuTables,
    ) -> Option<Self> {
        let seed = u128::from(world.config.seed) | u128::from(tables.number()) << 64;
        Some(Self {
            world,
            own: Own {
                cpu,
                windows,
                magazine: OwnMagazine::new(),
                tables,
                timer: Timer::new(tables.apic()?, world.calibration),
            },
            random: oorandom::Rand64::new(seed),
            last: None,
            told: 0,
            used: false,
            operator: (world.config.console && tables.number() == 0).then(Operator::new),
            #[cfg(feature = "test-hooks")]
            commander: super::control::Commander::new(seed),
        })
    }

    /// Works until every guest has ended; only the boot CPU's call returns.
    pub fn run(&mut self) {
        let number = self.own.tables.number();
        loop {
            registers::mask_interrupts();
            let closed = self.own.windows.invalidations();
            self.world.count_invalidations(closed - self.told);
            self.told = closed;
            self.own.tables.take_request();
            self.own.magazine.look(&mut self.own.windows);
            let (world, tables) = (self.world, self.own.tables);
            world.stop.pass(tables, || self.before_rest());
            self.attend();
            #[cfg(feature = "test-hooks")]
            self.commander.act(self.world, number);
            #[cfg(feature = "test-hooks")]
            let more = self.stress();
            #[cfg(not(feature = "test-hooks"))]
            let more = false;
            match self.world.next(number, &mut self.random, self.last) {
                Work::Launch(due) => self.launch(due),
                Work::Turn(place) => self.turn(place),
                #[cfg(feature = "test-hooks")]
                Work::Rest if self.commander.release(self.world, number) => (),
                Work::Rest | Work::Done if more => core::hint::spin_loop(),
                Work::Rest => {
                    self.before_rest();
                    self.own.tables.set_parked(Parked::Resting);
                    self.doze();
                }
                Work::Done => return,
            }
        }
    }

    /// Does what the operator has typed, if this CPU listens to one.
    fn attend(&mut self) {
        if let Some(operator) = &mut self.operator {
            operator.attend(self.world, self.own.tables.number());
        }
    }

    /// Dozes until an interrupt comes; none comes of what the operator types, so the timer's does.
    fn doze(&mut self) {
        if self.operator.is_none() {
            return presence::doze();
        }
        self.own.timer.start_slice(SLICE_US);
        presence::doze();
        self.own.timer.stop();
    }

    /// What this CPU does before it dozes or is stopped.
    fn before_rest(&mut self) {
        self.wipe();
        self.own.magazine.give_back(&mut self.own.windows);
    }

    /// A piece of the stress, if there is one. True when there is more to do, so that this CPU must not rest.
    #[cfg(feature = "test-hooks")]
    fn stress(&mut self) -> bool {
        let (world, tables) = (self.world, self.own.tables);
        let Own {
            windows, magazine, ..
        } = &mut self.own;
        match stress::piece(tables.number(), windows, magazine) {
            Piece::Over => return false,
            Piece::More => {}
            Piece::Stop => {
                self.before_rest();
                world.stop.all(tables, || world.look(stress::look));
            }
        }
        true
    }

    /// Calls that have returned have left guests' registers on the stack.
    fn wipe(&mut self) {
        if core::mem::take(&mut self.used) {
            stack::wipe_unused();
        }
    }

    /// Launches a guest, or says why not. Interrupts are let in: it takes long.
    fn launch(&mut self, due: Due) {
        let number = self.own.tables.number();
        // SAFETY: the descriptor tables are loaded, and no lock is held here.
        unsafe { registers::unmask_interrupts() };
        let (world, windows, operator) = (self.world, &mut self.own.windows, &mut self.operator);
        if operator.is_some() {
            let (name, mib) = (due.order.file.name(), due.order.launch.memory >> 20);
            println!("launching {} with {mib} MiB", Label(name, due.instance));
        }
        let mut goes_on = || {
            if let Some(operator) = operator {
                operator.attend(world, number);
            }
            !world.is_cancelled()
        };
        let mut launch = || launch::launch(world.backend, windows, &due, world.config.seed, &mut goes_on);
        let launched = match launch() {
            Err(refusal) if refusal.for_lack_of_memory() => {
                let frames = due.order.launch.memory / PAGE_SIZE;
                if pressure::make_room(world, frames, || ()) {
                    launch()
                } else {
                    Err(refusal)
                }
            }
            launched => launched,
        };
        match launched {
            Ok(newborn) => {
                let (guest, loading) = (newborn.vcpu.guest.clone(), newborn.loading);
                self.world.report.with(|report| {
                    report.reporter.launched(
                        &guest.label(),
                        guest.launch.memory,
                        guest.measurement(),
                        loading,
                    );
                });
                let alive = self.world.launched(number, newborn);
                self.world
                    .report
                    .with(|report| report.reporter.most_at_once(alive));
            }
            // Somebody's death will make room.
            Err(refusal) if refusal.for_lack_of_memory() && self.world.postpone(number, &due) => {}
            Err(refusal) => {
                let (ending, expected, refusal) = if world.is_cancelled() {
                    (Ending::Destroyed, Expected::Any, Refusal::Cancelled)
                } else {
                    (Ending::Refused, due.order.launch.expect, refusal)
                };
                self.world.report.with(|report| {
                    report.reporter.guest(&GuestResult {
                        name: due.order.file.name(),
                        instance: due.instance,
                        memory_bytes: due.order.launch.memory,
                        large_leaves_bytes: 0,
                        measurement: None,
                        ending,
                        expected,
                        detail: Some(&refusal),
                        vcpus: 0,
                        at_once: 0,
                        turns: 0,
                        counts: Counts::default(),
                        cpu_us: 0,
                    });
                });
                self.world.refused(number);
            }
        }
    }

    /// Gives a vCPU a turn, and retires it if its guest ends or has ended.
    fn turn(&mut self, mut place: Place<GuestVcpu<B::Vcpu>>) {
        let number = self.own.tables.number();
        let Some(vcpu) = place.get_mut() else { return };
        let guest = vcpu.guest.clone();
        if !guest.has_ended() {
            if self.last.is_some_and(|(last, _)| last != guest.instance) {
                vcpu.counts.alternations += 1;
            }
            if vcpu.ran_on.replace(number).is_some_and(|before| before != number) {
                vcpu.counts.moves += 1;
            }
            self.last = Some(vcpu.name());
            if self.world.begins() {
                self.world.report.with(|report| report.reporter.turn_begins());
            }
            self.used = true;
            match guest.in_turn(|| turn::run(self.world, &mut self.own, vcpu)) {
                Slice::GoesOn if !guest.has_ended() => {
                    self.world.put_back(number, place);
                    return;
                }
                Slice::GoesOn => (),
                Slice::Ended(ending, detail) => {
                    if guest.end((ending, detail)) {
                        self.world.recall(number, guest.id);
                    }
                }
            }
        }
        // What follows takes long.
        // SAFETY: the descriptor tables are loaded, and no lock is held here.
        unsafe { registers::unmask_interrupts() };
        if self.world.is_first_end() {
            // Nothing of the guest is gone yet, its vCPU included: who looks from outside finds its memory by that.
            self.moment_guests();
        }
        match self.retire(place) {
            Some(flushed) => self.see_off(guest, flushed),
            None => self.world.retired(number),
        }
    }

    /// Ends a vCPU, so that nobody runs under its tag. For the last one of its guest: the proof that the memory can be taken back. Not
    /// inlined: the copies of its registers must lie below the caller's stack frame, where they are wiped.
    #[inline(never)]
    fn retire(&mut self, place: Place<GuestVcpu<B::Vcpu>>) -> Option<GuestFlushed> {
        let vcpu = place.into_value()?;
        self.used = true;
        let mut counts = vcpu.counts;
        counts.exits = vcpu.vcpu.exits();
        #[cfg(feature = "test-hooks")]
        if vcpu.guest.vcpus_alive() == 1 {
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Teardown);
        }
        let flushed = vcpu.vcpu.retire(&mut self.own.cpu, vcpu.pass);
        vcpu.guest.retired(flushed, &counts)
    }

    /// The moment "guests": looks at everybody.
    fn moment_guests(&mut self) {
        let world = self.world;
        self.before_rest();
        world.stop.all(self.own.tables, || {
            world.look(|report, guests| {
                report.reporter.moment(Moment::Guests, &mut report.checks, guests);
            });
        });
    }

    /// Takes the guest down and checks what is left.
    fn see_off(&mut self, guest: Shared<Guest>, flushed: GuestFlushed) {
        let (world, number) = (self.world, self.own.tables.number());
        // Its record as well is gone before anybody knows: the last look counts all frames, and may come before the one below.
        self.bury(guest, flushed);
        world.buried(number);
        // The calls since it was launched have left its registers below.
        self.before_rest();
        world.stop.all(self.own.tables, || {
            world.look(|report, guests| {
                let reporter = &mut report.reporter;
                report
                    .checks
                    .run(guests, |subject, error| reporter.check_failed(subject, error));
            });
        });
    }

    /// Takes a guest's memory down, which no vCPU can reach any more, and reports how it ended.
    fn bury(&mut self, guest: Shared<Guest>, flushed: GuestFlushed) {
        let number = self.own.tables.number();
        self.world.take_off(guest.id);
        let Some(end) = guest.take_down() else {
            panic!("broken invariant: guest {} is buried alive", guest.label());
        };
        let is_destroyed = end.ending == Ending::Destroyed;
        let large_leaves_bytes = end.memory.bytes_in_large_leaves(&Hardware);
        let (world, operator) = (self.world, &mut self.operator);
        backing::take_back(end.memory, flushed, &mut self.own.windows, &mut || {
            if let Some(operator) = operator {
                operator.attend(world, number);
            }
        });
        #[cfg(feature = "test-hooks")]
        crate::hooks::mark::mark(crate::hooks::mark::Mark::TornDown);
        self.world.report.with(|report| {
            report.reporter.guest(&GuestResult {
                name: guest.file.name(),
                instance: guest.instance,
                memory_bytes: guest.launch.memory,
                large_leaves_bytes,
                measurement: guest.measurement(),
                ending: end.ending,
                // Whoever destroys a guest expects nothing else of it.
                expected: if is_destroyed {
                    Expected::Any
                } else {
                    guest.launch.expect
                },
                detail: end
                    .detail
                    .as_ref()
                    .map(|detail| detail as &dyn core::fmt::Display)
                    .or(is_destroyed.then_some(&"on request")),
                vcpus: end.vcpus,
                at_once: guest.at_once(),
                turns: guest.turns(),
                counts: end.counts,
                cpu_us: guest.used_us(),
            });
        });
    }

    /// The last look: all CPUs stay stopped for good, and have flushed, so that every table frame that waited for that is free. To be called
    /// on the boot CPU when [`Self::run`] has returned.
    pub fn finish(mut self) -> Option<crate::reporting::Reason> {
        self.before_rest();
        let world = self.world;
        world.stop.all(self.own.tables, || {
            // Those that doze flush when they wake, and then wait here.
            for other in presence::others(self.own.tables.number()) {
                presence::wake(other.number());
            }
            frames::settle();
            #[cfg(feature = "test-hooks")]
            super::control::report();
            let invalidations = world.invalidations();
            world.look(|report, guests| {
                report.reporter.moment(Moment::After, &mut report.checks, guests);
                report.reporter.finish(&mut report.checks, invalidations)
            })
        })
    }
}

/// What a further CPU does for the rest of the run: it dozes until there is a world, and works in it.
pub fn work_for_ever<B: Backend>(newcomer: Newcomer<B>, cpu: B::Cpu, tables: &'static CpuTables) -> ! {
    let world = loop {
        match newcomer.common.world.get() {
            Some(world) => break *world,
            None => presence::doze(),
        }
    };
    match Worker::new(world, cpu, newcomer.windows, tables) {
        Some(mut worker) => loop {
            worker.run();
        },
        None => panic!(
            "broken invariant: CPU {} works without a local APIC",
            tables.number()
        ),
    }
}
