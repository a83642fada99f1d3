//! A guest has ended: its vCPUs are retired, everybody is looked at, and its memory is taken back.

use boot_config::{Ending, Expected};
use memory::guest::GuestFlushed;

use super::Worker;
use crate::guests::backing;
use crate::guests::guest::Guest;
use crate::guests::list::Place;
use crate::guests::vcpu::GuestVcpu;
use crate::hardware::Hardware;
use crate::reporting::{GuestResult, Moment};
use crate::shared::Shared;
use crate::virt::{Backend, Vcpu};

impl<B: Backend> Worker<B> {
    /// Ends a vCPU, so that nobody runs under its tag. For the last one of its guest: the proof that the memory can be taken back. Not
    /// inlined: the copies of its registers must lie below the caller's stack frame, where they are wiped.
    #[inline(never)]
    pub(super) fn retire(&mut self, place: Place<GuestVcpu<B::Vcpu>>) -> Option<GuestFlushed> {
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
    pub(super) fn moment_guests(&mut self) {
        let world = self.world;
        self.before_rest();
        world.stop.all(self.own.tables, || {
            world.look(|report, guests| {
                report.reporter.moment(Moment::Guests, &mut report.checks, guests);
            });
        });
    }

    /// Takes the guest down and checks what is left.
    pub(super) fn see_off(&mut self, guest: Shared<Guest>, flushed: GuestFlushed) {
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
}
