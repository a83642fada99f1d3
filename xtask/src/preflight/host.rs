//! What a host says about KVM, as a value that can be written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a host says about KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// The host's own CPU.
    pub cpu: HostCpu,
    /// The module for AMD's CPUs, where it is loaded.
    pub kvm_amd: Option<Module>,
    /// The module for Intel's CPUs, where it is loaded.
    pub kvm_intel: Option<Module>,
    /// What `/dev/kvm` answers.
    pub kvm: Device,
}

/// The host's own CPU, as `/proc/cpuinfo` describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCpu {
    /// `vendor_id`.
    pub vendor: String,
    /// The flag `svm`: AMD's virtualization is there.
    pub svm: bool,
    /// The flag `vmx`: Intel's is there and the firmware has not disabled it.
    pub vmx: bool,
    /// The flag `hypervisor`: the host is a virtual machine itself.
    pub hypervisor: bool,
}

/// A module's parameters that matter here: `nested`, and `npt` or `ept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Module(pub BTreeMap<String, String>);

impl Module {
    /// Whether the parameter is there and says no; KVM's modules write `0` or `N` depending on their age.
    pub fn is_off(&self, parameter: &str) -> bool {
        self.0
            .get(parameter)
            .is_some_and(|value| matches!(value.trim(), "0" | "N" | "n"))
    }
}

/// What `/dev/kvm` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
impl Host {
    /// A host of which nothing is known but the CPU that it offers to guests.
    pub fn offering(cpu: Cpu) -> Self {
        Self {
            kernel: String::new(),
            cpu: HostCpu::default(),
            kvm_amd: None,
            kvm_intel: None,
            kvm: Device::Offers(cpu),
        }
    }
}
