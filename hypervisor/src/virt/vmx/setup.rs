//! What a VMCS says before its guest's first entry, and what it says of the host (Intel SDM vol. 3C, 25.4 to 25.8; checked by the CPU as in
//! 27.2 and 27.3).

use super::vmcs::Current;
use crate::cpu::descriptor::{CODE_SELECTOR, CpuTables, DATA_SELECTOR, TASK_SELECTOR};
use crate::cpu::registers::{rdmsr, read_cr0, read_cr3, read_cr4, read_efer};
use crate::virt::StartState;
use memory::address::Hpa;
use vcpu_policy::cr0;
use vcpu_policy::debug_registers::DR7_INIT;
use vcpu_policy::vmx::capabilities::Capabilities;
use vcpu_policy::vmx::control_registers::{HOST_CR4, host_cr0, real_cr0, real_cr4};
use x86::controlregs::Cr4;
use x86::irq::{ALIGNMENT_CHECK_VECTOR, DEBUG_VECTOR, MACHINE_CHECK_VECTOR};
use x86::msr::{IA32_FS_BASE, IA32_GS_BASE};
use x86::vmx::vmcs::{control, guest, host};

/// #DB and #AC: a guest can make each raise itself again in its own delivery, and the CPU would never leave that loop
/// (CVE-2015-8104, CVE-2015-5307). #MC: the host must see it. One bit a vector.
const EXCEPTIONS: u32 = 1 << DEBUG_VECTOR | 1 << ALIGNMENT_CHECK_VECTOR | 1 << MACHINE_CHECK_VECTOR;
/// The EPT pointer's memory type, write-back, and its walk length of four less one (25.6.11). Bit 6 stays clear: nobody reads accessed and
/// dirty bits, and without them the CPU does not write the tables.
const EPT_POINTER: u64 = 6 | 3 << 3;
/// Every leaf of ENCLS and ENCLV exits.
const EVERY_LEAF: u64 = u64::MAX;
/// The ENCLV-exiting bitmap (appendix B.2.1; the crate `x86` does not have it).
const ENCLV_EXITING_BITMAP: u32 = 0x2036;
/// The VMCS link pointer without a shadow VMCS (25.4.2).
const NO_LINK: u64 = u64::MAX;
/// RFLAGS with nothing set but the bit that is always one.
const RFLAGS_INIT: u64 = 1 << 1;
/// Selector of the 64-bit code segment in the guest's descriptor table.
const GUEST_CODE: u64 = 0x08;
/// Selector of the data segment.
const GUEST_DATA: u64 = 0x10;
/// Last byte of a 64-bit task-state segment without a port map.
const TASK_LIMIT: u64 = 0x67;

/// Access rights of segments (table 25-2).
mod rights {
    /// Type execute, read, accessed; code or data; present; 64-bit; limit in pages.
    pub const CODE_64: u64 = 0xa09b;
    /// Type read, write, accessed; code or data; present; 32-bit; limit in pages.
    pub const DATA: u64 = 0xc093;
    /// A busy 64-bit task-state segment, present.
    pub const BUSY_TASK: u64 = 0x8b;
    /// The register holds no segment.
    pub const UNUSABLE: u64 = 1 << 16;
}

/// The EPT pointer for these tables.
pub const fn ept_pointer(second_stage: Hpa) -> u64 {
    second_stage.get() | EPT_POINTER
}

/// Writes the controls.
///
/// # Safety
/// The VMCS must be the guest's whose second stage `ept_pointer` names; the bitmap must be sound and outlive the guest.
pub unsafe fn controls(vmcs: &mut Current, capabilities: &Capabilities, ept_pointer: u64, msr_bitmap: Hpa) {
    let values = &capabilities.controls;
    let fields = [
        (control::PINBASED_EXEC_CONTROLS, values.pin.into()),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, values.primary.into()),
        (
            control::SECONDARY_PROCBASED_EXEC_CONTROLS,
            values.secondary.into(),
        ),
        (control::VMEXIT_CONTROLS, values.exit.into()),
        (control::VMENTRY_CONTROLS, values.entry.into()),
        (control::EXCEPTION_BITMAP, EXCEPTIONS.into()),
        (control::PAGE_FAULT_ERR_CODE_MASK, 0),
        (control::PAGE_FAULT_ERR_CODE_MATCH, 0),
        (control::CR3_TARGET_COUNT, 0),
        (control::VMEXIT_MSR_STORE_COUNT, 0),
        (control::VMEXIT_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
        (control::CR0_GUEST_HOST_MASK, host_cr0(capabilities.cr0_fixed0)),
        (control::CR4_GUEST_HOST_MASK, HOST_CR4),
        (control::EPTP_FULL, ept_pointer),
        (control::MSR_BITMAPS_ADDR_FULL, msr_bitmap.get()),
    ];
    let bitmaps = [
        (values.intercepts_encls(), control::ENCLS_EXITING_BITMAP_FULL),
        (values.intercepts_enclv(), ENCLV_EXITING_BITMAP),
    ];
    let bitmaps = bitmaps
        .into_iter()
        .filter_map(|(exists, field)| exists.then_some((field, EVERY_LEAF)));
    for (field, value) in fields.into_iter().chain(bitmaps) {
        // SAFETY: these controls let a guest reach its second stage and the registers that are swapped with it, nothing else; the caller
        // vouches for the two addresses.
        unsafe { vmcs.write(field, value) };
    }
}

/// Writes what an exit loads for the host, as it is on this CPU now. RSP and RIP are written with each entry.
///
/// FS and GS hold nothing: the hypervisor does not use them. An exit sets the limits of GDT and IDT to 64 KiB (28.5.2); nothing in them is
/// reached by a selector or vector of a guest's.
pub fn host(vmcs: &mut Current, tables: &CpuTables) {
    // SAFETY: every CPU in 64-bit mode has these registers.
    let (fs, gs) = unsafe { (rdmsr(IA32_FS_BASE), rdmsr(IA32_GS_BASE)) };
    let bases = tables.bases();
    let fields = [
        (host::CR0, read_cr0()),
        (host::CR3, read_cr3()),
        (host::CR4, read_cr4()),
        (host::IA32_EFER_FULL, read_efer()),
        (host::CS_SELECTOR, CODE_SELECTOR.into()),
        (host::SS_SELECTOR, DATA_SELECTOR.into()),
        (host::DS_SELECTOR, DATA_SELECTOR.into()),
        (host::ES_SELECTOR, DATA_SELECTOR.into()),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, TASK_SELECTOR.into()),
        (host::FS_BASE, fs),
        (host::GS_BASE, gs),
        (host::TR_BASE, bases.task.get()),
        (host::GDTR_BASE, bases.gdt.get()),
        (host::IDTR_BASE, bases.idt.get()),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
    ];
    for (field, value) in fields {
        // SAFETY: these are the values that the host runs with.
        unsafe { vmcs.write(field, value) };
    }
}

/// Writes a guest in 64-bit code, as [`StartState`] promises. A new VMCS holds anything: all fields are written.
pub fn guest(vmcs: &mut Current, capabilities: &Capabilities, start: &StartState, efer: u64) {
    let cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    let cr4 = Cr4::CR4_ENABLE_PAE | Cr4::CR4_ENABLE_SSE | Cr4::CR4_UNMASKED_SSE;
    let cr4 = cr4.bits() as u64;
    let fields = [
        (guest::CR0, real_cr0(cr0, capabilities.cr0_fixed0)),
        (control::CR0_READ_SHADOW, cr0),
        (guest::CR3, start.cr3.get()),
        (guest::CR4, real_cr4(cr4, capabilities.cr4_fixed0, read_cr4())),
        (control::CR4_READ_SHADOW, 0),
        (guest::DR7, DR7_INIT),
        (guest::RSP, start.rsp.get()),
        (guest::RIP, start.rip.get()),
        (guest::RFLAGS, RFLAGS_INIT),
        (guest::IA32_EFER_FULL, efer),
        (guest::IA32_DEBUGCTL_FULL, 0),
        (guest::IA32_SYSENTER_CS, 0),
        (guest::IA32_SYSENTER_ESP, 0),
        (guest::IA32_SYSENTER_EIP, 0),
        (guest::GDTR_BASE, start.gdt_base.get()),
        (guest::GDTR_LIMIT, start.gdt_limit.into()),
        (guest::IDTR_BASE, 0),
        (guest::IDTR_LIMIT, 0),
        (guest::LINK_PTR_FULL, NO_LINK),
        (guest::INTERRUPTIBILITY_STATE, 0),
        (guest::ACTIVITY_STATE, 0),
        (guest::PENDING_DBG_EXCEPTIONS, 0),
    ];
    for (field, value) in fields {
        vmcs.set_guest(field, value);
    }
    // Selector, base, limit and rights are each numbered in this order (appendix B).
    let segments = [
        (GUEST_DATA, u32::MAX.into(), rights::DATA),
        (GUEST_CODE, u32::MAX.into(), rights::CODE_64),
        (GUEST_DATA, u32::MAX.into(), rights::DATA),
        (GUEST_DATA, u32::MAX.into(), rights::DATA),
        (GUEST_DATA, u32::MAX.into(), rights::DATA),
        (GUEST_DATA, u32::MAX.into(), rights::DATA),
        (0, 0, rights::UNUSABLE),
        // Long mode wants a task register; nothing uses it while there are no interrupts.
        (0, TASK_LIMIT, rights::BUSY_TASK),
    ];
    for (index, (selector, limit, rights)) in (0..).zip(segments) {
        vmcs.set_guest(guest::ES_SELECTOR + 2 * index, selector);
        vmcs.set_guest(guest::ES_BASE + 2 * index, 0);
        vmcs.set_guest(guest::ES_LIMIT + 2 * index, limit);
        vmcs.set_guest(guest::ES_ACCESS_RIGHTS + 2 * index, rights);
    }
}

const _: () = {
    assert!(guest::CS_SELECTOR == guest::ES_SELECTOR + 2 && guest::TR_SELECTOR == guest::ES_SELECTOR + 14);
    assert!(guest::CS_BASE == guest::ES_BASE + 2 && guest::TR_BASE == guest::ES_BASE + 14);
    assert!(guest::CS_LIMIT == guest::ES_LIMIT + 2 && guest::TR_LIMIT == guest::ES_LIMIT + 14);
    assert!(guest::LDTR_ACCESS_RIGHTS == guest::ES_ACCESS_RIGHTS + 12);
};
