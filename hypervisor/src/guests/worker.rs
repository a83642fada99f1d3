//! One CPU at work: it launches guests, gives them turns, takes down whoever ends, and dozes when there is nothing to do.

use boot_config::Ending;
use memory::window::Windows;

use super::launch;
use super::live::{Label, Place};
use super::turn::{self, Own, Slice};
use super::world::{Due, Work, World};
use crate::bring_up::newcomer::Newcomer;
use crate::cpu::descriptor::{CpuTables, Parked};
use crate::cpu::timer::Timer;
use crate::cpu::{registers, stack};
use crate::println;
use crate::reporting::{GuestResult, Moment};
use crate::virt::{Backend, Vcpu};
use crate::{frames, presence};

/// A CPU that runs guests.
pub struct Worker<B: Backend> {
    world: &'static World<B>,
    own: Own<B>,
    random: oorandom::Rand64,
    /// Who had the last turn here.
    last: Option<u32>,
    /// Window invalidations that the world knows of.
    told: u64,
    /// A guest has had a turn since the stack was wiped.
    used: bool,
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
                tables,
                timer: Timer::new(tables.apic()?, world.calibration),
            },
            random: oorandom::Rand64::new(seed),
            last: None,
            told: 0,
            used: false,
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
            if self.world.stop.is_called() {
                self.wipe();
            }
            self.world.stop.pass(self.own.tables);
            match self.world.next(number, &mut self.random, self.last) {
                Work::Launch(due) => self.launch(due),
                Work::Turn(place) => self.turn(place),
                Work::Rest => {
                    self.wipe();
                    self.own.tables.set_parked(Parked::Resting);
                    presence::doze();
                }
                Work::Done => return,
            }
        }
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
        let launched = launch::launch(
            self.world.backend,
            &mut self.own.windows,
            &due,
            self.world.config.seed,
        );
        match launched {
            Ok((place, guest)) => {
                let (bytes, loading) = (guest.memory.bytes(), guest.loading);
                self.world.report.with(|report| {
                    report
                        .reporter
                        .launched(&Label(due.order.file.name(), due.instance), bytes, loading);
                });
                let alive = self.world.launched(number, place, guest);
                self.world
                    .report
                    .with(|report| report.reporter.most_at_once(alive));
            }
            // Somebody's death will make room.
            Err(refusal) if refusal.for_lack_of_memory() && self.world.postpone(number, &due) => {}
            Err(refusal) => {
                self.world.report.with(|report| {
                    report.reporter.guest(&GuestResult {
                        name: due.order.file.name(),
                        instance: due.instance,
                        memory_bytes: due.order.launch.memory,
                        ending: Ending::Refused,
                        expected: due.order.launch.expect,
                        detail: Some(&refusal),
                        exits: 0,
                        hypercalls: 0,
                        alternations: 0,
                        moves: 0,
                        kicks: 0,
                        cpu_us: 0,
                    });
                });
                self.world.refused(number);
            }
        }
    }

    /// Gives a guest a turn, and buries it if it ends.
    fn turn(&mut self, mut place: Place<'static, B::Vcpu>) {
        let number = self.own.tables.number();
        let Some(guest) = place.guest_mut() else { return };
        if self.last.is_some_and(|last| last != guest.instance) {
            guest.alternations += 1;
        }
        if guest
            .ran_on
            .replace(number)
            .is_some_and(|before| before != number)
        {
            guest.moves += 1;
        }
        self.last = Some(guest.instance);
        if self.world.begins() {
            self.world.report.with(|report| report.reporter.turn_begins());
        }
        self.used = true;
        match turn::run(self.world, &mut self.own, guest) {
            Slice::GoesOn => self.world.put_back(number, place),
            Slice::Ended(ending, detail) => self.see_off(place, ending, detail.as_ref()),
        }
    }

    /// Looks at everybody, if this is the first one that has ended; takes the guest down; checks what is left. Interrupts are let in.
    fn see_off(
        &mut self,
        place: Place<'static, B::Vcpu>,
        ending: Ending,
        detail: Option<&crate::virt::Ending>,
    ) {
        let (world, number) = (self.world, self.own.tables.number());
        // SAFETY: the descriptor tables are loaded, and no lock is held here.
        unsafe { registers::unmask_interrupts() };
        if world.ended(number, place) {
            world.stop.all(self.own.tables, || {
                world.look(|report, guests| {
                    report
                        .reporter
                        .moment(Moment::Guests, &mut report.checks, guests.iter());
                });
            });
        }
        if let Some(place) = world.take_ended(number) {
            self.bury(place, ending, detail);
        }
        world.buried(number);
        // The calls since it was launched have left its registers below.
        self.used = true;
        self.wipe();
        world.stop.all(self.own.tables, || {
            world.look(|report, guests| {
                let reporter = &mut report.reporter;
                report.checks.run(guests.iter(), |subject, error| {
                    reporter.check_failed(subject, error)
                });
            });
        });
    }

    /// Takes a guest down: its vCPU first, so that nobody runs under its tag, then its memory. Not inlined: the copies of its registers must
    /// lie below the caller's stack frame, where they are wiped.
    #[inline(never)]
    fn bury(&mut self, place: Place<'static, B::Vcpu>, ending: Ending, detail: Option<&crate::virt::Ending>) {
        let Some(mut guest) = place.into_guest() else {
            return;
        };
        guest
            .output
            .finish(&Label(guest.file.name(), guest.instance), &mut |line| {
                println!("{line}");
            });
        let memory_bytes = guest.memory.bytes();
        let exits = guest.vcpu.exits();
        #[cfg(feature = "test-hooks")]
        crate::hooks::mark::mark(crate::hooks::mark::Mark::Teardown);
        let flushed = guest.vcpu.retire(&mut self.own.cpu, guest.memory.id());
        launch::take_back(guest.memory, flushed, &mut self.own.windows);
        #[cfg(feature = "test-hooks")]
        crate::hooks::mark::mark(crate::hooks::mark::Mark::TornDown);
        self.world.report.with(|report| {
            report.reporter.guest(&GuestResult {
                name: guest.file.name(),
                instance: guest.instance,
                memory_bytes,
                ending,
                expected: guest.launch.expect,
                detail: detail.map(|ending| ending as &dyn core::fmt::Display),
                exits,
                hypercalls: guest.hypercalls,
                alternations: guest.alternations,
                moves: guest.moves,
                kicks: guest.kicks,
                cpu_us: guest.used_us,
            });
        });
    }

    /// The last look: all CPUs stay stopped for good, and have flushed, so that every table frame that waited for that is free. To be called
    /// on the boot CPU when [`Self::run`] has returned.
    pub fn finish(self) -> Option<crate::reporting::Reason> {
        let world = self.world;
        world.stop.all(self.own.tables, || {
            // Those that doze flush when they wake, and then wait here.
            for other in presence::others(self.own.tables.number()) {
                presence::wake(other.number());
            }
            frames::settle();
            let invalidations = world.invalidations();
            world.look(|report, guests| {
                report
                    .reporter
                    .moment(Moment::After, &mut report.checks, guests.iter());
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
