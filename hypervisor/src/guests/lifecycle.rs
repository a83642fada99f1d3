//! Pausing, resuming and destroying guests from outside: for the operator (`operator`), and in test builds at random moments (`control`).
//!
//! A guest has a number from the moment at which its launch begins. So one that is being launched can be named, too: its launch is cancelled, by
//! whoever does it, at its next step.

use boot_config::Ending;

use super::guest::{Guest, Label};
use super::world::{Launching, World};
use crate::presence;
use crate::shared::Shared;
use crate::virt::Backend;

/// What a number stands for.
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at once, and there is no allocator for a box"
)]
pub(super) enum Known {
    /// A guest that has memory, or had it a moment ago.
    Guest(Shared<Guest>),
    /// A guest that is being launched.
    Launching(Launching),
    /// A guest that was, or that could not be launched.
    Gone,
    /// No guest has had that number yet.
    Never,
}

/// What a guest does, as far as others see it.
pub(super) enum Doing {
    /// It has ended, and is being taken down.
    Ending,
    /// It is paused.
    Paused,
    /// A CPU has one of its vCPUs in hand.
    Running,
    /// All its vCPUs wait for a turn.
    Waiting,
}

impl<B: Backend> World<B> {
    /// What this number stands for.
    pub(super) fn known(&self, instance: u32) -> Known {
        self.schedule.with(|schedule| {
            let mut guests = schedule.guests.iter();
            if let Some(guest) = guests.find(|guest| guest.instance == instance) {
                return Known::Guest(guest.clone());
            }
            match schedule.launching {
                Some(launching) if launching.instance == instance => Known::Launching(launching),
                _ if (1..=schedule.instances).contains(&instance) => Known::Gone,
                _ => Known::Never,
            }
        })
    }

    /// The guest with the lowest number above this one, of those that have memory.
    pub(super) fn guest_after(&self, instance: u32) -> Option<Shared<Guest>> {
        self.schedule.with(|schedule| {
            let later = schedule.guests.iter().filter(|guest| guest.instance > instance);
            later.min_by_key(|guest| guest.instance).cloned()
        })
    }

    /// The guest that is being launched, and whether more are to be launched after it.
    pub(super) fn launches(&self) -> (Option<Launching>, bool) {
        self.schedule
            .with(|schedule| (schedule.launching, schedule.has_more()))
    }

    /// What a guest does at this moment.
    pub(super) fn doing(&self, guest: &Guest) -> Doing {
        if guest.has_ended() {
            Doing::Ending
        } else if guest.is_paused() {
            Doing::Paused
        } else if self.runs(guest) {
            Doing::Running
        } else {
            Doing::Waiting
        }
    }

    /// Pauses a guest: when this returns, no vCPU of it runs, and none will before [`Self::resume`]. No lock is held, and this CPU runs none
    /// of its vCPUs. False when somebody else has paused it.
    pub(super) fn pause(&self, cpu: u32, guest: &Guest) -> bool {
        let first = self.schedule.with(|schedule| {
            let first = guest.set_paused(true);
            schedule.call(cpu, guest.id);
            first
        });
        // A guest that has ended is in the hand of whoever takes it down.
        while !guest.has_ended() && self.runs(guest) {
            presence::catch_up();
            core::hint::spin_loop();
        }
        first
    }

    /// Whether a CPU has one of its vCPUs in hand.
    pub(super) fn runs(&self, guest: &Guest) -> bool {
        self.schedule.with(|schedule| {
            let mut all = schedule.cpus.iter();
            all.any(|cpu| cpu.in_hand == Some(guest.id))
        })
    }

    /// Lets a guest go on. False when it was not paused.
    pub(super) fn resume(&self, cpu: u32, guest: &Guest) -> bool {
        self.schedule.with(|schedule| {
            let was_paused = guest.set_paused(false);
            schedule.call(cpu, guest.id);
            was_paused
        })
    }

    /// Destroys a guest, whatever it does. False when it has ended already.
    pub(super) fn destroy(&self, cpu: u32, guest: &Guest) -> bool {
        let first = guest.end((Ending::Destroyed, None));
        self.recall(cpu, guest.id);
        first
    }

    /// Cancels the launch of the guest with this number; whoever launches it sees that at its next step. False when it is launched no more, or its launch
    /// was cancelled before.
    pub(super) fn cancel(&self, instance: u32) -> bool {
        self.schedule.with(|schedule| match &mut schedule.launching {
            Some(launching) if launching.instance == instance => {
                !core::mem::replace(&mut launching.cancelled, true)
            }
            _ => false,
        })
    }

    /// Whether the launch that is under way was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.schedule
            .with(|schedule| schedule.launching.is_some_and(|launching| launching.cancelled))
    }
}

impl Launching {
    /// Its name and number.
    pub(super) fn label(&self) -> Label<'_> {
        Label(self.order.file.name(), self.instance)
    }
}
