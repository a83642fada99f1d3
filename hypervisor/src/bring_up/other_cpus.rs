//! Starting the CPUs that the firmware lists, one after the other.
//!
//! For each: stacks and tables of its own, a hand-over ([`trampoline`]), INIT and two start-up interrupts (SDM vol. 3A, 8.4.4.1), and a wait
//! until it has settled or been refused ([`newcomer`]). One that does not come is reported, reset and left out. Nothing here is sized by a
//! number of CPUs.

use core::fmt;

use memory::address::{Hva, Level, PAGE_SIZE, Pfn};
use memory::frame::OutOfMemory;
use memory::layout::direct;
use memory::memory_map::FrameRange;
use memory::paging::{Attributes, BuildError, TableBuilder};
use memory::window::Windows;

use super::cpu_area::CpuArea;
use super::newcomer::{self, Common, Newcomer, Outcome};
use crate::boot::acpi::Platform;
use crate::boot::trampoline;
use crate::cpu::apic::LocalApic;
use crate::cpu::timer::Clock;
use crate::frames::{self, FrameBox, leak_frame};
use crate::hardware::Hardware;
use crate::virt::Backend;
use crate::{presence, println};

/// Time between INIT and the first start-up interrupt, and between that and the second (SDM vol. 3A, 8.4.4.1).
const AFTER_INIT_US: u64 = 10_000;
const AFTER_START_UP_US: u64 = 200;
/// Time that a CPU gets to settle: a choice. It needs microseconds; an emulator on a busy host may not let it run for a while.
const PATIENCE_US: u64 = 2_000_000;

/// Why a CPU is left out.
#[derive(Debug)]
enum Absence {
    /// There is no way to name it to the local APIC.
    OutOfReach,
    /// The area of stacks has no room for it.
    NoRoom,
    /// No memory for its stacks and tables.
    OutOfMemory(OutOfMemory),
    /// Its stacks could not be mapped.
    Build(BuildError),
    /// It did not answer.
    Silent,
    /// It began, and did not finish.
    Stuck,
    /// It has said why itself.
    Refused,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach => f.write_str(
                "its APIC id needs x2APIC mode, which the CPUs do not offer: switch it on in the firmware's setup, or with QEMU's `-cpu ...,+x2apic`",
            ),
            Self::NoRoom => f.write_str("there is no address space left for its stacks"),
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::Silent => write!(
                f,
                "it did not answer within {} s: is it broken, or does the firmware list a CPU that is not there?",
                PATIENCE_US / 1_000_000
            ),
            Self::Stuck => write!(f, "it answered, but was not ready within {} s", PATIENCE_US / 1_000_000),
            Self::Refused => f.write_str("for the reason above"),
        }
    }
}

impl From<OutOfMemory> for Absence {
    fn from(error: OutOfMemory) -> Self {
        Self::OutOfMemory(error)
    }
}

/// What starting CPUs takes.
pub struct Starter<'a, B: Backend> {
    /// A frame below 640 KiB for the trampoline; freed afterwards.
    pub page: Pfn,
    /// The top-level table whose slots all CPUs share.
    pub shared_root: Pfn,
    /// What every CPU is given.
    pub common: &'static Common<B>,
    /// The boot CPU's.
    pub apic: &'a LocalApic,
    /// For waiting.
    pub clock: &'a Clock,
    /// Whether the last CPU is not called at all: a deliberate mistake.
    pub forget_last: bool,
}

impl<B: Backend> Starter<'_, B> {
    /// Starts all CPUs of `platform` but the one that this runs on. Returns how many CPUs there are now.
    ///
    /// # Safety
    /// To be called once, on the boot CPU, whose tables have the slots of `shared_root`. The page must be the caller's, given up here.
    pub unsafe fn start(self, platform: &Platform) -> u32 {
        let Some(at) = direct(self.page.hpa()) else {
            return 1;
        };
        let code = trampoline::page();
        let to = core::ptr::with_exposed_provenance_mut::<u8>(at.get() as usize);
        // SAFETY: the frame is RAM in the direct map and ours; the code is shorter than a page.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len().min(PAGE_SIZE as usize)) };

        let boot_cpu = self.apic.id();
        let others = platform
            .cpus
            .iter()
            .filter(|cpu| cpu.enabled && cpu.apic_id != boot_cpu);
        let count = others.clone().count() as u32;
        let (mut used, mut all_came) = (1, true);
        for (number, cpu) in (1..).zip(others) {
            let call = !(self.forget_last && number == count);
            // SAFETY: the trampoline is in place; each number comes once.
            match unsafe { self.start_one(number, cpu.apic_id, call) } {
                Ok(()) => used += 1,
                Err(absence) => {
                    println!("CPU {number} (APIC id {}) is left out: {absence}", cpu.apic_id);
                    all_came &= !matches!(absence, Absence::Silent);
                }
            }
        }
        if platform.more_cpus > 0 {
            println!(
                "{} more CPUs are left out: the list of CPUs is full",
                platform.more_cpus
            );
        }
        if all_came {
            // SAFETY: it was the caller's; every CPU that was sent there has gone on to the image.
            unsafe { frames::give(self.page) };
        }
        // Else a CPU may still be on its way to the trampoline, though it was reset: its frame stays as it is.
        used
    }

    /// Starts one CPU and waits for it.
    ///
    /// # Safety
    /// As [`Self::start`]; each number must be used once, and the trampoline be in its page.
    unsafe fn start_one(&self, number: u32, apic_id: u32, call: bool) -> Result<(), Absence> {
        let Self { apic, clock, .. } = *self;
        if !apic.reaches(apic_id) {
            return Err(Absence::OutOfReach);
        }
        let area = CpuArea::new(number.into()).ok_or(Absence::NoRoom)?;
        let line = presence::cpu(number)
            .filter(|cpu| cpu.announce())
            .ok_or(Absence::NoRoom)?;
        let (root, windows) = make_tables(area, self.shared_root)?;
        let newcomer = FrameBox::new(Newcomer {
            number,
            apic_id,
            area,
            windows,
            common: self.common,
        })?
        .leak();
        newcomer::expect();
        // SAFETY: the area is mapped in the shared part of the tables, and this is the only use of its main stack before the CPU's own.
        // `arrive` wants a `Newcomer` that nobody else uses.
        unsafe {
            let argument = core::ptr::from_mut(newcomer).expose_provenance() as u64;
            trampoline::open(root, area.main_stack(), newcomer::arrive::<B>, argument);
        }
        if call {
            let vector = self.page.get() as u8;
            // SAFETY: a CPU that has not been started does nothing that could be missed; the trampoline is in its page.
            unsafe {
                apic.send_init(apic_id);
                wait(clock, AFTER_INIT_US, || false);
                apic.send_start_up(apic_id, vector);
                if !wait(clock, AFTER_START_UP_US, trampoline::is_settled) {
                    apic.send_start_up(apic_id, vector);
                }
            }
        }
        if !wait(clock, PATIENCE_US, trampoline::is_settled) {
            let given_up = line.give_up();
            if trampoline::close() {
                // SAFETY: it has done nothing. After a reset it can't do anything later.
                unsafe { apic.send_init(apic_id) };
                line.stopped();
                return Err(Absence::Silent);
            }
            if given_up || !wait(clock, PATIENCE_US, trampoline::is_settled) {
                return Err(Absence::Stuck);
            }
        }
        match newcomer::outcome() {
            Outcome::Ready => Ok(()),
            Outcome::Refused => {
                if line.give_up() {
                    // SAFETY: it halts for good.
                    unsafe { apic.send_init(apic_id) };
                    line.stopped();
                }
                Err(Absence::Refused)
            }
            Outcome::RefusedLate | Outcome::None => {
                // It halts and touches nothing any more, but its line says that it never flushed: no table that it may know is freed.
                let _ = line.give_up();
                Err(Absence::Refused)
            }
        }
    }
}

/// Maps a CPU's area where all CPUs see it, and makes its own top-level table with its window slot.
fn make_tables(area: CpuArea, shared_root: Pfn) -> Result<(Pfn, Windows), Absence> {
    let mut missing = None;
    let take = || leak_frame().map_err(|error| missing = Some(error)).ok();
    let mut builder = TableBuilder::resume(&Hardware, shared_root, Level::L1, take);
    let mut build = || {
        for part in area.parts() {
            for page in 0..part.pages {
                let frame = leak_frame().map_err(|_| BuildError::NoTableFrame)?;
                let at = Hva::new(part.start.get() + page * PAGE_SIZE);
                let frame = FrameRange {
                    start: frame,
                    end: frame.add(1),
                };
                builder.map(at, frame, Attributes::DATA)?;
            }
        }
        Windows::for_cpu(&mut builder)
    };
    let built = build();
    built.map_err(|error| missing.map_or(Absence::Build(error), Absence::OutOfMemory))
}

/// Waits until `done`, for so many microseconds at most. Whether it is.
fn wait(clock: &Clock, microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = clock.now_us();
    loop {
        if done() {
            return true;
        }
        if clock.now_us().saturating_sub(start) >= microseconds {
            return false;
        }
        core::hint::spin_loop();
    }
}
