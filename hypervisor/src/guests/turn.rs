//! One turn of a vCPU on a CPU: until its slice is over, it gives the rest away, somebody kicks the CPU, or it ends.

use boot_config::Ending;
use guest_abi::HypercallError;
use memory::address::Gpa;
use memory::guest::{Alias, ChangeError};
use memory::window::Windows;

use super::change;
use super::faults::Faulted;
use super::guest::Guest;
use super::hypercalls::{self, Outcome};
use super::vcpu::GuestVcpu;
use super::world::World;
use crate::cpu::descriptor::CpuTables;
use crate::cpu::registers;
use crate::cpu::timer::Timer;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::magazines::OwnMagazine;
use crate::presence::Presence;
use crate::virt::{Backend, Cause, Exit, GuestAccess, Loaded, Vcpu};

/// Time that a guest gets at a stretch: a choice. A twentieth of the shortest time limit among the guests that come along (`spin`,
/// 200 ms), so that limits are kept about that closely.
pub const SLICE_US: u64 = 10_000;

/// What one CPU has for running guests.
pub struct Own<B: Backend> {
    /// Its part of the virtualization in use.
    pub cpu: B::Cpu,
    /// Its windows.
    pub windows: Windows,
    /// Its hidden frames.
    pub magazine: OwnMagazine,
    /// Its tables, which count its timer interrupts and hold its request word.
    pub tables: &'static CpuTables,
    /// Its timer.
    pub timer: Timer<'static>,
}

/// What became of a slice.
pub enum Slice {
    /// The guest can go on.
    GoesOn,
    /// It ended.
    Ended(Ending, Option<crate::virt::Ending>),
}

/// Runs a vCPU. Interrupts are masked before and after. Not inlined: the copies of its registers that it makes must lie below the caller's
/// stack frame, where they are wiped.
#[inline(never)]
pub fn run<B: Backend>(world: &World<B>, own: &mut Own<B>, this: &mut GuestVcpu<B::Vcpu>) -> Slice {
    let Own {
        cpu,
        windows,
        magazine,
        tables,
        timer,
    } = own;
    let (clock, guest) = (&world.clock, this.guest.clone());
    // A timer interrupt that came too late to end the turn before this one is counted now; else it would end this one.
    // SAFETY: the tables with their handlers are loaded since bring-up, and no lock is held here.
    unsafe { registers::let_interrupts_in() };
    let (start, ticks) = (clock.now_us(), tables.ticks());
    let slice_us = SLICE_US.min(guest.left_us());
    timer.start_slice(slice_us);
    let mut reader = Reader {
        guest: &guest,
        windows,
    };
    let mut loaded = this.vcpu.load(cpu, clock.ticks(slice_us));
    let presence = Presence::new(&guest.tlb, this.last_flush);
    let counts = &mut this.counts;
    let mut result = loop {
        if let Some(asked) = this.change {
            let is_over = || tables.ticks() != ticks || tables.is_requested();
            let Some(result) = change::go_on(&guest, reader.windows, magazine, is_over) else {
                break Slice::GoesOn;
            };
            this.change = asked.begin_again(world, &guest, result);
            if this.change.is_some() {
                continue;
            }
            match &this.fault {
                None => set_result(&mut loaded, result),
                Some(fault) if fault.is_mended(result) => {}
                Some(fault) => break Slice::Ended(kind(&fault.ending.cause), Some(fault.ending)),
            }
        }
        if let Some(mut fault) = this.fault.take()
            && let Some(step) = fault.next
        {
            match step.begin(&guest) {
                Ok(()) => {
                    fault.next = fault.last.take();
                    (this.fault, this.change) = (Some(fault), Some(step));
                    continue;
                }
                // Another vCPU's change comes first.
                Err(ChangeError::Busy) => {
                    this.fault = Some(fault);
                    break Slice::GoesOn;
                }
                Err(_) => {}
            }
        }
        let exit = loaded.run(&presence, &mut reader);
        match exit {
            Exit::Ended(mut ending) => {
                if let Cause::MemoryFault(fault) = &mut ending.cause {
                    fault.page = guest.with_memory(|memory| memory.page(&Hardware, fault.gpa));
                    let fault = *fault;
                    this.fault = Faulted::of(&guest, ending, &fault);
                    if this.fault.is_some() {
                        continue;
                    }
                }
                break Slice::Ended(kind(&ending.cause), Some(ending));
            }
            Exit::Interrupted if tables.ticks() != ticks => break Slice::GoesOn,
            Exit::Interrupted => {}
            Exit::SliceOver => break Slice::GoesOn,
            Exit::Kicked { in_guest } => {
                if tables.is_requested() {
                    counts.kicks += u64::from(in_guest);
                    break Slice::GoesOn;
                }
            }
            Exit::Hypercall { number, arguments } => {
                counts.hypercalls += 1;
                let here = (tables.number(), &mut *reader.windows);
                match hypercalls::call(world, here, &guest, number, &arguments) {
                    Outcome::Result(result) => set_result(&mut loaded, result),
                    Outcome::Changes(asked) => this.change = Some(asked),
                    Outcome::Yield => {
                        loaded.set_hypercall_result(0);
                        break Slice::GoesOn;
                    }
                    Outcome::End(ending) => break Slice::Ended(ending, None),
                }
                // A guest that only makes hypercalls must not keep a shootdown waiting, nor its own slice from ending.
                // SAFETY: as above.
                unsafe { registers::let_interrupts_in() };
                if tables.ticks() != ticks || tables.is_requested() {
                    break Slice::GoesOn;
                }
            }
        }
    };
    let rip = loaded.rip();
    drop(loaded);
    this.last_flush = presence.last_flush();
    timer.stop();
    guest.use_up(clock.now_us().saturating_sub(start));
    if matches!(result, Slice::GoesOn) && guest.left_us() == 0 {
        let ending = crate::virt::Ending {
            cause: Cause::TimeLimit,
            rip,
        };
        result = Slice::Ended(Ending::TimeLimit, Some(ending));
    }
    result
}

fn set_result(vcpu: &mut impl Loaded, result: Result<(), HypercallError>) {
    vcpu.set_hypercall_result(result.err().map_or(0, |error| error.code() as u64));
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

/// A guest's memory for one of its vCPUs, read through the CPU's windows.
struct Reader<'m> {
    guest: &'m Guest,
    windows: &'m mut Windows,
}

impl GuestAccess for Reader<'_> {
    fn read_word(&mut self, gpa: Gpa) -> Option<u64> {
        let mut word = [0; 8];
        let read = self.guest.with_memory(|guest| {
            with_memory(|memory| {
                let frames = &memory.frames;
                if guest.page(&Hardware, gpa).alias == Alias::Private {
                    return guest
                        .read(&Hardware, frames, self.windows, gpa, &mut word)
                        .is_ok();
                }
                let at = Gpa::new(gpa.get() & !(1 << guest.shared_bit()));
                guest
                    .read_shared(&Hardware, frames, self.windows, at, &mut word)
                    .is_ok()
            })
        })?;
        read.then(|| u64::from_le_bytes(word))
    }

    fn allow_fetch(&mut self, gpa: Gpa) -> bool {
        let allowed = self
            .guest
            .with_memory(|guest| with_memory(|memory| guest.allow_fetch(memory, &Hardware, gpa)));
        allowed.unwrap_or(false)
    }
}
