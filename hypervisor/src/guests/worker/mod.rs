//! One CPU at work: it launches guests (`birth`), gives them turns, takes down whoever ends (`death`), and dozes when there is nothing to do.

mod birth;
mod death;

use memory::window::Windows;

use super::list::Place;
use super::operator::Operator;
use super::turn::{self, Own, SLICE_US, Slice};
use super::vcpu::{GuestVcpu, Name};
use super::world::{Work, World};
use crate::bring_up::newcomer::Newcomer;
use crate::cpu::descriptor::{CpuTables, Parked};
use crate::cpu::timer::Timer;
use crate::cpu::{registers, stack};
#[cfg(feature = "test-hooks")]
use crate::hooks::stress::{self, Piece};
use crate::magazines::OwnMagazine;
use crate::reporting::Moment;
use crate::virt::Backend;
use crate::{frames, presence};

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
