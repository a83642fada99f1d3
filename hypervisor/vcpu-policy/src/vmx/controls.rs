//! The control fields of a VMCS: which bits are wanted, and what the CPU makes of that (Intel SDM vol. 3D, appendix A.3 to A.5).

use core::fmt;
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

/// A control field, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls.
    Primary,
    /// Secondary processor-based VM-execution controls.
    Secondary,
    /// VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pin => "pin-based",
            Self::Primary => "primary processor-based",
            Self::Secondary => "secondary processor-based",
            Self::Exit => "VM-exit",
            Self::Entry => "VM-entry",
        })
    }
}

/// Bits of a control field, for messages: by name where they have one, and as a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits(pub Field, pub u32);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(field, bits) = *self;
        match field {
            Field::Pin => write!(f, "{:?}", PinbasedControls::from_bits_truncate(bits)),
            Field::Primary => write!(f, "{:?}", PrimaryControls::from_bits_truncate(bits)),
            Field::Secondary => write!(f, "{:?}", SecondaryControls::from_bits_truncate(bits)),
            Field::Exit => write!(f, "{:?}", ExitControls::from_bits_truncate(bits)),
            Field::Entry => write!(f, "{:?}", EntryControls::from_bits_truncate(bits)),
        }?;
        write!(f, " ({bits:#x})")
    }
}

/// What one control field needs.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    field: Field,
    /// Guests can't run without these.
    required: u32,
    /// Used where they are.
    optional: u32,
    /// Bits that the CPU may want as 1 and that have no meaning (the reserved ones of the "default1" class, appendix A.2).
    meaningless: u32,
}

/// Why a control field can't be as guests need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    /// These bits must be 1 and can't be.
    Missing(Field, u32),
    /// These bits must be 0 and can't be.
    Forced(Field, u32),
}

impl Wanted {
    /// The value of the field. The low half of a capability is the bits that must be 1, the high half those that may be.
    const fn choose(self, capability: u64) -> Result<u32, ControlError> {
        let (must, may) = (capability as u32, (capability >> 32) as u32);
        let missing = self.required & !may;
        if missing != 0 {
            return Err(ControlError::Missing(self.field, missing));
        }
        let forced = must & !(self.required | self.optional | self.meaningless);
        if forced != 0 {
            return Err(ControlError::Forced(self.field, forced));
        }
        Ok(self.required | self.optional & may | must)
    }
}

/// Physical interrupts and NMIs end guest mode, so that they stay the host's.
const PIN: Wanted = Wanted {
    field: Field::Pin,
    required: PinbasedControls::EXTERNAL_INTERRUPT_EXITING.bits() | PinbasedControls::NMI_EXITING.bits(),
    optional: PinbasedControls::VMX_PREEMPTION_TIMER.bits(),
    meaningless: 0x16,
};

/// As with SVM: what would leave the guest (ports, MSRs, HLT), what is filtered (RDPMC), what guests do not have (MONITOR, MWAIT).
/// CR8 is the host's own task priority, which a guest must not raise. Not CR3 and INVLPG: the second stage guards what they lead to.
const PRIMARY: Wanted = Wanted {
    field: Field::Primary,
    required: PrimaryControls::HLT_EXITING.bits()
        | PrimaryControls::MWAIT_EXITING.bits()
        | PrimaryControls::RDPMC_EXITING.bits()
        | PrimaryControls::CR8_LOAD_EXITING.bits()
        | PrimaryControls::CR8_STORE_EXITING.bits()
        | PrimaryControls::UNCOND_IO_EXITING.bits()
        | PrimaryControls::USE_MSR_BITMAPS.bits()
        | PrimaryControls::MONITOR_EXITING.bits()
        | PrimaryControls::SECONDARY_CONTROLS.bits(),
    optional: 0,
    // Bits 15 and 16 of the class have a meaning: CR3 exits, which the TRUE capabilities allow to be off.
    meaningless: 0x0400_6172,
};

/// Without the rest, RDTSCP, RDPID, INVPCID, XSAVES, VMFUNC and TPAUSE raise #UD: guests do not have them.
const SECONDARY: Wanted = Wanted {
    field: Field::Secondary,
    required: SecondaryControls::ENABLE_EPT.bits()
        | SecondaryControls::UNRESTRICTED_GUEST.bits()
        | SecondaryControls::WBINVD_EXITING.bits(),
    optional: SecondaryControls::ENABLE_VPID.bits()
        | SecondaryControls::ENCLS_EXITING.bits()
        | SecondaryControls::ENCLV_EXITING.bits(),
    meaningless: 0,
};

/// The host is in 64-bit mode; EFER and the debug controls are the guest's own and kept for it.
const EXIT: Wanted = Wanted {
    field: Field::Exit,
    required: ExitControls::SAVE_DEBUG_CONTROLS.bits()
        | ExitControls::HOST_ADDRESS_SPACE_SIZE.bits()
        | ExitControls::SAVE_IA32_EFER.bits()
        | ExitControls::LOAD_IA32_EFER.bits(),
    optional: ExitControls::SAVE_VMX_PREEMPTION_TIMER.bits(),
    meaningless: 0x0003_6dfb,
};

/// A guest starts in 64-bit mode; later the CPU keeps that bit as the guest's EFER.LMA (unrestricted guest, SDM vol. 3C, 28.2).
const ENTRY: Wanted = Wanted {
    field: Field::Entry,
    required: EntryControls::LOAD_DEBUG_CONTROLS.bits()
        | EntryControls::IA32E_MODE_GUEST.bits()
        | EntryControls::LOAD_IA32_EFER.bits(),
    optional: 0,
    meaningless: 0x11fb,
};

/// The capability MSRs of the control fields, as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlCapabilities {
    /// IA32_VMX_TRUE_PINBASED_CTLS, or IA32_VMX_PINBASED_CTLS.
    pub pin: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS, or IA32_VMX_PROCBASED_CTLS.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2; 0 where there is none.
    pub secondary: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS, or IA32_VMX_EXIT_CTLS.
    pub exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS, or IA32_VMX_ENTRY_CTLS.
    pub entry: u64,
}

/// The values of the control fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Controls {
    /// Pin-based VM-execution controls.
    pub pin: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
}

impl Controls {
    /// The values that guests run under on this CPU.
    ///
    /// # Errors
    /// The first field that can't be as guests need it.
    pub const fn choose(capabilities: &ControlCapabilities) -> Result<Self, ControlError> {
        let mut controls = Self {
            pin: 0,
            primary: 0,
            secondary: 0,
            exit: 0,
            entry: 0,
        };
        match (
            PIN.choose(capabilities.pin),
            PRIMARY.choose(capabilities.primary),
            SECONDARY.choose(capabilities.secondary),
            EXIT.choose(capabilities.exit),
            ENTRY.choose(capabilities.entry),
        ) {
            (Ok(pin), Ok(primary), Ok(secondary), Ok(exit), Ok(entry)) => {
                controls.pin = pin;
                controls.primary = primary;
                controls.secondary = secondary;
                controls.exit = exit;
                controls.entry = entry;
            }
            (Err(error), ..)
            | (_, Err(error), ..)
            | (_, _, Err(error), ..)
            | (_, _, _, Err(error), _)
            | (.., Err(error)) => return Err(error),
        }
        // The timer is of use only when what is left of it survives an exit.
        let keeps_timer = controls.exit & ExitControls::SAVE_VMX_PREEMPTION_TIMER.bits() != 0;
        let has_timer = controls.pin & PinbasedControls::VMX_PREEMPTION_TIMER.bits() != 0;
        if !(keeps_timer && has_timer) {
            controls.pin &= !PinbasedControls::VMX_PREEMPTION_TIMER.bits();
            controls.exit &= !ExitControls::SAVE_VMX_PREEMPTION_TIMER.bits();
        }
        Ok(controls)
    }

    /// Whether the preemption timer runs.
    pub const fn has_preemption_timer(&self) -> bool {
        self.pin & PinbasedControls::VMX_PREEMPTION_TIMER.bits() != 0
    }

    /// Whether translations are tagged.
    pub const fn has_vpid(&self) -> bool {
        self.secondary & SecondaryControls::ENABLE_VPID.bits() != 0
    }

    /// The same without tags.
    pub const fn without_vpid(mut self) -> Self {
        self.secondary &= !SecondaryControls::ENABLE_VPID.bits();
        self
    }

    /// Whether the leaves of ENCLS can be intercepted, and must be.
    pub const fn intercepts_encls(&self) -> bool {
        self.secondary & SecondaryControls::ENCLS_EXITING.bits() != 0
    }

    /// Whether the leaves of ENCLV can be intercepted, and must be.
    pub const fn intercepts_enclv(&self) -> bool {
        self.secondary & SecondaryControls::ENCLV_EXITING.bits() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A field that allows everything and wants nothing.
    const ANYTHING: u64 = 0xffff_ffff_0000_0000;
    const FREE: ControlCapabilities = ControlCapabilities {
        pin: ANYTHING,
        primary: ANYTHING,
        secondary: ANYTHING,
        exit: ANYTHING,
        entry: ANYTHING,
    };

    #[test]
    fn a_missing_bit_is_named() {
        let no_ept = ControlCapabilities {
            secondary: ANYTHING & !(2 << 32),
            ..FREE
        };
        assert_eq!(
            Controls::choose(&no_ept),
            Err(ControlError::Missing(Field::Secondary, 2))
        );
    }

    #[test]
    fn a_forced_bit_with_a_meaning_is_refused_and_one_without_is_taken() {
        // CR3-load exiting.
        let forced = ControlCapabilities {
            primary: ANYTHING | 1 << 15,
            ..FREE
        };
        assert_eq!(
            Controls::choose(&forced),
            Err(ControlError::Forced(Field::Primary, 1 << 15))
        );
        let reserved = ControlCapabilities {
            primary: ANYTHING | 1 << 13,
            ..FREE
        };
        assert_eq!(Controls::choose(&reserved).unwrap().primary & 1 << 13, 1 << 13);
    }

    #[test]
    fn a_timer_that_forgets_is_not_used() {
        assert!(Controls::choose(&FREE).unwrap().has_preemption_timer());
        for without in [
            ControlCapabilities {
                exit: ANYTHING & !(1 << (32 + 22)),
                ..FREE
            },
            ControlCapabilities {
                pin: ANYTHING & !(1 << (32 + 6)),
                ..FREE
            },
        ] {
            let controls = Controls::choose(&without).unwrap();
            assert!(!controls.has_preemption_timer());
            assert_eq!(controls.exit & 1 << 22, 0);
        }
    }

    proptest! {
        /// Whatever a CPU says, the values are ones that it takes, and hold all that is required.
        #[test]
        fn what_is_chosen_is_allowed(must: u32, may: u32) {
            for wanted in [PIN, PRIMARY, SECONDARY, EXIT, ENTRY] {
                // Mostly capable CPUs.
                let must = must & (wanted.required | wanted.optional | wanted.meaningless | must >> 7);
                let may = may | must | wanted.required;
                if let Ok(value) = wanted.choose(u64::from(may) << 32 | u64::from(must)) {
                    prop_assert_eq!(value & !may, 0);
                    prop_assert_eq!(must & !value, 0);
                    prop_assert_eq!(wanted.required & !value, 0);
                    prop_assert_eq!(value & !(wanted.required | wanted.optional | wanted.meaningless), 0);
                }
            }
        }
    }
}
