//! CR0, CR4 and CR8: what the guest sees, and the accesses that exit (Intel SDM vol. 3C, 26.1.3).
//!
//! The guest writes most bits itself. An exit is left for a write to CR0 that changes caching or NE, for one to CR4 that wants what guests
//! do not have, and for CR8, since the CPU's own is the host's task priority.

use super::exits::{advance, is_64_bit_code, raise};
use super::qualification::{ControlMove, control_move};
use super::vcpu::LoadedVmx;
use crate::virt::{Cause, GuestAccess, Unexpected};
use memory::address::Gpa;
use vcpu_policy::instruction::Register;
use vcpu_policy::vmx::control_registers::{guest_cr0, guest_cr4, real_cr0};
use vcpu_policy::{Fault, cr0};
use x86::vmx::vmcs::control::EntryControls;
use x86::vmx::vmcs::{control, guest};

/// The largest value of CR8: a task-priority class.
const CR8_MAX: u64 = 0xf;
/// CR3 under 32-bit paging with PAE: where the four page-directory pointers are (SDM vol. 3A, 4.4.1).
const PAE_TABLE: u64 = 0xffff_ffe0;

/// Control registers as the guest sees them.
pub(super) struct GuestControl {
    pub(super) cr0: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
}

/// Reads them.
pub(super) fn guest_control(loaded: &LoadedVmx<'_>) -> GuestControl {
    let fixed0 = loaded.vcpu.capabilities.cr0_fixed0;
    let shadow = loaded.vmcs.read(control::CR0_READ_SHADOW);
    GuestControl {
        cr0: guest_cr0(loaded.vmcs.read(guest::CR0), shadow, fixed0),
        cr4: guest_cr4(loaded.vmcs.read(guest::CR4)),
        efer: loaded.vmcs.read(guest::IA32_EFER_FULL),
    }
}

/// Deals with an access that exited; the CPU has checked privilege.
pub(super) fn access(
    loaded: &mut LoadedVmx<'_>,
    qualification: u64,
    memory: &mut dyn GuestAccess,
) -> Result<(), Cause> {
    let before = guest_control(loaded);
    let cr0_before = cr0::Before {
        cr0: before.cr0,
        cr4: before.cr4,
        efer: before.efer,
        code_is_64_bit: is_64_bit_code(loaded),
    };
    let access = control_move(qualification);
    match access {
        ControlMove::To(0, source) => {
            let value = operand(loaded, source);
            write_cr0(loaded, cr0_before, cr0::write(cr0_before, value), memory)
        }
        ControlMove::LoadMachineStatus(value) => write_cr0(
            loaded,
            cr0_before,
            cr0::load_machine_status(cr0_before, value),
            memory,
        ),
        // It differs from the shadow in a bit that guests read as 0: it wants that set.
        ControlMove::To(4, _) => raise(loaded, Fault::GeneralProtection),
        ControlMove::To(8, source) => {
            let value = loaded.operand_64(source);
            if value > CR8_MAX {
                return raise(loaded, Fault::GeneralProtection);
            }
            loaded.vcpu.cr8 = value;
            advance(loaded);
            Ok(())
        }
        ControlMove::From(8, target) => {
            let value = loaded.vcpu.cr8;
            loaded.set_operand_64(target, value);
            advance(loaded);
            Ok(())
        }
        // Nothing else exits with the controls in use.
        ControlMove::To(..) | ControlMove::From(..) | ControlMove::ClearTaskSwitched => {
            Err(Unexpected::ExitCode(qualification).into())
        }
    }
}

fn write_cr0(
    loaded: &mut LoadedVmx<'_>,
    before: cr0::Before,
    result: Result<cr0::After, Fault>,
    memory: &mut dyn GuestAccess,
) -> Result<(), Cause> {
    let after = match result {
        Ok(after) => after,
        Err(fault) => return raise(loaded, fault),
    };
    let starts_paging = before.cr0 & cr0::PG == 0 && after.cr0 & cr0::PG != 0;
    if starts_paging && before.cr4 & cr0::CR4_PAE != 0 && after.efer & cr0::EFER_LMA == 0 {
        load_page_directory_pointers(loaded, memory)?;
    }
    let real = real_cr0(after.cr0, loaded.vcpu.capabilities.cr0_fixed0);
    loaded.vmcs.set_guest(guest::CR0, real);
    loaded.vmcs.set_guest(control::CR0_READ_SHADOW, after.cr0);
    loaded.vmcs.set_guest(guest::IA32_EFER_FULL, after.efer);
    let entry = u64::from(EntryControls::IA32E_MODE_GUEST.bits());
    let mut controls = loaded.vmcs.read(control::VMENTRY_CONTROLS) & !entry;
    if after.efer & cr0::EFER_LMA != 0 {
        controls |= entry;
    }
    // SAFETY: the bit says which mode the guest is in, and nothing about the host; the entry checks it against the guest's state.
    unsafe { loaded.vmcs.write(control::VMENTRY_CONTROLS, controls) };
    if after.flush {
        loaded.make_stale();
    }
    advance(loaded);
    Ok(())
}

/// What the CPU would do when PAE paging starts. It checks the pointers on entry.
fn load_page_directory_pointers(
    loaded: &mut LoadedVmx<'_>,
    memory: &mut dyn GuestAccess,
) -> Result<(), Cause> {
    let table = loaded.vmcs.read(guest::CR3) & PAE_TABLE;
    for index in 0..4 {
        let at = Gpa::new(table + 8 * u64::from(index));
        let pointer = memory.read_word(at).ok_or(Unexpected::InvalidState)?;
        loaded.vmcs.set_guest(guest::PDPTE0_FULL + 2 * index, pointer);
    }
    Ok(())
}

/// The source of a move to a control register: 64 bits wide in 64-bit code, else 32.
fn operand(loaded: &LoadedVmx<'_>, source: Register) -> u64 {
    let value = loaded.operand_64(source);
    if is_64_bit_code(loaded) {
        value
    } else {
        value & 0xffff_ffff
    }
}
