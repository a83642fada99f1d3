//! Pausing, resuming and destroying a guest from another CPU, tried at random: the hook `control` of test builds.

use core::sync::atomic::{AtomicU64, Ordering};

use boot_config::{Expected, Hook};
use report::{Check, Event};

use super::guest::Guest;
use super::lifecycle::Known;
use super::world::World;
use crate::hooks;
use crate::println;
use crate::reporting::json;
use crate::shared::Shared;
use crate::virt::Backend;

static PAUSES: AtomicU64 = AtomicU64::new(0);
/// Guests that were destroyed, by what they did then.
static DESTROYED: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

/// What a guest that is destroyed does at that moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It is being launched, by another CPU.
    Launching,
    /// All its vCPUs wait for a turn.
    Waiting,
    /// A CPU has one of its vCPUs in hand.
    Running,
    /// It is paused.
    Paused,
    /// It is paused, and in the middle of a change of its memory.
    Changing,
    /// It was paused, and goes on.
    Resumed,
}

impl Doing {
    const ALL: [Self; 6] = [
        Self::Launching,
        Self::Waiting,
        Self::Running,
        Self::Paused,
        Self::Changing,
        Self::Resumed,
    ];

    fn destroyed(self) -> &'static AtomicU64 {
        match self {
            Self::Launching => &DESTROYED[0],
            Self::Waiting => &DESTROYED[1],
            Self::Running => &DESTROYED[2],
            Self::Paused => &DESTROYED[3],
            Self::Changing => &DESTROYED[4],
            Self::Resumed => &DESTROYED[5],
        }
    }

    /// Whether no guest was destroyed while it did this.
    fn is_new(self) -> bool {
        self.destroyed().load(Ordering::Relaxed) == 0
    }
}

/// One CPU that commands.
pub struct Commander {
    random: oorandom::Rand64,
    /// The number of the guest that it has paused, and the turns that had begun by then. Not the guest itself: its record must be gone when all
    /// CPUs are stopped for the last look.
    paused: Option<(u32, u64)>,
    /// The number of the last guest whose launch it has cancelled.
    cancelled: u32,
}

impl Commander {
    /// One whose choices follow from `seed`.
    pub fn new(seed: u128) -> Self {
        Self {
            random: oorandom::Rand64::new(!seed),
            paused: None,
            cancelled: 0,
        }
    }

    /// Between two pieces of work: does something to some guest, or nothing.
    pub fn act<B: Backend>(&mut self, world: &World<B>, cpu: u32) {
        if !hooks::is_set(Hook::Control) {
            return;
        }
        // Another CPU is seen in the middle of a launch a few times a run, if at all, where one thread of an emulator runs all CPUs.
        if Doing::Launching.is_new() && self.cancel(world) {
            return;
        }
        if self.random.rand_range(0..2) > 0 {
            return;
        }
        if self.paused.is_some() {
            self.release(world, cpu);
            return;
        }
        if let Known::Guest(guest) = world.known(self.cancelled) {
            assert!(
                guest.has_ended(),
                "broken invariant: guest {} lives although its launch was cancelled",
                guest.label()
            );
        }
        if self.cancel(world) {
            return;
        }
        // Half of the time one that may be destroyed, of which there are few.
        let may_end = self.random.rand_range(0..2) == 0;
        let Some(mut guest) = self.choose(world, may_end) else {
            return;
        };
        let changes = |guest: &Guest| guest.with_memory(|memory| memory.is_changing()) == Some(true);
        // Fewer still are in the middle of a change.
        for _ in 0..4 {
            if !may_end || !Doing::Changing.is_new() || changes(&guest) {
                break;
            }
            guest = self.choose(world, may_end).unwrap_or(guest);
        }
        let destroys = |random: &mut oorandom::Rand64, doing: Doing| {
            may_end && (doing.is_new() || random.rand_range(0..128) == 0)
        };
        let doing = if world.runs(&guest) {
            Doing::Running
        } else {
            Doing::Waiting
        };
        // One in the middle of a change is left for that.
        let is_left = Doing::Changing.is_new() && changes(&guest);
        if !is_left && destroys(&mut self.random, doing) {
            destroy(world, cpu, &guest, doing);
            return;
        }
        if !world.pause(cpu, &guest) {
            return;
        }
        PAUSES.fetch_add(1, Ordering::Relaxed);
        let doing = if changes(&guest) {
            Doing::Changing
        } else {
            Doing::Paused
        };
        if destroys(&mut self.random, doing) {
            destroy(world, cpu, &guest, doing);
        } else if destroys(&mut self.random, Doing::Resumed) {
            world.resume(cpu, &guest);
            destroy(world, cpu, &guest, Doing::Resumed);
            return;
        }
        self.paused = Some((guest.instance, guest.turns()));
    }

    /// Cancels the launch that is under way, now and then, if its guest may be destroyed; and once more.
    fn cancel<B: Backend>(&mut self, world: &World<B>) -> bool {
        let (Some(launching), _) = world.launches() else {
            return false;
        };
        let may_end = launching.order.launch.expect == Expected::Any;
        if !may_end || !Doing::Launching.is_new() && self.random.rand_range(0..8) > 0 {
            return false;
        }
        // Unless it is no launch any more.
        let first = world.cancel(launching.instance);
        if first {
            self.cancelled = launching.instance;
        }
        Doing::Launching
            .destroyed()
            .fetch_add(first.into(), Ordering::Relaxed);
        // One that was not cancelled may be put off, and begin again under its number.
        assert!(
            !first || !world.cancel(launching.instance),
            "broken invariant: a launch was cancelled twice"
        );
        first
    }

    /// Some guest that lives, if there is one; on demand one that may be destroyed.
    fn choose<B: Backend>(&mut self, world: &World<B>, may_end: bool) -> Option<Shared<Guest>> {
        let choice = self.random.rand_u64();
        let fits =
            |guest: &&Shared<Guest>| !guest.has_ended() && (!may_end || guest.launch.expect == Expected::Any);
        world.schedule.with(|schedule| {
            let count = schedule.guests.iter().filter(fits).count().max(1);
            schedule
                .guests
                .iter()
                .filter(fits)
                .nth(choice as usize % count)
                .cloned()
        })
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

/// Destroys a guest, and once more.
fn destroy<B: Backend>(world: &World<B>, cpu: u32, guest: &Guest, doing: Doing) {
    // Unless it has come to its own end meanwhile.
    let first = world.destroy(cpu, guest);
    doing.destroyed().fetch_add(first.into(), Ordering::Relaxed);
    assert!(
        !world.destroy(cpu, guest),
        "broken invariant: a guest was destroyed twice"
    );
}

/// At the end of the run: says what was done.
pub fn report() {
    if !hooks::is_set(Hook::Control) {
        return;
    }
    let pauses = PAUSES.load(Ordering::Relaxed);
    let [launching, waiting, running, paused, changing, resumed] =
        Doing::ALL.map(|doing| doing.destroyed().load(Ordering::Relaxed));
    println!(
        "control: {pauses} pauses; destroyed, and once more in vain: {launching} guests that were being launched, {waiting} that waited for a turn, {running} that ran, {paused} paused, \
         {changing} paused in a change, {resumed} resumed"
    );
    json::event(&Event::Check(Check {
        name: "control",
        // Without launches: whether a CPU meets one is chance on one thread of an emulator. Tests type `destroy` in the middle of one.
        held: [pauses, waiting, running, paused, changing, resumed]
            .iter()
            .all(|count| *count > 0),
        detail: "guests were paused, and destroyed whatever they did",
    }));
}
