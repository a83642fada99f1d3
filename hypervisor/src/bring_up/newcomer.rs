//! What a CPU that has been started does before it is one of the hypervisor's.
//!
//! It comes from the trampoline with tables and a stack of its own, and compares itself with the boot CPU: what guests and tables rely on must be
//! equal on all CPUs. A CPU that differs says in what, and halts for good.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use memory::address::Hva;
use memory::tlb::shootdown::JoinError;
use memory::window::Windows;
use spin::Once;

use super::cpu_area::CpuArea;
use crate::boot::trampoline;
use crate::cpu::apic::LocalApic;
use crate::cpu::descriptor::CpuTables;
use crate::cpu::features::Features;
use crate::cpu::mtrr::Caching;
use crate::cpu::registers::{self, halt_for_ever, read_cr0, read_cr4, read_efer};
use crate::guests::{World, work_for_ever};
use crate::hardware::Hardware;
use crate::virt::{Backend, EnableError};
use crate::{presence, println};

/// The control registers that must be equal on all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    cr0: u64,
    cr4: u64,
    efer: u64,
}

impl Control {
    /// This CPU's.
    pub fn read() -> Self {
        Self {
            cr0: read_cr0(),
            cr4: read_cr4(),
            efer: read_efer(),
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CR0 {:#x}, CR4 {:#x}, EFER {:#x}",
            self.cr0, self.cr4, self.efer
        )
    }
}

/// What all CPUs share, as the boot CPU has it.
pub struct Common<B: Backend> {
    /// Its features.
    pub features: Features,
    /// How it caches memory.
    pub caching: Caching,
    /// Its control registers, with virtualization switched on.
    pub control: Control,
    /// Where every CPU sees its own local APIC's registers.
    pub apic: Hva,
    /// The virtualization in use.
    pub backend: B,
    /// What the CPUs run guests with, once there is one.
    pub world: Once<&'static World<B>>,
}

/// What a CPU is given.
pub struct Newcomer<B: Backend> {
    /// Its number.
    pub number: u32,
    /// The local APIC id that the firmware gives for it.
    pub apic_id: u32,
    /// Its stacks.
    pub area: CpuArea,
    /// Its windows, under the top-level table that it uses.
    pub windows: Windows,
    /// What it shares with all.
    pub common: &'static Common<B>,
}

/// Why a CPU can't be used beside the boot CPU.
#[derive(Debug)]
enum Refusal {
    /// CPUID shows this otherwise than on the boot CPU.
    Feature(&'static str),
    /// Its virtualization, or what there is of vector registers.
    Virtualization,
    /// It did not take the boot CPU's MTRRs and PAT.
    Caching,
    /// Its id is this one, not the firmware's.
    Id(u32),
    /// Virtualization can't be switched on.
    Enable(EnableError),
    /// It can't take part in shootdowns.
    Join(JoinError),
    /// The control registers, which differ from the boot CPU's.
    Control(Control, Control),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(name) => write!(
                f,
                "its CPUID shows another {name} than the boot CPU's: all CPUs must be of one model and set up alike by the firmware"
            ),
            Self::Virtualization => f.write_str(
                "its virtualization or its vector registers differ from the boot CPU's: all CPUs must be of one model and set up alike",
            ),
            Self::Caching => f.write_str("it does not take the boot CPU's MTRRs and page attribute table"),
            Self::Id(id) => write!(f, "its APIC id is {id}: the firmware's list of CPUs is wrong"),
            Self::Enable(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
            Self::Control(own, boot) => write!(f, "it runs with {own}, the boot CPU with {boot}"),
        }
    }
}

/// What became of the CPU that was started last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// It is not there yet.
    None,
    /// It takes part.
    Ready,
    /// It can't be used, and halts; an INIT resets it.
    Refused,
    /// The same, but virtualization is on: in VMX operation an INIT does not reach it (SDM vol. 3C, 24.8).
    RefusedLate,
}

static OUTCOME: AtomicU32 = AtomicU32::new(Outcome::None as u32);

/// The next CPU is about to be started.
pub fn expect() {
    OUTCOME.store(Outcome::None as u32, Ordering::Release);
}

/// What became of it, once its hand-over is settled.
pub fn outcome() -> Outcome {
    match OUTCOME.load(Ordering::Acquire) {
        1 => Outcome::Ready,
        2 => Outcome::Refused,
        3 => Outcome::RefusedLate,
        _ => Outcome::None,
    }
}

/// Where a started CPU comes from the trampoline; `argument` is the address of its [`Newcomer`].
pub extern "C" fn arrive<B: Backend>(argument: u64) -> ! {
    let newcomer = core::ptr::with_exposed_provenance::<Newcomer<B>>(argument as usize);
    // SAFETY: the boot CPU made it for this CPU alone, in frames that are never freed, and only the CPU that took the hand-over gets here.
    let newcomer = unsafe { newcomer.read() };
    let (number, apic_id) = (newcomer.number, newcomer.apic_id);
    match settle_in(&newcomer) {
        Ok((cpu, tables)) => {
            OUTCOME.store(Outcome::Ready as u32, Ordering::Release);
            trampoline::settle();
            work_for_ever(newcomer, cpu, tables)
        }
        Err(refusal) => {
            println!("CPU {number} (APIC id {apic_id}): {refusal}");
            let outcome = match refusal {
                Refusal::Enable(_) | Refusal::Control(..) | Refusal::Join(_) => Outcome::RefusedLate,
                _ => Outcome::Refused,
            };
            OUTCOME.store(outcome as u32, Ordering::Release);
            trampoline::settle();
            halt_for_ever()
        }
    }
}

fn settle_in<B: Backend>(newcomer: &Newcomer<B>) -> Result<(B::Cpu, &'static CpuTables), Refusal> {
    let &Newcomer {
        number,
        apic_id,
        area,
        common,
        ..
    } = newcomer;
    // SAFETY: the area is mapped for good, and this is the only use of its exception stacks and tables.
    let tables = unsafe { area.make_tables().load(area.exception_stacks()) };
    // SAFETY: as above; it is the stack we are on.
    tables.set_main_stack(unsafe { area.main_stack() });
    tables.note_root();

    let features = Features::detect();
    if let Some(name) = features.difference(&common.features) {
        return Err(Refusal::Feature(name));
    }
    registers::enable_protections(&features);
    if !common.caching.adopt(&features) {
        return Err(Refusal::Caching);
    }
    // SAFETY: the page is mapped uncacheable and writable for good, and this is the only `LocalApic` of this CPU.
    tables.set_apic(unsafe { LocalApic::enable(&features, common.apic) });
    match tables.apic().map(LocalApic::id) {
        Some(id) if id == apic_id => {}
        id => return Err(Refusal::Id(id.unwrap_or(u32::MAX))),
    }
    if !common.backend.fits() {
        return Err(Refusal::Virtualization);
    }
    let cpu = common.backend.enable(number).map_err(Refusal::Enable)?;
    let control = Control::read();
    if control != common.control {
        // Virtualization is on, and keeps its frames.
        core::mem::forget(cpu);
        return Err(Refusal::Control(control, common.control));
    }
    // Nothing was hidden yet that this CPU could have touched: the boot CPU waits for it.
    let joined = presence::cpu(number).map(|cpu| cpu.join(&Hardware));
    match joined {
        Some(Ok(())) => Ok((cpu, tables)),
        Some(Err(error)) => {
            core::mem::forget(cpu);
            Err(Refusal::Join(error))
        }
        None => panic!("broken invariant: CPU {number} has no line in the shootdown protocol"),
    }
}
