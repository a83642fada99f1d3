//! Which machine is the best that works on this host, and why not the better one.
//!
//! `ask` asks the host: its CPU, KVM's modules, what happens when `/dev/kvm` is opened, and which CPU it offers to guests. The answer is a
//! plain value ([`Host`], in `host`), which `cargo xtask host --json` writes down; `hosts` has such recordings for the tests.
//! [`Host::obstacle`] judges it: what a guest would find counts, not whether the device opens. [`choose`] takes the machine.

mod ask;
mod host;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::machine::Kind;

#[cfg(test)]
pub use host::Cpu;
pub use host::{Device, Host};

impl Host {
    /// Asks the host that this program runs on.
    pub fn ask() -> Self {
        ask::host()
    }

    /// Why KVM is not used here, in one sentence; `None` when it works.
    pub fn obstacle(&self) -> Option<String> {
        let cpu = match &self.kvm {
            Device::Missing => return Some(format!("there is no /dev/kvm: {}", self.why_no_device())),
            Device::Forbidden => {
                return Some(
                    "this user may not open /dev/kvm (`sudo usermod -aG kvm $USER`, then log in again)"
                        .into(),
                );
            }
            Device::Broken(answer) => return Some(format!("/dev/kvm does not answer as KVM does: {answer}")),
            Device::Offers(cpu) => cpu,
        };
        let (amd, intel) = (&self.kvm_amd, &self.kvm_intel);
        if cpu.svm && !cpu.npt {
            return Some(
                "KVM offers its guests SVM without nested paging (kvm_amd was loaded with npt=0): `sudo modprobe -r kvm_amd && sudo modprobe kvm_amd npt=1 nested=1`".into(),
            );
        }
        // The CPU that KVM offers does not show EPT in CPUID; without it in the host, KVM does not offer it either.
        if cpu.vmx && intel.as_ref().is_some_and(|module| module.is_off("ept")) {
            return Some(
                "KVM offers its guests VMX without EPT (kvm_intel was loaded with ept=0): `sudo modprobe -r kvm_intel && sudo modprobe kvm_intel ept=1 nested=1`".into(),
            );
        }
        if cpu.svm || cpu.vmx {
            return None;
        }
        let off = [("kvm_amd", amd), ("kvm_intel", intel)]
            .into_iter()
            .find(|(_, module)| module.as_ref().is_some_and(|module| module.is_off("nested")));
        let reason = match off {
            Some((name, _)) => format!(
                "the module {name} was loaded with nested=0: `sudo modprobe -r {name} && sudo modprobe {name} nested=1`"
            ),
            None if amd.is_none() && intel.is_none() => {
                "neither kvm_amd nor kvm_intel is loaded as a module, so there is no `nested` parameter to change".into()
            }
            None => "nested=1, so it is the machine below that lacks it".into(),
        };
        Some(format!(
            "KVM opens, but offers its guests neither SVM nor VMX on this {} CPU ({reason})",
            cpu.vendor
        ))
    }

    /// What to do where the device is missing.
    fn why_no_device(&self) -> String {
        if self.kvm_amd.is_some() || self.kvm_intel.is_some() {
            return "KVM's module is loaded, so this is a container that was not given the device (docker: `--device /dev/kvm`)".into();
        }
        let module = match (self.cpu.svm, self.cpu.vmx) {
            (true, _) => "kvm_amd",
            (_, true) => "kvm_intel",
            (false, false) if self.cpu.hypervisor => {
                return "this is a virtual machine, and the machine below offers it neither SVM nor VMX: switch on nested virtualization there".into();
            }
            (false, false) => {
                return "the CPU shows neither SVM nor VMX: enable AMD-V or VT-x in the firmware's setup"
                    .into();
            }
        };
        format!("the module {module} is not loaded: `sudo modprobe {module}`")
    }
}

/// Says what this host is good for, and writes it down where `json` says.
///
/// # Errors
/// The file can't be written.
pub fn report(json: Option<&Path>) -> Result<()> {
    let host = Host::ask();
    match host.obstacle() {
        None => println!("kvm: works"),
        Some(obstacle) => println!("kvm: does not work here: {obstacle}"),
    }
    let choice = choose(None, &host)?;
    println!("--machine auto takes {}", choice.kind.name());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&host).context("write the host down")?;
        fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
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
