//! Why no guest can run here.

use core::fmt;
use vcpu_policy::vmx::capabilities::Lack;

/// What the CPU lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsupported {
    /// CPUID shows no SVM.
    NoSvm,
    /// The firmware has switched SVM off (VM_CR.SVMDIS).
    SvmDisabledByFirmware {
        /// It can be switched on again only there, or by a key that we do not have.
        locked: bool,
    },
    /// SVM without nested page tables.
    NoNestedPaging,
    /// No address-space identifier for a guest.
    NoAsids {
        /// How many there are, with the host's own.
        count: u32,
    },
    /// CPUID shows no VMX.
    NoVmx,
    /// VMX without something that guests need.
    Vmx(Lack),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSvm => f.write_str(
                "this CPU has no SVM: run QEMU with `-accel tcg -cpu max`, or, under KVM on an AMD host, load kvm_amd with \
                 nested=1 and use `-cpu host`",
            ),
            Self::SvmDisabledByFirmware { locked } => {
                let lock = if *locked { " and locked it" } else { "" };
                write!(
                    f,
                    "the firmware has disabled SVM{lock} (VM_CR.SVMDIS): enable SVM (AMD-V) in its setup"
                )
            }
            Self::NoNestedPaging => f.write_str(
                "this CPU has SVM but no nested paging: run QEMU with `-cpu max` or `-cpu EPYC,+svm,+npt`, or, under KVM, load \
                 kvm_amd with npt=1 nested=1",
            ),
            Self::NoVmx => f.write_str(
                "this CPU has no VMX: enable VT-x in the firmware's setup; under KVM on an Intel host, load kvm_intel with nested=1 and use \
                 `-cpu host`",
            ),
            Self::Vmx(lack) => lack.fmt(f),
            Self::NoAsids { count } => {
                write!(
                    f,
                    "this CPU has {count} address-space identifiers, guests need at least 2: run QEMU with `-cpu max`"
                )
            }
        }
    }
}

impl core::error::Error for Unsupported {}

/// No contiguous frames were free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames {
    /// log2 of the frames wanted.
    pub order: u8,
}

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no {} contiguous frames are free: give the machine more memory",
            1u64 << self.order
        )
    }
}

impl core::error::Error for OutOfFrames {}

/// Why virtualization could not be switched on for a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnableError {
    /// No frames.
    OutOfFrames(OutOfFrames),
    /// The firmware has switched VMX off for this CPU alone, and locked that.
    VmxDisabledByFirmware,
    /// VMXON failed although the CPU offers what it needs.
    VmxonRefused,
}

impl From<OutOfFrames> for EnableError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

impl fmt::Display for EnableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames(error) => error.fmt(f),
            Self::VmxDisabledByFirmware => f.write_str(
                "the firmware has disabled VMX for one CPU and locked that (IA32_FEATURE_CONTROL): update the firmware, or use one CPU",
            ),
            Self::VmxonRefused => f.write_str(
                "the CPU refuses VMXON although it shows VMX: is the machine below this one out of date, or VMX in use by its firmware?",
            ),
        }
    }
}

impl core::error::Error for EnableError {}
