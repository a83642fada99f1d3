//! Running guests on the CPU's virtualization.
//!
//! A run, in order: [`Backend::detect`] asks the CPU, [`Backend::new`] takes what all guests share, [`Backend::enable`] switches it on
//! for one CPU, [`Backend::new_vcpu`] makes a guest's CPU from a [`StartState`]. A worker then [`Vcpu::load`]s it, which puts the
//! registers that no entry swaps on the CPU, [`Loaded::run`]s it until an [`Exit`], and drops the loaded state, which takes
//! these registers off again and leaves none of their contents. [`Vcpu::retire`] ends it; when all of a guest are retired there is
//! the proof that its teardown wants (`tally`).
//!
//! - `ending`: why a guest ended. `unsupported`: why no guest can run here.
//! - `guest_registers`, `vector_state`, `debug_registers`: what the hardware's world switch does not swap.
//! - `host_events`: interrupts, NMIs and machine checks that end guest mode.
//! - `svm`: AMD. `vmx`: Intel. What the guest may see and do is decided in the package `vcpu-policy`.

mod debug_registers;
mod ending;
mod guest_registers;
mod host_events;
pub mod svm;
mod tally;
mod unsupported;
mod vector_state;
pub mod vmx;

use guest_abi::Arguments;
use memory::address::{Gpa, Gva, Hpa};
use memory::guest::SecondStageKind;

pub use ending::{Access, Cause, Ending, MemoryFault, PortAccess, Stage, Unexpected};
pub use tally::{VcpuFlushed, VcpuPass, VcpuTally};
pub use unsupported::{EnableError, OutOfFrames, Unsupported};

/// Where a guest starts. It starts in 64-bit mode at privilege level 0 with interrupts off, CS 08H, the other segments 10H, and
/// zero in every register that is not named here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartState {
    /// First instruction.
    pub rip: Gva,
    /// Stack pointer.
    pub rsp: Gva,
    /// First argument.
    pub rdi: u64,
    /// The guest's top-level table.
    pub cr3: Gpa,
    /// The guest's descriptor table, with a 64-bit code segment at 08H and a data segment at 10H.
    pub gdt_base: Gva,
    /// Last byte of the descriptor table.
    pub gdt_limit: u16,
}

/// The launch measurement that CPUID shows a guest.
pub type Measurement = [u8; guest_abi::cpuid::MEASUREMENT_BYTES];

/// A guest's memory, as far as its vCPU needs the host's help with it.
pub trait GuestAccess {
    /// The eight bytes at an 8-aligned guest-physical address, for the bytes of an intercepted instruction; `None` where the guest has
    /// no memory.
    fn read_word(&mut self, gpa: Gpa) -> Option<u64>;

    /// Lets the guest execute from the memory around an address, after a fetch that its second stage did not allow. False, and
    /// nothing changed, when it has no memory there or may execute there already.
    fn allow_fetch(&mut self, gpa: Gpa) -> bool;
}

/// What this CPU owes others while a guest runs on it (design rule 1).
///
/// Both are called with interrupts masked. Their own data must be image, stack or per-CPU data: `after_guest_mode` runs before this CPU
/// has touched anything else.
pub trait GuestModeHooks {
    /// The CPU is about to enter a guest and will touch nothing but stack and image until `after_guest_mode`: from here on a
    /// flag may stand for its flush.
    fn before_guest_mode(&self);
    /// A word that is not 0 when the CPU is not to enter the guest; read for the last time where nothing that changes it can be missed.
    fn request_word(&self) -> *const u32;
    /// The CPU has left the guest: it flushes now, if it was flagged.
    fn after_guest_mode(&self);
}

/// What a vCPU that is about to be entered owes its guest's other vCPUs: the guest's second stage may have changed since it was entered last.
///
/// All around one entry, with interrupts masked: in between the CPU waits for nobody.
pub trait EntryHooks: GuestModeHooks {
    /// The CPU goes to enter the guest. True: the vCPU's second-stage translations are to be flushed by this entry, or right before it.
    fn before_entry(&self) -> bool;
    /// The CPU is back. `entered`: it was in guest mode, after that flush if there was to be one.
    fn after_entry(&self, entered: bool);
    /// A physical interrupt has ended guest mode and is pending: lets it be handled. Interrupts are masked again on return.
    fn let_interrupt_in(&self);
}

/// Why [`Loaded::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The guest calls; the answer goes in by [`Loaded::set_hypercall_result`].
    Hypercall {
        /// RAX.
        number: u64,
        /// The argument registers.
        arguments: Arguments,
    },
    /// A physical interrupt came and has been handled; the guest can go on.
    Interrupted,
    /// Another CPU kicked this one, or an NMI came; the guest can go on. `in_guest`: that ended guest mode, else the guest was not entered.
    Kicked {
        /// Guest mode was ended.
        in_guest: bool,
    },
    /// The time that [`Vcpu::load`] was given is used up; the guest can go on. Comes only from CPUs that count it themselves.
    SliceOver,
    /// The guest can't go on.
    Ended(Ending),
}

/// What was found on the CPU, for the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Kind of second-stage tables.
    pub second_stage: &'static str,
    /// What is done because of an erratum of this CPU.
    pub quirk: Option<&'static str>,
    /// Translation tags, the host's own included.
    pub asids: u32,
    /// The CPU reports the address of the next instruction at an exit.
    pub nrip_save: bool,
    /// The CPU reports what an intercepted instruction is.
    pub decode_assists: bool,
    /// The CPU can flush the translations of one tag.
    pub flush_by_asid: bool,
}

/// One kind of hardware virtualization.
pub trait Backend: Sized + Sync + 'static {
    /// What was found on the CPU.
    type Found;
    /// What one CPU has for running guests.
    type Cpu;
    /// A guest's CPU.
    type Vcpu: Vcpu<Cpu = Self::Cpu>;

    /// Asks the CPU that this runs on. Changes nothing.
    ///
    /// # Errors
    /// [`Unsupported`] says what is missing and what to do.
    fn detect() -> Result<Self::Found, Unsupported>;

    /// What was found, for the report.
    fn capabilities(found: &Self::Found) -> Capabilities;

    /// The second-stage tables that guests need on this CPU.
    fn second_stage(&self) -> SecondStageKind;

    /// Whether those tables may have 1G leaves.
    fn large_guest_leaves(&self) -> bool;

    /// Takes the frames that all guests share.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn new(found: Self::Found) -> Result<Self, OutOfFrames>;

    /// Whether the CPU that this runs on offers what the one did that was asked.
    fn fits(&self) -> bool;

    /// Switches virtualization on for the CPU that this runs on; `index` is its number, different for each CPU.
    ///
    /// # Errors
    /// [`EnableError`]; no guest can run on the CPU then.
    fn enable(&self, index: u32) -> Result<Self::Cpu, EnableError>;

    /// Makes a guest's CPU. `second_stage` is the top-level table that translates the guest's physical addresses.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn new_vcpu(
        &self,
        start: &StartState,
        measurement: &Measurement,
        second_stage: Hpa,
    ) -> Result<Self::Vcpu, OutOfFrames>;
}

/// A guest's CPU, which at the moment runs nowhere.
pub trait Vcpu {
    /// What one CPU has for running guests.
    type Cpu;
    /// This vCPU with its registers on a CPU; dropping it saves and clears them.
    type Loaded<'a>: Loaded
    where
        Self: 'a;

    /// Puts the vCPU's vector and debug registers on the CPU that `cpu` belongs to, which must be the one that this runs on.
    /// Interrupt handlers must not use vector registers meanwhile (the hypervisor is compiled without them).
    ///
    /// Where the CPU can count the time it spends in guest mode, [`Loaded::run`] returns after `slice_ticks` TSC ticks of it; elsewhere only
    /// an interrupt ends a guest that does not exit.
    fn load<'a>(&'a mut self, cpu: &'a mut Self::Cpu, slice_ticks: u64) -> Self::Loaded<'a>;

    /// Exits from guest mode so far, those that are dealt with in here included.
    fn exits(&self) -> u64;

    /// Ends the vCPU and gives its translation tag back to this CPU. The translations themselves may stay in TLBs until the tag is used
    /// again, out of reach: nobody runs under it. So the word is that they are flushed, or will be before anyone can notice that they are
    /// not. `pass` is this vCPU's.
    fn retire(self, cpu: &mut Self::Cpu, pass: VcpuPass) -> VcpuFlushed;
}

/// A vCPU whose registers are on this CPU.
pub trait Loaded {
    /// Runs the guest until something happens that is not dealt with here. Interrupts are masked on entry and on return; a pending one
    /// is handled in between.
    fn run(&mut self, hooks: &dyn EntryHooks, memory: &mut dyn GuestAccess) -> Exit;

    /// Where the guest will go on.
    fn rip(&mut self) -> Gva;

    /// The result of the hypercall that `run` last returned, for the guest's RAX.
    fn set_hypercall_result(&mut self, result: u64);
}
