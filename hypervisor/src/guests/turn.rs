//! One turn of a guest on a CPU: until its slice is over, it gives the rest away, somebody kicks the CPU, or it ends.

use boot_config::Ending;
use guest_abi::Hypercall;
use memory::address::Gpa;
use memory::guest::GuestMemory;
use memory::window::Windows;

use super::live::{Label, Live};
use super::world::World;
use crate::cpu::descriptor::CpuTables;
use crate::cpu::registers;
use crate::cpu::timer::Timer;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::presence::Presence;
use crate::println;
use crate::virt::{Backend, Cause, Exit, GuestAccess, Loaded, Vcpu};

/// Time that a guest gets at a stretch: a choice. A twentieth of the shortest time limit among the guests that come along (`spin`,
/// 200 ms), so that limits are kept about that closely.
const SLICE_US: u64 = 10_000;

/// Most values that are reported for one guest: a guest that reports without end must not fill the log.
const MOST_VALUES: u64 = 1000;
const FIRST_DROPPED: u64 = MOST_VALUES + 1;

/// What one CPU has for running guests.
pub struct Own<B: Backend> {
    /// Its part of the virtualization in use.
    pub cpu: B::Cpu,
    /// Its windows.
    pub windows: Windows,
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

/// Runs a guest. Interrupts are masked before and after. Not inlined: the copies of its registers that it makes must lie below the caller's
/// stack frame, where they are wiped.
#[inline(never)]
pub fn run<B: Backend>(world: &World<B>, own: &mut Own<B>, guest: &mut Live<'static, B::Vcpu>) -> Slice {
    let Own {
        cpu,
        windows,
        tables,
        timer,
    } = own;
    let (config, clock) = (world.config, &world.clock);
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
            Exit::Kicked { in_guest } => {
                if tables.is_requested() {
                    guest.kicks += u64::from(in_guest);
                    break Slice::GoesOn;
                }
            }
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
                            ..=MOST_VALUES => world
                                .report
                                .with(|report| report.reporter.value(&label, name.as_str(), value)),
                            FIRST_DROPPED => {
                                println!("  {label} | (more than {MOST_VALUES} values: the rest is dropped)")
                            }
                            _ => {}
                        }
                    }
                    Ok(Hypercall::Exit(code)) => break Slice::Ended(Ending::Exit(code), None),
                    Ok(Hypercall::Yield) => break Slice::GoesOn,
                    Ok(Hypercall::Print(_)) | Err(_) => {}
                }
                // A guest that only makes hypercalls must not keep a shootdown waiting, nor its own slice from ending.
                // SAFETY: as above.
                unsafe { registers::let_interrupts_in() };
                if tables.ticks() != ticks {
                    break Slice::GoesOn;
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
