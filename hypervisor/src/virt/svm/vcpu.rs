//! A guest's CPU: its control block, what the control block does not hold, and the loop around the world switch.

use super::exit_code::ExitCode;
use super::instructions::run_guest;
use super::vmcb::Vmcb;
use super::vmcb::bits::{Event, SegmentAttributes, VirtualInterruptControl};
use super::vmcb::{SaveArea, Segment};
use super::{Svm, SvmCpu, SvmFound, exits, frame, intercepts};
use crate::frames::Frames;
use crate::virt::debug_registers::DebugRegisters;
use crate::virt::guest_registers::{GuestRegisters, RAX, RDI, RSP};
use crate::virt::host_events::{deliver_machine_check, handle_pending_interrupt};
use crate::virt::vector_state::VectorState;
use crate::virt::{
    EntryHooks, Exit, GuestAccess, GuestModeHooks, Loaded, Measurement, OutOfFrames, StartState, Vcpu,
    VcpuFlushed, VcpuPass,
};
use memory::address::{Gva, Hpa};
use raw_cpuid::CpuIdReaderNative;
use vcpu_policy::asid::{Flush, Lease};
use vcpu_policy::debug_registers::{DR6_INIT, DR7_INIT};
use vcpu_policy::msr::VirtualMsrs;
use vcpu_policy::{cr0, cr4};
use x86::controlregs::Cr4;

/// The memory type write-back (6) in all eight entries of PAT (AMD APM vol. 2, 7.8.1 and 15.25.8): whatever a guest's tables select,
/// its RAM is write-back.
const PAT_WRITE_BACK: u64 = 0x0606_0606_0606_0606;
/// RFLAGS with nothing set but the bit that is always one (AMD APM vol. 2, 3.1.6).
const RFLAGS_INIT: u64 = 1 << 1;
/// Selector of the 64-bit code segment in the guest's descriptor table.
const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
const DATA_SELECTOR: u16 = 0x10;
/// Last byte of a 64-bit task-state segment without a port map (AMD APM vol. 2, 12.2.5).
const TASK_LIMIT: u32 = 0x67;

/// A guest's CPU.
pub struct SvmVcpu {
    block: Frames,
    pub(super) found: SvmFound,
    /// The registers that are not in the control block; RAX and RSP follow it after each exit.
    pub(super) registers: GuestRegisters,
    pub(super) vectors: VectorState,
    pub(super) debug: DebugRegisters,
    pub(super) msrs: VirtualMsrs,
    /// The bits of CR4 that the guest has.
    pub(super) cr4_offered: u64,
    pub(super) measurement: Measurement,
    lease: Option<Lease>,
    exits: u64,
}

/// A guest's CPU whose registers are on the CPU that this runs on.
pub struct LoadedSvm<'a> {
    vcpu: &'a mut SvmVcpu,
    cpu: &'a mut SvmCpu,
}

impl SvmVcpu {
    pub(super) fn new(
        svm: &Svm,
        start: &StartState,
        measurement: &Measurement,
        second_stage: Hpa,
    ) -> Result<Self, OutOfFrames> {
        let mut registers = GuestRegisters::default();
        registers.set(RDI, start.rdi);
        let vectors = VectorState::new(svm.vectors)?;
        let mut vcpu = Self {
            block: frame()?,
            found: svm.found,
            registers,
            cr4_offered: cr4::offered(&CpuIdReaderNative, vectors.xcr0_allowed()),
            vectors,
            debug: DebugRegisters::default(),
            msrs: VirtualMsrs::long_mode(CpuIdReaderNative),
            measurement: *measurement,
            lease: None,
            exits: 0,
        };
        let efer = vcpu.msrs.efer();
        #[cfg(feature = "test-hooks")]
        let efer = crate::hooks::control_block::guest_efer(efer);
        let block = vcpu.vmcb();
        let control = &mut block.control;
        control.intercept_cr = intercepts::CONTROL_REGISTERS;
        control.intercept_dr = intercepts::DEBUG_REGISTERS;
        control.intercept_exceptions = intercepts::EXCEPTIONS;
        control.intercept_first = intercepts::FIRST;
        control.intercept_second = intercepts::second(svm.found.rdpru());
        control.port_map = svm.maps.ports().get();
        control.msr_map = svm.maps.msrs().get();
        control.virtual_interrupts = VirtualInterruptControl::physical_interrupts_are_the_hosts();
        control.nested_paging = 1;
        control.nested_cr3 = second_stage.get();
        start_registers(&mut block.save, start);
        vcpu.set_efer(efer);
        Ok(vcpu)
    }

    /// The control block. Not to be held across a run.
    pub(super) fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: the frame is ours alone, page-aligned and 4 KiB; every bit pattern is a valid `Vmcb`; the borrow of `self` ends before
        // the next VMRUN, which is the only other writer.
        unsafe { &mut *self.block.as_ptr().cast::<Vmcb>() }
    }

    /// Gives the CPU the EFER that the guest sees, with the bit that VMRUN wants.
    pub(super) fn set_efer(&mut self, efer: u64) {
        self.vmcb().save.efer = efer | super::instructions::EFER_SVME;
    }

    /// Demands a flush of the guest's translations on its next entry.
    pub(super) fn make_stale(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.make_stale();
        }
    }

    /// One turn in guest mode. `None`: it was not entered, and is to be entered later.
    fn enter(&mut self, cpu: &mut SvmCpu, hooks: &dyn GuestModeHooks) -> Option<ExitCode> {
        let assignment = cpu.asids.prepare(&mut self.lease);
        let block = self.vmcb();
        block.control.asid = assignment.asid;
        block.control.tlb_control = assignment.flush as u8;
        let guest = self.block.hpa();
        // SAFETY: the block was made by `new` with sound maps and its own second stage, and `&mut self` is the only way to it. A
        // `SvmCpu` exists only where SVM is enabled.
        let (registers, entered) = unsafe { run_guest(guest, cpu.host_state.hpa(), self.registers, hooks) };
        if !entered {
            return None;
        }
        self.registers = registers;
        self.exits += 1;
        let block = self.vmcb();
        let exit = ExitCode::new(block.control.exit_code);
        // The event was delivered, or is reported again as interrupted.
        block.control.inject = Event::NONE;
        block.control.tlb_control = Flush::Nothing as u8;
        let (rax, rsp) = (block.save.rax, block.save.rsp);
        self.registers.set(RAX, rax);
        self.registers.set(RSP, rsp);
        #[cfg(feature = "test-hooks")]
        if exit == ExitCode::Invalid {
            crate::hooks::control_block::entry_refused();
        }
        if exit != ExitCode::Invalid
            && let Some(lease) = &mut self.lease
        {
            cpu.asids.entered(lease, assignment);
        }
        Some(exit)
    }
}

impl Vcpu for SvmVcpu {
    type Cpu = SvmCpu;
    type Loaded<'a> = LoadedSvm<'a>;

    fn load<'a>(&'a mut self, cpu: &'a mut SvmCpu, _slice_ticks: u64) -> LoadedSvm<'a> {
        self.debug.load();
        self.vectors.load();
        LoadedSvm { vcpu: self, cpu }
    }

    fn exits(&self) -> u64 {
        self.exits
    }

    fn retire(mut self, cpu: &mut SvmCpu, pass: VcpuPass) -> VcpuFlushed {
        if let Some(lease) = self.lease.take() {
            cpu.asids.retire(lease);
        }
        pass.retire()
    }
}

impl Loaded for LoadedSvm<'_> {
    fn run(&mut self, hooks: &dyn EntryHooks, memory: &mut dyn GuestAccess) -> Exit {
        loop {
            if hooks.before_entry() {
                // The tag's translations are those of both stages together (AMD APM vol. 2, 15.16.1). On another CPU it has another tag, which is
                // flushed when it is given out.
                self.vcpu.make_stale();
            }
            let exit = self.vcpu.enter(self.cpu, hooks);
            hooks.after_entry(exit.is_some_and(|exit| exit != ExitCode::Invalid));
            let Some(exit) = exit else {
                return Exit::Kicked { in_guest: false };
            };
            match exit {
                ExitCode::Interrupt => hooks.let_interrupt_in(),
                // A guest can make #DB or #AC come again in its own delivery, on each entry, before any interrupt (APM vol. 2, 8.5): here is
                // where they get in, or nothing would end the guest.
                ExitCode::Debug | ExitCode::AlignmentCheck => {
                    // SAFETY: guests run only after the descriptor tables are loaded; nothing is locked here.
                    unsafe { handle_pending_interrupt() };
                }
                ExitCode::MachineCheck => {
                    // SAFETY: as above.
                    unsafe { deliver_machine_check() };
                }
                _ => (),
            }
            if let Some(exit) = exits::handle(self.vcpu, exit, memory) {
                return exit;
            }
            if matches!(exit, ExitCode::Debug | ExitCode::AlignmentCheck) {
                return Exit::Interrupted;
            }
        }
    }

    fn rip(&mut self) -> Gva {
        Gva::new(self.vcpu.vmcb().save.rip)
    }

    fn set_hypercall_result(&mut self, result: u64) {
        self.vcpu.vmcb().save.rax = result;
    }
}

impl Drop for LoadedSvm<'_> {
    fn drop(&mut self) {
        self.vcpu.vectors.save_and_clear();
        self.vcpu.debug.clear();
    }
}

/// A guest in 64-bit code, as [`StartState`] promises. What is not set is zero.
fn start_registers(save: &mut SaveArea, start: &StartState) {
    let data = Segment {
        selector: DATA_SELECTOR,
        attributes: SegmentAttributes::data(),
        limit: u32::MAX,
        base: 0,
    };
    save.cs = Segment {
        selector: CODE_SELECTOR,
        attributes: SegmentAttributes::code_64(),
        ..data
    };
    save.ss = data;
    save.ds = data;
    save.es = data;
    save.fs = data;
    save.gs = data;
    save.gdtr = Segment {
        selector: 0,
        attributes: SegmentAttributes::NONE,
        limit: u32::from(start.gdt_limit),
        base: start.gdt_base.get(),
    };
    // Long mode wants a task register; nothing uses it while there are no interrupts.
    save.tr = Segment {
        selector: 0,
        attributes: SegmentAttributes::busy_task(),
        limit: TASK_LIMIT,
        base: 0,
    };
    save.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    let cr4 = Cr4::CR4_ENABLE_PAE | Cr4::CR4_ENABLE_SSE | Cr4::CR4_UNMASKED_SSE;
    save.cr4 = cr4.bits() as u64;
    save.cr3 = start.cr3.get();
    save.rflags = RFLAGS_INIT;
    save.rip = start.rip.get();
    save.rsp = start.rsp.get();
    save.dr6 = DR6_INIT;
    save.dr7 = DR7_INIT;
    save.pat = PAT_WRITE_BACK;
}
