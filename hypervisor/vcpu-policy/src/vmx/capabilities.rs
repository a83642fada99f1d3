//! What the CPU offers, by its capability MSRs (Intel SDM vol. 3D, appendix A), and what of it guests can't do without.

use super::control_registers::CR4_VMXE;
use super::controls::{Bits, ControlCapabilities, ControlError, Controls};
use core::fmt;
use x86::msr;

/// IA32_FEATURE_CONTROL: locked until the next reset (SDM vol. 3C, 24.7).
pub const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON outside SMX operation.
pub const FEATURE_CONTROL_VMX: u64 = 1 << 2;

/// IA32_VMX_BASIC (appendix A.1).
mod basic {
    /// The revision identifier of VMCS regions.
    pub const REVISION: u64 = 0x7fff_ffff;
    /// VMCS regions must lie below 4 GiB.
    pub const BELOW_4_GIB: u64 = 1 << 48;
    /// Bits 53 to 50: the memory type for VMCS regions, 6 for write-back.
    pub const MEMORY_TYPE: u64 = 0xf << 50;
    pub const WRITE_BACK: u64 = 6 << 50;
    /// There are TRUE control capabilities.
    pub const TRUE_CONTROLS: u64 = 1 << 55;
}

/// IA32_VMX_EPT_VPID_CAP (appendix A.10).
mod ept_vpid {
    pub const FOUR_LEVELS: u64 = 1 << 6;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const LARGE_2M: u64 = 1 << 16;
    pub const LARGE_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// Bits 4 to 0 of IA32_VMX_MISC: the preemption timer counts when this bit of the TSC changes (appendix A.6).
const TIMER_RATE: u64 = 0x1f;
/// In the high half of IA32_VMX_PROCBASED_CTLS: there are secondary controls.
const HAS_SECONDARY: u64 = 1 << 63;
/// In the high half of IA32_VMX_PROCBASED_CTLS2: there is EPT or VPID, and IA32_VMX_EPT_VPID_CAP.
const HAS_EPT_OR_VPID: u64 = (1 << 1 | 1 << 5) << 32;

/// The capability MSRs and IA32_FEATURE_CONTROL, as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapabilityMsrs {
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// Of the control fields.
    pub controls: ControlCapabilities,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP; 0 where there is none.
    pub ept_vpid: u64,
    /// IA32_VMX_CR0_FIXED0: bits that must be 1.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: bits that may be 1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0: bits that must be 1.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1: bits that may be 1.
    pub cr4_fixed1: u64,
}

impl CapabilityMsrs {
    /// Reads them by `read`, each only where an earlier one says that it exists. CPUID must show VMX.
    pub fn read(mut read: impl FnMut(u32) -> u64) -> Self {
        let basic = read(msr::IA32_VMX_BASIC);
        let is_true = basic & basic::TRUE_CONTROLS != 0;
        let mut control = |plain, exact| read(if is_true { exact } else { plain });
        let pin = control(msr::IA32_VMX_PINBASED_CTLS, msr::IA32_VMX_TRUE_PINBASED_CTLS);
        let primary = control(msr::IA32_VMX_PROCBASED_CTLS, msr::IA32_VMX_TRUE_PROCBASED_CTLS);
        let exit = control(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS);
        let entry = control(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS);
        let mut read_if = |exists: bool, number| if exists { read(number) } else { 0 };
        let secondary = read_if(primary & HAS_SECONDARY != 0, msr::IA32_VMX_PROCBASED_CTLS2);
        let ept_vpid = read_if(secondary & HAS_EPT_OR_VPID != 0, msr::IA32_VMX_EPT_VPID_CAP);
        Self {
            feature_control: read(msr::IA32_FEATURE_CONTROL),
            basic,
            controls: ControlCapabilities {
                pin,
                primary,
                secondary,
                exit,
                entry,
            },
            misc: read(msr::IA32_VMX_MISC),
            ept_vpid,
            cr0_fixed0: read(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: read(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: read(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: read(msr::IA32_VMX_CR4_FIXED1),
        }
    }
}

/// What guests can't do without and this CPU lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// The firmware has switched VMX off and locked that.
    DisabledByFirmware,
    /// A control field can't be as needed.
    Control(ControlError),
    /// A part of EPT.
    Ept(&'static str),
    /// VMCS regions would have to be uncached or below 4 GiB.
    VmcsRegions,
    /// The host runs with bits of CR0 or CR4 that VMX does not permit; the register's name and the bits.
    HostRegister(&'static str, u64),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What stands below under KVM offers all of this on every CPU that has it.
        const CHANGE: &str = "use an Intel CPU since Westmere (2010); under KVM, load kvm_intel with ept=1 \
                              unrestricted_guest=1 nested=1 and use `-cpu host`; in Bochs, use model=corei7_skylake_x";
        match self {
            Self::DisabledByFirmware => f.write_str(
                "the firmware has disabled VMX and locked that (IA32_FEATURE_CONTROL): enable VT-x in its setup",
            ),
            Self::Control(ControlError::Missing(field, bits)) => {
                write!(
                    f,
                    "VMX lacks the {field} controls {}: {CHANGE}",
                    Bits(*field, *bits)
                )
            }
            Self::Control(ControlError::Forced(field, bits)) => {
                write!(
                    f,
                    "VMX can't switch the {field} controls {} off: {CHANGE}",
                    Bits(*field, *bits)
                )
            }
            Self::Ept(what) => write!(f, "EPT lacks {what}: {CHANGE}"),
            Self::VmcsRegions => {
                write!(f, "VMX wants control structures below 4 GiB or uncached: {CHANGE}")
            }
            Self::HostRegister(register, bits) => write!(
                f,
                "VMX does not permit bits {bits:#x} of {register}, which are set: {CHANGE}"
            ),
        }
    }
}

/// How translations are tagged and flushed by tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vpid {
    /// INVVPID can flush one tag; else it flushes all.
    pub single: bool,
}

/// VMX as guests need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// What VMCS regions start with.
    pub revision: u32,
    /// The values of the control fields.
    pub controls: Controls,
    /// Tagged translations, where there are any.
    pub vpid: Option<Vpid>,
    /// INVEPT can flush one guest's translations; else it flushes all.
    pub invept_single: bool,
    /// EPT may have 1G leaves.
    pub ept_1g: bool,
    /// log2 of the TSC ticks for one count of the preemption timer, where there is one.
    pub timer_shift: Option<u8>,
    /// Bits of CR0 that must be 1.
    pub cr0_fixed0: u64,
    /// Bits of CR4 that must be 1.
    pub cr4_fixed0: u64,
}

impl Capabilities {
    /// Checks what was read, on a CPU with these values of CR0 and CR4.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub const fn check(msrs: &CapabilityMsrs, cr0: u64, cr4: u64) -> Result<Self, Lack> {
        let locked = msrs.feature_control & FEATURE_CONTROL_LOCK != 0;
        if locked && msrs.feature_control & FEATURE_CONTROL_VMX == 0 {
            return Err(Lack::DisabledByFirmware);
        }
        if msrs.basic & basic::BELOW_4_GIB != 0 || msrs.basic & basic::MEMORY_TYPE != basic::WRITE_BACK {
            return Err(Lack::VmcsRegions);
        }
        let mut controls = match Controls::choose(&msrs.controls) {
            Ok(controls) => controls,
            Err(error) => return Err(Lack::Control(error)),
        };
        if let Some(what) = missing_of_ept(msrs.ept_vpid) {
            return Err(Lack::Ept(what));
        }
        let wrong = cr0 & !msrs.cr0_fixed1;
        if wrong != 0 {
            return Err(Lack::HostRegister("CR0", wrong));
        }
        let wrong = (cr4 | CR4_VMXE) & !msrs.cr4_fixed1;
        if wrong != 0 {
            return Err(Lack::HostRegister("CR4", wrong));
        }
        let vpid = if controls.has_vpid() {
            vpid(msrs.ept_vpid)
        } else {
            None
        };
        if vpid.is_none() {
            controls = controls.without_vpid();
        }
        Ok(Self {
            revision: (msrs.basic & basic::REVISION) as u32,
            controls,
            vpid,
            ept_1g: msrs.ept_vpid & ept_vpid::LARGE_1G != 0,
            invept_single: msrs.ept_vpid & ept_vpid::INVEPT_SINGLE != 0,
            timer_shift: if controls.has_preemption_timer() {
                Some((msrs.misc & TIMER_RATE) as u8)
            } else {
                None
            },
            cr0_fixed0: msrs.cr0_fixed0,
            cr4_fixed0: msrs.cr4_fixed0,
        })
    }
}

const fn missing_of_ept(capability: u64) -> Option<&'static str> {
    use ept_vpid::{FOUR_LEVELS, INVEPT, INVEPT_ALL, INVEPT_SINGLE, LARGE_2M, WRITE_BACK};
    if capability & FOUR_LEVELS == 0 {
        Some("tables of four levels")
    } else if capability & WRITE_BACK == 0 {
        Some("write-back tables")
    } else if capability & LARGE_2M == 0 {
        Some("2M leaves")
    } else if capability & INVEPT == 0 || capability & (INVEPT_SINGLE | INVEPT_ALL) == 0 {
        Some("INVEPT")
    } else {
        None
    }
}

const fn vpid(capability: u64) -> Option<Vpid> {
    use ept_vpid::{INVVPID, INVVPID_ALL, INVVPID_SINGLE};
    let single = capability & INVVPID_SINGLE != 0;
    if capability & INVVPID != 0 && (single || capability & INVVPID_ALL != 0) {
        Some(Vpid { single })
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
