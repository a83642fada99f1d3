//! The life of all guests: launch what fits, run whom chance picks, take down whoever ends.

use boot_config::{Config, Ending};
use guest_abi::Hypercall;
use guest_image::Archive;
use memory::address::Gpa;
use memory::frame::GuestId;
use memory::guest::GuestMemory;
use memory::window::Windows;

use super::launch::{self, Refusal};
use super::live::{Label, Live, Place, Population};
use super::queue::{Order, Queue};
use crate::checks::Checks;
use crate::cpu::descriptor::CpuTables;
use crate::cpu::timer::{Clock, Timer};
use crate::cpu::{registers, stack};
use crate::frames::with_memory;
use crate::hardware::{Hardware, Presence};
use crate::println;
use crate::reporting::{GuestResult, Moment, Reporter};
use crate::virt::{Backend, Cause, Exit, GuestAccess, Loaded, Vcpu};

/// Time that a guest gets at a stretch: a choice. A twentieth of the shortest time limit among the guests that come along (`spin`,
/// 200 ms), so that limits are kept about that closely.
const SLICE_US: u64 = 10_000;

/// Most values that are reported for one guest: a guest that reports without end must not fill the log.
const MOST_VALUES: u64 = 1000;
const FIRST_DROPPED: u64 = MOST_VALUES + 1;

/// What a scheduler works with.
pub struct Setup<'a, B: Backend> {
    /// The command line.
    pub config: &'a Config<'a>,
    /// The guests' programs.
    pub archive: &'a Archive<'a>,
    /// The virtualization in use.
    pub backend: &'a B,
    /// This CPU's part of it.
    pub cpu: B::Cpu,
    /// This CPU's windows.
    pub windows: Windows,
    /// This CPU's tables, which count its timer interrupts.
    pub tables: &'static CpuTables,
    /// This CPU's timer.
    pub timer: Timer<'static>,
    /// The time.
    pub clock: Clock,
}

/// Runs all guests of a boot on one CPU.
pub struct Scheduler<'a, B: Backend> {
    setup: Setup<'a, B>,
    queue: Queue<'a>,
    alive: Population<'a, B::Vcpu>,
    random: oorandom::Rand64,
    /// Guests launched or refused so far; the last one's number.
    instances: u32,
    /// The guest in turn did not fit, and nobody has died since: there is no use in trying again.
    crowded: bool,
    /// Who had the last turn.
    last: Option<u32>,
    /// Whether the moment "guests" has been: the first guest had ended, none was taken down yet.
    peak_seen: bool,
}

/// What became of a slice.
enum Slice {
    /// The guest can go on.
    GoesOn,
    /// It ended.
    Ended(Ending, Option<crate::virt::Ending>),
}

impl<'a, B: Backend> Scheduler<'a, B> {
    /// A scheduler that has launched nobody yet.
    ///
    /// # Errors
    /// The name of a guest that is not in the archive.
    pub fn new(setup: Setup<'a, B>) -> Result<Self, &'a str> {
        let queue = Queue::new(setup.config, setup.archive)?;
        let random = oorandom::Rand64::new(setup.config.seed.into());
        Ok(Self {
            setup,
            queue,
            alive: Population::new(),
            random,
            instances: 0,
            crowded: false,
            last: None,
            peak_seen: false,
        })
    }

    /// This CPU's windows, for the counters in them.
    pub fn windows(&self) -> &Windows {
        &self.setup.windows
    }

    /// Runs until every guest has ended.
    pub fn run(&mut self, checks: &mut Checks, reporter: &mut Reporter<'_>) {
        loop {
            self.launch_what_fits(reporter);
            let count = self.alive.len() as u64;
            if count == 0 {
                break;
            }
            let mut position = self.random.rand_range(0..count) as usize;
            // Not the one that has just had its turn, if there is another.
            if self.last.is_some() && self.alive.iter().nth(position).map(|guest| guest.instance) == self.last
            {
                position = (position + 1) % count as usize;
            }
            let Some(mut place) = self.alive.take(position) else {
                break;
            };
            let Some(guest) = place.guest_mut() else {
                break;
            };
            if self.last.is_some_and(|last| last != guest.instance) {
                guest.alternations += 1;
            }
            self.last = Some(guest.instance);
            reporter.turn_begins();
            match self.run_slice(guest, reporter) {
                Slice::GoesOn => self.alive.put_back(place),
                Slice::Ended(ending, detail) => {
                    if !self.peak_seen {
                        self.peak_seen = true;
                        // The one that ended still has its memory: put it back for the look at everybody.
                        self.alive.put_back(place);
                        reporter.moment(Moment::Guests, checks, self.memories());
                        place = match self.alive.take(0) {
                            Some(back) => back,
                            None => break,
                        };
                    }
                    self.bury(place, ending, detail.as_ref(), reporter);
                    // The calls since it was launched have left its registers below.
                    stack::wipe_unused();
                    checks.run(self.memories(), |subject, error| {
                        reporter.check_failed(subject, error)
                    });
                }
            }
        }
    }

    fn memories(&self) -> impl Iterator<Item = &GuestMemory> + Clone {
        self.alive.iter().map(|guest| &guest.memory)
    }

    /// Launches guests in their order until one does not fit; then waits for a death.
    fn launch_what_fits(&mut self, reporter: &mut Reporter<'_>) {
        while !self.crowded
            && let Some(order) = self.queue.front()
        {
            let alive = self.alive.len();
            let limit = self
                .setup
                .config
                .together
                .map_or(usize::MAX, |most| most as usize);
            if alive >= limit || (order.launch.after && alive > 0) {
                return;
            }
            let instance = self.instances + 1;
            let Some(id) = self.id_for(instance) else {
                self.crowded = true;
                return;
            };
            let seed = self.setup.config.seed;
            let launched = launch::launch(
                self.setup.backend,
                &mut self.setup.windows,
                &order,
                id,
                instance,
                seed,
            );
            match launched {
                Ok((place, guest)) => {
                    reporter.launched(
                        &Label(order.file.name(), instance),
                        guest.memory.bytes(),
                        guest.loading,
                    );
                    self.alive.add(place, guest);
                    reporter.most_at_once(self.alive.len() as u64);
                }
                // Somebody's death will make room.
                Err(refusal) if refusal.for_lack_of_memory() && alive > 0 => {
                    self.crowded = true;
                    return;
                }
                Err(refusal) => self.refuse(&order, instance, &refusal, reporter),
            }
            self.instances = instance;
            self.queue.advance();
        }
    }

    fn refuse(&self, order: &Order<'_>, instance: u32, refusal: &Refusal, reporter: &mut Reporter<'_>) {
        reporter.guest(&GuestResult {
            name: order.file.name(),
            instance,
            memory_bytes: order.launch.memory,
            ending: Ending::Refused,
            expected: order.launch.expect,
            detail: Some(refusal),
            exits: 0,
            hypercalls: 0,
            alternations: 0,
            cpu_us: 0,
        });
    }

    /// The number under which the memory subsystem knows a guest: its instance number, so that both name it alike. Beyond 16 bits
    /// the numbers begin again at 1, and those of living guests are passed over; `None` when there is no other.
    fn id_for(&self, instance: u32) -> Option<GuestId> {
        const NUMBERS: u32 = u16::MAX as u32;
        let first = instance.saturating_sub(1) % NUMBERS;
        (0..NUMBERS)
            .filter_map(|further| u16::try_from((first + further) % NUMBERS + 1).ok())
            .filter_map(GuestId::new)
            .find(|id| !self.alive.has(*id))
    }

    /// Runs a guest until its slice is over, it gives the rest away, or it ends. Not inlined: the copies of its registers that it makes
    /// must lie below the caller's stack frame, where they are wiped.
    #[inline(never)]
    fn run_slice(&mut self, guest: &mut Live<'a, B::Vcpu>, reporter: &mut Reporter<'_>) -> Slice {
        let Setup {
            config,
            cpu,
            windows,
            tables,
            timer,
            clock,
            ..
        } = &mut self.setup;
        let limit_us = u64::try_from(guest.launch.limit.as_micros()).unwrap_or(u64::MAX);
        let left_us = limit_us.saturating_sub(guest.used_us);
        // A timer interrupt that came too late to end the turn before this one is counted now; else it would end this one.
        // SAFETY: the tables with their handlers are loaded since bring-up, and no lock is held here.
        unsafe { registers::let_interrupts_in() };
        let (start, ticks) = (clock.now_us(), tables.ticks());
        let slice_us = SLICE_US.min(left_us);
        timer.start_slice(slice_us);
        let mut reader = Reader {
            guest: &mut guest.memory,
            windows,
        };
        let label = Label(guest.file.name(), guest.instance);
        let mut loaded = guest.vcpu.load(cpu, clock.ticks(slice_us));
        let mut result = loop {
            let exit = loaded.run(&Presence, &mut reader);
            match exit {
                Exit::Ended(ending) => break Slice::Ended(kind(&ending.cause), Some(ending)),
                Exit::Interrupted if tables.ticks() != ticks => break Slice::GoesOn,
                Exit::Interrupted => {}
                Exit::SliceOver => break Slice::GoesOn,
                Exit::Hypercall { number, arguments } => {
                    guest.hypercalls += 1;
                    let call = Hypercall::decode(number, &arguments);
                    loaded.set_hypercall_result(call.as_ref().err().map_or(0, |error| error.code() as u64));
                    match call {
                        Ok(Hypercall::Print(text)) if !config.quiet => {
                            guest
                                .output
                                .write(&label, text.as_bytes(), &mut |line| println!("{line}"));
                        }
                        Ok(Hypercall::Report { name, value }) => {
                            guest.values += 1;
                            match guest.values {
                                ..=MOST_VALUES => reporter.value(&label, name.as_str(), value),
                                FIRST_DROPPED => println!(
                                    "  {label} | (more than {MOST_VALUES} values: the rest is dropped)"
                                ),
                                _ => {}
                            }
                        }
                        Ok(Hypercall::Exit(code)) => break Slice::Ended(Ending::Exit(code), None),
                        Ok(Hypercall::Yield) => break Slice::GoesOn,
                        Ok(Hypercall::Print(_)) | Err(_) => {}
                    }
                }
            }
        };
        let rip = loaded.rip();
        drop(loaded);
        timer.stop();
        guest.used_us += clock.now_us().saturating_sub(start);
        if matches!(result, Slice::GoesOn) && guest.used_us >= limit_us {
            let ending = crate::virt::Ending {
                cause: Cause::TimeLimit,
                rip,
            };
            result = Slice::Ended(Ending::TimeLimit, Some(ending));
        }
        result
    }

    /// Takes a guest down: its vCPU first, so that nobody runs under its tag, then its memory. Not inlined, for the same reason as
    /// `run_slice`.
    #[inline(never)]
    fn bury(
        &mut self,
        place: Place<'a, B::Vcpu>,
        ending: Ending,
        detail: Option<&crate::virt::Ending>,
        reporter: &mut Reporter<'_>,
    ) {
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
        let flushed = guest.vcpu.retire(&mut self.setup.cpu, guest.memory.id());
        launch::take_back(guest.memory, flushed, &mut self.setup.windows);
        #[cfg(feature = "test-hooks")]
        crate::hooks::mark::mark(crate::hooks::mark::Mark::TornDown);
        self.crowded = false;
        reporter.guest(&GuestResult {
            name: guest.file.name(),
            instance: guest.instance,
            memory_bytes,
            ending,
            expected: guest.launch.expect,
            detail: detail.map(|ending| ending as &dyn core::fmt::Display),
            exits,
            hypercalls: guest.hypercalls,
            alternations: guest.alternations,
            cpu_us: guest.used_us,
        });
    }
}

/// The ending as the command line names it.
fn kind(cause: &Cause) -> Ending {
    match cause {
        Cause::MemoryFault(_) => Ending::MemoryFault,
        Cause::TimeLimit => Ending::TimeLimit,
        Cause::Shutdown => Ending::Shutdown,
        Cause::Halt => Ending::Halt,
        Cause::Unexpected(_) => Ending::Unexpected,
    }
}

/// A guest's memory for its own vCPU, read through windows.
struct Reader<'m> {
    guest: &'m mut GuestMemory,
    windows: &'m mut Windows,
}

impl GuestAccess for Reader<'_> {
    fn read_word(&mut self, gpa: Gpa) -> Option<u64> {
        let mut word = [0; 8];
        let read = with_memory(|memory| {
            self.guest
                .read(&Hardware, &memory.frames, self.windows, gpa, &mut word)
        });
        read.ok().map(|()| u64::from_le_bytes(word))
    }

    fn allow_fetch(&mut self, gpa: Gpa) -> bool {
        with_memory(|memory| self.guest.allow_fetch(memory, &Hardware, gpa))
    }
}
