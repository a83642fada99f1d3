//! Which machine is the best that works on this host, and why not the better one.
//!
//! `kvm` asks the host: what happens when `/dev/kvm` is opened, and which CPU it offers to guests. The answer is a plain
//! value ([`Host`]), so that hosts can be written down (`tests`). [`Host::obstacle`] judges it: what a guest would find
//! counts, not whether the device opens. [`choose`] takes the machine.

mod kvm;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};

use crate::machine::Kind;

/// What a host says about KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What `/dev/kvm` answers.
    pub kvm: Device,
    /// `/sys/module/kvm_amd/parameters/nested`, where the module is loaded.
    pub amd_nested: Option<String>,
    /// `/sys/module/kvm_intel/parameters/nested`, where the module is loaded.
    pub intel_nested: Option<String>,
}

/// What `/dev/kvm` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// There is no such file.
    Missing,
    /// This user may not open it.
    Forbidden,
    /// It opens, or not, but does not answer as KVM does.
    Broken(String),
    /// The CPU that it offers to guests.
    Offers(Cpu),
}

/// The part of a CPU that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// CPUID leaf 0: `AuthenticAMD`, `GenuineIntel`, ...
    pub vendor: String,
    /// AMD's virtualization: CPUID 8000_0001H ECX bit 2 (APM volume 3, appendix E.4.2).
    pub svm: bool,
    /// AMD's nested paging: CPUID 8000_000AH EDX bit 0 (APM volume 3, appendix E.4.9).
    pub npt: bool,
    /// Intel's virtualization: CPUID 1 ECX bit 5 (SDM volume 2, CPUID).
    pub vmx: bool,
}

impl Host {
    /// Asks the host that this program runs on.
    pub fn ask() -> Self {
        kvm::ask()
    }

    /// Why KVM is not used here, in one sentence; `None` when it works.
    pub fn obstacle(&self) -> Option<String> {
        let cpu = match &self.kvm {
            Device::Missing => {
                return Some(
                    "there is no /dev/kvm (virtualization is off in the firmware, or the module kvm_amd or kvm_intel is not loaded)"
                        .into(),
                );
            }
            Device::Forbidden => {
                return Some(
                    "this user may not open /dev/kvm (`sudo usermod -aG kvm $USER`, then log in again)"
                        .into(),
                );
            }
            Device::Broken(answer) => return Some(format!("/dev/kvm does not answer as KVM does: {answer}")),
            Device::Offers(cpu) => cpu,
        };
        // With VMX comes EPT unless kvm_intel was loaded with ept=0, which the hypervisor itself then says.
        if cpu.svm && cpu.npt || cpu.vmx {
            return None;
        }
        if cpu.svm {
            return Some(
                "KVM offers its guests SVM without nested paging (kvm_amd was loaded with npt=0)".into(),
            );
        }
        let reason = match (&self.amd_nested, &self.intel_nested) {
            (Some(nested), _) if !is_on(nested) => {
                "the module kvm_amd was loaded with nested=0: `sudo modprobe -r kvm_amd && sudo modprobe kvm_amd nested=1`".into()
            }
            (_, Some(nested)) if !is_on(nested) => {
                "the module kvm_intel was loaded with nested=0: `sudo modprobe -r kvm_intel && sudo modprobe kvm_intel nested=1`".into()
            }
            (None, None) => {
                "neither kvm_amd nor kvm_intel is loaded as a module, so there is no `nested` parameter to change".into()
            }
            (Some(nested), _) | (_, Some(nested)) => {
                format!("nested={}, so it is the machine below that lacks it", nested.trim())
            }
        };
        Some(format!(
            "KVM opens, but offers its guests neither SVM nor VMX on this {} CPU ({reason})",
            cpu.vendor
        ))
    }
}

/// Whether a module parameter says yes; KVM's modules write `1` or `Y` depending on their age.
fn is_on(parameter: &str) -> bool {
    matches!(parameter.trim(), "1" | "Y" | "y")
}

/// A machine, and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The machine.
    pub kind: Kind,
    /// Why this one, in a few words for the user.
    pub why: String,
}

/// Takes the machine asked for, or with `None` the best one that works.
///
/// # Errors
/// KVM was asked for and does not work here; the text says why.
pub fn choose(wanted: Option<Kind>, host: &Host) -> Result<Choice> {
    let (kind, why) = match (wanted, host.obstacle()) {
        (Some(kind @ (Kind::Tcg | Kind::Bochs | Kind::NestedAmd | Kind::NestedIntel)), _) => {
            (kind, "asked for".into())
        }
        (Some(Kind::Kvm), None) => (Kind::Kvm, "asked for".into()),
        (Some(Kind::Kvm), Some(obstacle)) => bail!("the machine kvm does not work here: {obstacle}"),
        (None, None) => (Kind::Kvm, "KVM offers its guests the CPU's virtualization".into()),
        (None, Some(obstacle)) => (Kind::Tcg, format!("not kvm: {obstacle}")),
    };
    Ok(Choice { kind, why })
}
