//! A guest is launched.

use boot_config::{Ending, Expected};
use memory::address::PAGE_SIZE;

use super::Worker;
use crate::cpu::registers;
use crate::guests::guest::{Counts, Label};
use crate::guests::launch::{self, Refusal};
use crate::guests::pressure;
use crate::guests::world::Due;
use crate::println;
use crate::reporting::GuestResult;
use crate::virt::Backend;

impl<B: Backend> Worker<B> {
    /// Launches a guest, or says why not. Interrupts are let in: it takes long.
    pub(super) fn launch(&mut self, due: Due) {
        let number = self.own.tables.number();
        // SAFETY: the descriptor tables are loaded, and no lock is held here.
        unsafe { registers::unmask_interrupts() };
        let (world, windows, operator) = (self.world, &mut self.own.windows, &mut self.operator);
        if world.config.console && !world.config.quiet {
            // Whoever types may name it from now on.
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
}
