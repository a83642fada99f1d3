//! What the CPUs share: which guests wait on which CPU, what is to be launched next, and the report.
//!
//! Each CPU has a run queue of vCPUs. It asks for its next piece of work ([`World::next`]): a launch, if one is due and nobody else launches; a
//! turn of a vCPU of its own queue; a turn of one that it takes from the longest queue; or rest. A vCPU that gets its turn is out of the
//! queues until it is put back. Those of a guest that has ended come first: they get no turn, but are retired.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boot_config::{Config, Ending};
use guest_image::Archive;
use memory::frame::{GuestId, OutOfMemory};
use memory::guest::GuestMemory;

use super::guest::Guest;
use super::list::{List, Place};
use super::queue::{Order, Queue};
use super::stop::Stop;
use super::vcpu::{GuestVcpu, Name, Newborn};
use crate::checks::{Checks, Memories};
use crate::cpu::timer::{Calibration, Clock};
use crate::frames::leak_slice_with;
use crate::lock::{Lock, Rank};
use crate::presence;
use crate::reporting::Reporter;
use crate::shared::Shared;
use crate::virt::Backend;

/// The report in the making, and what is checked for it.
pub struct Report {
    /// The walker.
    pub checks: Checks,
    /// The report.
    pub reporter: Reporter<'static>,
}

/// Everything that the CPUs share for running guests.
pub struct World<B: Backend> {
    /// The command line.
    pub config: &'static Config<'static>,
    /// The virtualization in use.
    pub backend: &'static B,
    /// The time.
    pub clock: Clock,
    /// The timers' rate.
    pub calibration: Calibration,
    /// Stops all CPUs.
    pub stop: Stop,
    /// The report.
    pub report: Lock<Report>,
    pub(super) schedule: Lock<Schedule<B>>,
    /// Whether a guest has had a turn.
    begun: AtomicBool,
    /// Windows closed so far, on all CPUs.
    invalidations: AtomicU64,
}

/// Why there is nothing to run.
pub enum WorldError {
    /// A guest of this name is not in the archive.
    Missing(&'static str),
    /// No memory for the run queues.
    OutOfMemory(OutOfMemory),
}

/// A guest that is to be launched.
pub struct Due {
    /// What.
    pub order: Order<'static>,
    /// Its number for the memory subsystem.
    pub id: GuestId,
    /// Its number in this boot.
    pub instance: u32,
    /// Guests that have died so far.
    deaths: u64,
}

/// The launch that is under way; there is one at a time.
#[derive(Clone, Copy)]
pub(super) struct Launching {
    /// What.
    pub(super) order: Order<'static>,
    /// Its number in this boot.
    pub(super) instance: u32,
    /// Somebody has destroyed the guest.
    pub(super) cancelled: bool,
}

/// What a CPU does next.
#[allow(
    clippy::large_enum_variant,
    reason = "it is on the stack for a moment, and there is no allocator for a box"
)]
pub enum Work<B: Backend> {
    /// Launch a guest, and tell [`World::launched`], [`World::refused`] or [`World::postpone`].
    Launch(Due),
    /// Give a vCPU a turn, and put it back, or retire it.
    Turn(Place<GuestVcpu<B::Vcpu>>),
    /// Doze until an interrupt comes.
    Rest,
    /// All guests have ended. Told to the boot CPU only.
    Done,
}

/// One CPU's vCPUs.
pub(super) struct RunQueue<V: 'static> {
    /// Those that wait for a turn.
    waiting: List<GuestVcpu<V>>,
    /// The guest that has its turn, or is being launched or buried.
    pub(super) in_hand: Option<GuestId>,
    /// The CPU dozes, and nobody has woken it.
    resting: bool,
}

pub(super) struct Schedule<B: Backend> {
    queue: Queue<'static>,
    pub(super) cpus: &'static mut [RunQueue<B::Vcpu>],
    /// All guests that have memory, from the end of the launch to the beginning of the teardown.
    pub(super) guests: List<Shared<Guest>>,
    /// Guests that are not buried yet, the one that is being launched included.
    alive: usize,
    /// Whom somebody launches.
    pub(super) launching: Option<Launching>,
    /// The guest in turn did not fit, and nobody has died since: there is no use in trying again.
    crowded: bool,
    deaths: u64,
    /// Guests launched or refused so far; the last one's number.
    pub(super) instances: u32,
    /// The moment "guests" has been: the first guest had ended, none was taken down yet.
    peak_seen: bool,
    together: usize,
}

impl<B: Backend> World<B> {
    /// A world in which nobody lives yet, for CPUs with numbers below `cpus`.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub fn new(
        config: &'static Config<'static>,
        archive: &'static Archive<'static>,
        backend: &'static B,
        calibration: Calibration,
        clock: Clock,
        cpus: u32,
        report: Report,
    ) -> Result<Self, WorldError> {
        let queue = Queue::new(config, archive).map_err(WorldError::Missing)?;
        let cpus = leak_slice_with(cpus as usize, |_| {
            Ok(RunQueue {
                waiting: List::new(),
                in_hand: None,
                resting: false,
            })
        })
        .map_err(WorldError::OutOfMemory)?;
        Ok(Self {
            config,
            backend,
            clock,
            calibration,
            stop: Stop::new(),
            report: Lock::new(Rank::Report, report),
            schedule: Lock::new(
                Rank::Schedule,
                Schedule {
                    queue,
                    cpus,
                    guests: List::new(),
                    alive: 0,
                    launching: None,
                    crowded: false,
                    deaths: 0,
                    instances: 0,
                    peak_seen: false,
                    together: config.together.map_or(usize::MAX, |most| most as usize),
                },
            ),
            begun: AtomicBool::new(false),
            invalidations: AtomicU64::new(0),
        })
    }

    /// What the CPU with this number does next. `last` is the vCPU that had the last turn there.
    pub fn next(&self, cpu: u32, random: &mut oorandom::Rand64, last: Option<Name>) -> Work<B> {
        self.schedule.with(|schedule| schedule.next(cpu, random, last))
    }

    /// A guest was launched: its vCPU waits on this CPU for its first turn. Returns how many guests live.
    pub fn launched(&self, cpu: u32, newborn: Newborn<B::Vcpu>) -> u64 {
        self.schedule.with(|schedule| {
            // After the launch's last step: it has ended before it runs.
            if schedule
                .launching
                .take()
                .is_some_and(|launching| launching.cancelled)
            {
                newborn.vcpu.guest.end((Ending::Destroyed, None));
            }
            schedule.guests.add(newborn.place, newborn.vcpu.guest.clone());
            let own = schedule.own(cpu);
            own.in_hand = None;
            own.waiting.add(newborn.vcpu_place, newborn.vcpu);
            schedule.wake_one();
            schedule.alive as u64
        })
    }

    /// A guest that runs on this CPU has started a further vCPU: it waits here, or for a CPU that rests.
    pub fn add_vcpu(&self, cpu: u32, place: Place<GuestVcpu<B::Vcpu>>, vcpu: GuestVcpu<B::Vcpu>) {
        self.schedule.with(|schedule| {
            schedule.own(cpu).waiting.add(place, vcpu);
            schedule.wake_one();
        });
    }

    /// A guest was not launched, and never will be.
    pub fn refused(&self, cpu: u32) {
        self.schedule.with(|schedule| {
            schedule.launching = None;
            schedule.own(cpu).in_hand = None;
            schedule.alive -= 1;
        });
    }

    /// A guest did not fit. True: it is launched again later, when another has died. False: there is no other, or it was cancelled, so it never
    /// will.
    pub fn postpone(&self, cpu: u32, due: &Due) -> bool {
        self.schedule.with(|schedule| {
            let is_alone = schedule.alive == 1 && schedule.deaths == due.deaths;
            if is_alone || schedule.launching.is_some_and(|launching| launching.cancelled) {
                return false;
            }
            schedule.launching = None;
            schedule.own(cpu).in_hand = None;
            schedule.alive -= 1;
            schedule.instances -= 1;
            schedule.queue.retreat();
            // Somebody may have died meanwhile: then it is tried again at once.
            schedule.crowded = schedule.deaths == due.deaths;
            true
        })
    }

    /// The vCPU had its turn and waits for another.
    pub fn put_back(&self, cpu: u32, place: Place<GuestVcpu<B::Vcpu>>) {
        self.schedule.with(|schedule| {
            let own = schedule.own(cpu);
            own.in_hand = None;
            own.waiting.put_back(place);
        });
    }

    /// Gets the vCPUs of a guest that has ended out of it, wherever else they run. They are retired where they come out, or where they wait.
    pub fn recall(&self, cpu: u32, guest: GuestId) {
        self.schedule.with(|schedule| schedule.call(cpu, guest));
    }

    /// A vCPU of a guest that has ended was retired here, and others of it are left.
    pub fn retired(&self, cpu: u32) {
        self.schedule.with(|schedule| schedule.own(cpu).in_hand = None);
    }

    /// True for the first guest that has ended: then the moment "guests" has come, for this CPU to see to.
    pub fn is_first_end(&self) -> bool {
        self.schedule
            .with(|schedule| !core::mem::replace(&mut schedule.peak_seen, true))
    }

    /// Takes a guest off the list of those that have memory, to bury it. It is in this CPU's hand.
    pub fn take_off(&self, guest: GuestId) {
        // What is dropped is dropped outside of the lock.
        let _place = self
            .schedule
            .with(|schedule| schedule.guests.take_where(|known| known.id == guest));
    }

    /// The guest in hand is buried: its memory is free again.
    pub fn buried(&self, cpu: u32) {
        self.schedule.with(|schedule| {
            schedule.own(cpu).in_hand = None;
            schedule.alive -= 1;
            schedule.deaths += 1;
            schedule.crowded = false;
        });
    }

    /// One of the guests that have memory, by its place among them, which may be another's at any time.
    pub fn guest(&self, position: usize) -> Option<Shared<Guest>> {
        self.schedule
            .with(|schedule| schedule.guests.iter().nth(position).cloned())
    }

    /// Runs `look` on the memory of all guests and on the report, while all CPUs are stopped.
    pub fn look<R>(&self, look: impl FnOnce(&mut Report, &dyn Memories) -> R) -> R {
        self.schedule
            .with(|schedule| self.report.with(|report| look(report, &schedule.guests)))
    }

    /// A CPU has closed so many windows more.
    pub fn count_invalidations(&self, more: u64) {
        if more > 0 {
            self.invalidations.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Windows closed so far, on all CPUs.
    pub fn invalidations(&self) -> u64 {
        self.invalidations.load(Ordering::Relaxed)
    }

    /// A guest is about to have a turn. True the first time.
    pub fn begins(&self) -> bool {
        !self.begun.load(Ordering::Relaxed) && !self.begun.swap(true, Ordering::Relaxed)
    }
}

impl Memories for List<Shared<Guest>> {
    fn each(&self, visit: &mut dyn FnMut(&GuestMemory)) {
        for guest in self.iter() {
            guest.with_memory(|memory| visit(memory));
        }
    }
}

impl<B: Backend> Schedule<B> {
    fn own(&mut self, cpu: u32) -> &mut RunQueue<B::Vcpu> {
        match self.cpus.get_mut(cpu as usize) {
            Some(own) => own,
            None => panic!("broken invariant: CPU {cpu} has no run queue"),
        }
    }

    fn next(&mut self, cpu: u32, random: &mut oorandom::Rand64, last: Option<Name>) -> Work<B> {
        self.own(cpu).resting = false;
        if let Some(due) = self.due() {
            self.own(cpu).in_hand = Some(due.id);
            return Work::Launch(due);
        }
        if let Some(mut place) = self.pick(cpu, random, last).or_else(|| self.take_over()) {
            let own = self.own(cpu);
            own.in_hand = place.get_mut().map(|vcpu| vcpu.guest.id);
            if own.waiting.len() > 0 {
                self.wake_one();
            }
            return Work::Turn(place);
        }
        let finished = self.alive == 0 && self.queue.front().is_none();
        if finished && cpu == 0 {
            return Work::Done;
        }
        self.own(cpu).resting = true;
        if finished && self.own(0).resting {
            self.own(0).resting = false;
            presence::wake(0);
        }
        Work::Rest
    }

    /// The guest that is to be launched now, if any; it counts as launched from here on.
    fn due(&mut self) -> Option<Due> {
        #[cfg(feature = "test-hooks")]
        match crate::hooks::stress::wants_guests() {
            Some(true) if self.queue.front().is_none() => self.queue.rewind(),
            Some(false) => self.queue.cut(),
            _ => (),
        }
        let order = self.queue.front()?;
        if self.launching.is_some()
            || self.crowded && self.alive > 0
            || self.alive >= self.together
            || order.launch.after && self.alive > 0
        {
            return None;
        }
        let instance = self.instances + 1;
        let Some(id) = self.id_for(instance) else {
            self.crowded = true;
            return None;
        };
        self.instances = instance;
        self.queue.advance();
        self.launching = Some(Launching {
            order,
            instance,
            cancelled: false,
        });
        self.alive += 1;
        Some(Due {
            order,
            id,
            instance,
            deaths: self.deaths,
        })
    }

    /// Whether guests are still to be launched.
    pub(super) fn has_more(&self) -> bool {
        self.queue.front().is_some()
    }

    /// One of the CPU's own vCPUs: one to be retired, or one at random; not the one that has just had its turn, if there is another.
    fn pick(
        &mut self,
        cpu: u32,
        random: &mut oorandom::Rand64,
        last: Option<Name>,
    ) -> Option<Place<GuestVcpu<B::Vcpu>>> {
        let waiting = &mut self.own(cpu).waiting;
        if let Some(place) = waiting.take_where(|vcpu| vcpu.guest.has_ended()) {
            return Some(place);
        }
        let runnable = || (0..).zip(waiting.iter()).filter(|(_, vcpu)| vcpu.is_runnable());
        let count = runnable().count() as u64;
        if count == 0 {
            return None;
        }
        let chosen = random.rand_range(0..count) as usize;
        let (mut position, vcpu) = runnable().nth(chosen)?;
        if last == Some(vcpu.name()) {
            (position, _) = runnable().nth((chosen + 1) % count as usize)?;
        }
        waiting.take(position)
    }

    /// One from the longest queue of a CPU that is busy with another.
    fn take_over(&mut self) -> Option<Place<GuestVcpu<B::Vcpu>>> {
        let busy = self.cpus.iter_mut().filter(|own| own.in_hand.is_some());
        let runnable = |own: &RunQueue<B::Vcpu>| own.waiting.iter().filter(|vcpu| vcpu.is_runnable()).count();
        let longest = busy.max_by_key(|own| runnable(own))?;
        longest.waiting.take_where(GuestVcpu::is_runnable)
    }

    /// Calls the CPUs that have a guest's vCPUs, but for the one with this number: those that run one leave it, those that rest look again.
    pub(super) fn call(&mut self, cpu: u32, guest: GuestId) {
        for (number, other) in (0..).zip(self.cpus.iter_mut()) {
            if number == cpu {
                continue;
            }
            if other.in_hand == Some(guest)
                && let Some(tables) = presence::tables(number)
            {
                presence::kick(tables);
            }
            if other.resting && other.waiting.iter().any(|vcpu| vcpu.guest.id == guest) {
                other.resting = false;
                presence::wake(number);
            }
        }
    }

    /// Wakes a CPU that rests, if there is one: there is a guest to take over.
    fn wake_one(&mut self) {
        if let Some((number, own)) = (0..).zip(self.cpus.iter_mut()).find(|(_, own)| own.resting) {
            own.resting = false;
            presence::wake(number);
        }
    }

    /// The number under which the memory subsystem knows a guest: its instance number, so that both name it alike. Beyond 16 bits
    /// the numbers begin again at 1, and those of living guests are passed over; `None` when there is no other.
    fn id_for(&self, instance: u32) -> Option<GuestId> {
        const NUMBERS: u32 = u16::MAX as u32;
        let first = instance.saturating_sub(1) % NUMBERS;
        (0..NUMBERS)
            .filter_map(|further| u16::try_from((first + further) % NUMBERS + 1).ok())
            .filter_map(GuestId::new)
            .find(|id| !self.has(*id))
    }

    /// Whether a guest with this number lives.
    fn has(&self, id: GuestId) -> bool {
        self.cpus.iter().any(|own| own.in_hand == Some(id)) || self.guests.iter().any(|guest| guest.id == id)
    }
}
