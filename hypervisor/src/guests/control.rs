//! Pausing, resuming and destroying a guest from another CPU, tried at random: the hook `control` of test builds, until there is somebody to
//! command it.

use core::sync::atomic::{AtomicU64, Ordering};

use boot_config::{Ending, Expected, Hook};
use report::{Check, Event};

use super::guest::Guest;
use super::world::World;
use crate::hooks;
use crate::presence;
use crate::println;
use crate::reporting::json;
use crate::virt::Backend;

static PAUSES: AtomicU64 = AtomicU64::new(0);
static DESTROYED: AtomicU64 = AtomicU64::new(0);

impl<B: Backend> World<B> {
    /// Pauses a guest: when this returns, no vCPU of it runs, and none will before [`Self::resume`]. No lock is held, and this CPU runs none
    /// of its vCPUs. False when somebody else has paused it.
    fn pause(&self, cpu: u32, guest: &Guest) -> bool {
        let first = self.schedule.with(|schedule| {
            let first = guest.set_paused(true);
            schedule.call(cpu, guest.id);
            first
        });
        let runs = || {
            self.schedule.with(|schedule| {
                let mut others = schedule.cpus.iter();
                others.any(|other| other.in_hand == Some(guest.id))
            })
        };
        // A guest that has ended is in the hand of whoever takes it down.
        while !guest.has_ended() && runs() {
            presence::catch_up();
            core::hint::spin_loop();
        }
        first
    }

    /// Lets a guest go on.
    fn resume(&self, cpu: u32, guest: &Guest) {
        self.schedule.with(|schedule| {
            guest.set_paused(false);
            schedule.call(cpu, guest.id);
        });
    }

    /// Destroys a guest, whatever it does. False when it has ended already.
    fn destroy(&self, cpu: u32, guest: &Guest) -> bool {
        let first = guest.end((Ending::Destroyed, None));
        self.recall(cpu, guest.id);
        first
    }
}

/// One CPU that commands.
pub struct Commander {
    random: oorandom::Rand64,
    /// The number of the guest that it has paused, and the turns that had begun by then. Not the guest itself: its record must be gone when all
    /// CPUs are stopped for the last look.
    paused: Option<(u32, u64)>,
}

impl Commander {
    /// One whose choices follow from `seed`.
    pub fn new(seed: u128) -> Self {
        Self {
            random: oorandom::Rand64::new(!seed),
            paused: None,
        }
    }

    /// Between two pieces of work: does something to some guest, or nothing.
    pub fn act<B: Backend>(&mut self, world: &World<B>, cpu: u32) {
        if !hooks::is_set(Hook::Control) || self.random.rand_range(0..4) > 0 {
            return;
        }
        if self.paused.is_some() {
            self.release(world, cpu);
            return;
        }
        let choice = self.random.rand_u64();
        let chosen = world.schedule.with(|schedule| {
            let count = schedule.guests.len().max(1);
            schedule.guests.iter().nth(choice as usize % count).cloned()
        });
        let Some(guest) = chosen.filter(|guest| !guest.has_ended() && world.pause(cpu, guest)) else {
            return;
        };
        PAUSES.fetch_add(1, Ordering::Relaxed);
        // Also while it is paused, and twice.
        if guest.launch.expect == Expected::Any && self.random.rand_range(0..8) == 0 {
            DESTROYED.fetch_add(world.destroy(cpu, &guest).into(), Ordering::Relaxed);
            assert!(
                !world.destroy(cpu, &guest),
                "broken invariant: a guest was destroyed twice"
            );
        }
        self.paused = Some((guest.instance, guest.turns()));
    }

    /// Lets the guest go on that is paused. False when none is.
    pub fn release<B: Backend>(&mut self, world: &World<B>, cpu: u32) -> bool {
        let Some((instance, turns)) = self.paused.take() else {
            return false;
        };
        let known = world.schedule.with(|schedule| {
            let mut guests = schedule.guests.iter();
            guests.find(|guest| guest.instance == instance).cloned()
        });
        let Some(guest) = known else {
            // It was destroyed.
            return true;
        };
        assert!(
            guest.turns() == turns,
            "broken invariant: guest {} had a turn while it was paused",
            guest.label()
        );
        world.resume(cpu, &guest);
        true
    }
}

/// At the end of the run: says what was done.
pub fn report() {
    if !hooks::is_set(Hook::Control) {
        return;
    }
    let (pauses, destroyed) = (PAUSES.load(Ordering::Relaxed), DESTROYED.load(Ordering::Relaxed));
    println!("control: {pauses} pauses, {destroyed} guests destroyed");
    json::event(&Event::Check(Check {
        name: "control",
        held: pauses > 0 && destroyed > 0,
        detail: "guests were paused and destroyed",
    }));
}
