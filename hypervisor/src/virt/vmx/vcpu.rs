//! A guest's CPU: its control structure, what that does not hold, and the loop around the world switch.

use super::exit_reason::{EventInfo, ExitReason, MACHINE_CHECK_DURING_ENTRY};
use super::instructions::{Switched, invvpid, run_guest};
use super::swapped::Swapped;
use super::vmcs::{Current, Region};
use super::{Vmx, VmxCpu, exits, setup};
use crate::cpu::descriptor::CpuTables;
use crate::virt::debug_registers::DebugRegisters;
use crate::virt::guest_registers::{GuestRegisters, RAX, RDI, RSP};
use crate::virt::host_events::{deliver_machine_check, deliver_nmi, handle_pending_interrupt};
use crate::virt::vector_state::VectorState;
use crate::virt::{
    Cause, Ending, EntryHooks, Exit, GuestAccess, GuestModeHooks, Loaded, Measurement, OutOfFrames,
    StartState, Unexpected, Vcpu, VcpuFlushed, VcpuPass,
};
use memory::address::{Gva, Hpa};
use raw_cpuid::CpuIdReaderNative;
use vcpu_policy::asid::{Assignment, Flush, Lease};
use vcpu_policy::instruction::Register;
use vcpu_policy::msr::VirtualMsrs;
use vcpu_policy::vmx::capabilities::Capabilities;
use x86::irq::MACHINE_CHECK_VECTOR;
use x86::vmx::vmcs::{control, guest, ro};

/// A guest's CPU.
pub struct VmxVcpu {
    region: Region,
    /// Written into the VMCS by the first turn.
    start: Option<StartState>,
    msr_bitmap: Hpa,
    ept_pointer: u64,
    pub(super) capabilities: Capabilities,
    /// The registers that are not in the VMCS; RSP is.
    pub(super) registers: GuestRegisters,
    pub(super) vectors: VectorState,
    debug: DebugRegisters,
    swapped: Swapped,
    pub(super) msrs: VirtualMsrs,
    pub(super) measurement: Measurement,
    /// CR8, which the guest has no use for: no interrupt is ever given to it.
    pub(super) cr8: u64,
    lease: Option<Lease>,
    /// The CPU that this EPT pointer came into use on last, after a flush there.
    flushed_on: Option<u32>,
    exits: u64,
}

/// A guest's CPU whose registers are on the CPU that this runs on.
pub struct LoadedVmx<'a> {
    pub(super) vcpu: &'a mut VmxVcpu,
    cpu: &'a mut VmxCpu,
    pub(super) vmcs: Current,
    /// It was entered in this turn.
    launched: bool,
}

impl VmxVcpu {
    pub(super) fn new(
        vmx: &Vmx,
        start: &StartState,
        measurement: &Measurement,
        second_stage: Hpa,
    ) -> Result<Self, OutOfFrames> {
        let capabilities = *vmx.found.capabilities();
        let mut registers = GuestRegisters::default();
        registers.set(RDI, start.rdi);
        Ok(Self {
            region: Region::new(capabilities.revision)?,
            start: Some(*start),
            msr_bitmap: vmx.msrs.hpa(),
            ept_pointer: setup::ept_pointer(second_stage),
            capabilities,
            registers,
            vectors: VectorState::new(vmx.vectors)?,
            debug: DebugRegisters::default(),
            swapped: Swapped::INITIAL,
            msrs: VirtualMsrs::long_mode(CpuIdReaderNative),
            measurement: *measurement,
            cr8: 0,
            lease: None,
            flushed_on: None,
            exits: 0,
        })
    }

    /// What INVEPT must be told to drop this guest's translations.
    fn flush_argument(&self) -> Option<u64> {
        self.capabilities.invept_single.then_some(self.ept_pointer)
    }
}

impl LoadedVmx<'_> {
    /// Demands a flush of the guest's translations on its next entry. Without tags each entry flushes anyway.
    pub(super) fn make_stale(&mut self) {
        if let Some(lease) = &mut self.vcpu.lease {
            lease.make_stale();
        }
    }

    /// Sees to it that no translation of another guest's, or of an older second stage at the same place, is used.
    fn flush_before_entry(&mut self) -> Option<Assignment> {
        if self.vcpu.flushed_on != Some(self.cpu.index) {
            self.cpu.flush_second_stage(self.vcpu.flush_argument());
            self.vcpu.flushed_on = Some(self.cpu.index);
        }
        let assignment = self.cpu.tags.as_mut()?.prepare(&mut self.vcpu.lease);
        let tag = assignment.asid as u16;
        // SAFETY: the tag is this vCPU's alone on this CPU, and never 0.
        unsafe { self.vmcs.write(control::VPID, tag.into()) };
        // SAFETY: a `VmxCpu` exists only in VMX operation; tags exist only where INVVPID does, and the lease asks for one tag only where
        // it can do that.
        unsafe {
            match assignment.flush {
                Flush::Nothing => (),
                Flush::All => invvpid(None),
                Flush::ThisAsid => invvpid(Some(tag)),
            }
        }
        Some(assignment)
    }

    /// One turn in guest mode. `None`: it was not entered, and is to be entered later. An error: it can't be entered.
    fn enter(&mut self, hooks: &dyn GuestModeHooks) -> Result<Option<ExitReason>, Cause> {
        let assignment = self.flush_before_entry();
        // SAFETY: `load` wrote this CPU's host state, and the controls and guest state are as `setup` and `exits` keep them.
        let (registers, switched) = unsafe { run_guest(self.vcpu.registers, self.launched, hooks) };
        self.vcpu.registers = registers;
        if let (Some(tags), Some(lease), Some(assignment)) =
            (&mut self.cpu.tags, &mut self.vcpu.lease, assignment)
        {
            // INVVPID has run, whatever became of the entry.
            tags.entered(lease, assignment);
        }
        if switched == Switched::Abandoned {
            return Ok(None);
        }
        self.vcpu.exits += 1;
        if switched == Switched::Refused {
            let error = self.vmcs.read_32(ro::VM_INSTRUCTION_ERROR);
            return Err(Unexpected::EntryRefused(error).into());
        }
        let reason = ExitReason::new(self.vmcs.read_32(ro::EXIT_REASON));
        if let ExitReason::EntryFailed(reason) = reason {
            if reason == MACHINE_CHECK_DURING_ENTRY {
                // SAFETY: guests run only after the descriptor tables are loaded.
                unsafe { deliver_machine_check() };
            }
            let qualification = self.vmcs.read(ro::EXIT_QUALIFICATION);
            return Err(Unexpected::EntryFailed {
                reason,
                qualification,
            }
            .into());
        }
        self.launched = true;
        Ok(Some(reason))
    }

    /// Gives the host what ended guest mode and is the host's. True when that was all.
    fn host_event(&mut self, reason: ExitReason, hooks: &dyn EntryHooks) -> bool {
        match reason {
            ExitReason::Interrupt => {
                hooks.let_interrupt_in();
                true
            }
            ExitReason::PreemptionTimer => {
                // SAFETY: guests run only after the descriptor tables are loaded; nothing is locked here.
                unsafe { handle_pending_interrupt() };
                true
            }
            ExitReason::Init => true,
            ExitReason::ExceptionOrNmi => {
                let event = self.event(ro::VMEXIT_INTERRUPTION_INFO);
                if event.is_nmi() {
                    // SAFETY: as above.
                    unsafe { deliver_nmi() };
                } else if event.vector() == MACHINE_CHECK_VECTOR {
                    // SAFETY: as above.
                    unsafe { deliver_machine_check() };
                }
                event.is_nmi()
            }
            _ => false,
        }
    }

    /// An event field of the last exit.
    pub(super) fn event(&self, field: u32) -> EventInfo {
        EventInfo::new(self.vmcs.read_32(field))
    }

    /// A general register; RSP is in the VMCS.
    pub(super) fn operand_64(&self, register: Register) -> u64 {
        if register == RSP {
            self.vmcs.read(guest::RSP)
        } else {
            self.vcpu.registers.get(register)
        }
    }

    /// Writes a general register.
    pub(super) fn set_operand_64(&mut self, register: Register, value: u64) {
        if register == RSP {
            self.vmcs.set_guest(guest::RSP, value);
        } else {
            self.vcpu.registers.set(register, value);
        }
    }

    fn ended(&self, cause: Cause) -> Exit {
        Exit::Ended(Ending {
            cause,
            rip: Gva::new(self.vmcs.read(guest::RIP)),
        })
    }
}

impl Vcpu for VmxVcpu {
    type Cpu = VmxCpu;
    type Loaded<'a> = LoadedVmx<'a>;

    fn load<'a>(&'a mut self, cpu: &'a mut VmxCpu, slice_ticks: u64) -> LoadedVmx<'a> {
        // SAFETY: a `VmxCpu` exists only in VMX operation, and is borrowed by the result: no other VMCS is current on it. The region is
        // borrowed as well.
        let mut vmcs = unsafe { Current::load(&self.region) };
        if let Some(start) = self.start.take() {
            // SAFETY: the pointer is this guest's; the bitmap belongs to the `Vmx` that every vCPU is made from, kept for good.
            unsafe { setup::controls(&mut vmcs, &self.capabilities, self.ept_pointer, self.msr_bitmap) };
            setup::guest(&mut vmcs, &self.capabilities, &start, self.msrs.efer());
        }
        let Some(tables) = CpuTables::current() else {
            panic!("broken invariant: a guest runs before the descriptor tables are loaded")
        };
        setup::host(&mut vmcs, tables);
        if let Some(shift) = self.capabilities.timer_shift {
            let counts = (slice_ticks >> shift).clamp(1, u32::MAX.into());
            vmcs.set_guest(guest::VMX_PREEMPTION_TIMER_VALUE, counts);
        }
        self.debug.load();
        self.swapped.load();
        self.vectors.load();
        LoadedVmx {
            vcpu: self,
            cpu,
            vmcs,
            launched: false,
        }
    }

    fn exits(&self) -> u64 {
        self.exits
    }

    fn retire(mut self, cpu: &mut VmxCpu, pass: VcpuPass) -> VcpuFlushed {
        if let (Some(lease), Some(tags)) = (self.lease.take(), &mut cpu.tags) {
            tags.retire(lease);
        }
        // Other CPUs that it ran on flush before this pointer comes into use there again.
        cpu.flush_second_stage(self.flush_argument());
        pass.retire()
    }
}

impl Loaded for LoadedVmx<'_> {
    fn run(&mut self, hooks: &dyn EntryHooks, memory: &mut dyn GuestAccess) -> Exit {
        loop {
            if hooks.before_entry() {
                // INVEPT drops what was cached under this EPT pointer, whatever the VPID (Intel SDM vol. 3C, 29.4.3.1).
                self.vcpu.flushed_on = None;
            }
            let entered = self.enter(hooks);
            hooks.after_entry(matches!(entered, Ok(Some(_))));
            let reason = match entered {
                Ok(Some(reason)) => reason,
                Ok(None) => return Exit::Kicked { in_guest: false },
                Err(cause) => return self.ended(cause),
            };
            let host_event = self.host_event(reason, hooks);
            exits::deliver_again(self);
            if reason == ExitReason::PreemptionTimer {
                return Exit::SliceOver;
            }
            if host_event && reason == ExitReason::ExceptionOrNmi {
                return Exit::Kicked { in_guest: true };
            }
            if host_event {
                return Exit::Interrupted;
            }
            match exits::handle(self, reason, memory) {
                // #DB or #AC, which a guest can make come again in its own delivery, on each entry, before any interrupt, NMI or preemption
                // timer (SDM vol. 3A, 6.9; vol. 3C, 26.2): here is where they get in, or nothing would end the guest.
                Ok(None) if reason == ExitReason::ExceptionOrNmi => {
                    // SAFETY: as in `host_event`.
                    unsafe { handle_pending_interrupt() };
                    return Exit::Interrupted;
                }
                Ok(None) => (),
                Ok(Some(exit)) => return exit,
                Err(cause) => return self.ended(cause),
            }
        }
    }

    fn rip(&mut self) -> Gva {
        Gva::new(self.vmcs.read(guest::RIP))
    }

    fn set_hypercall_result(&mut self, result: u64) {
        self.vcpu.registers.set(RAX, result);
    }
}

impl Drop for LoadedVmx<'_> {
    fn drop(&mut self) {
        self.vcpu.vectors.save_and_clear();
        self.vcpu.swapped.save_and_clear();
        self.vcpu.debug.save();
        self.vcpu.debug.clear();
    }
}
