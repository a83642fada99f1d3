//! Asks the host itself.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::host::{Cpu, Device, Host, HostCpu, Module};

/// The API's version, the same since 2007; the kernel's documentation says to refuse any other
/// (Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION).
const API_VERSION: i32 = 12;

pub(super) fn host() -> Host {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Host {
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: host_cpu(&text("/proc/cpuinfo")),
        kvm_amd: module("kvm_amd", "npt"),
        kvm_intel: module("kvm_intel", "ept"),
        kvm: device(),
    }
}

/// A loaded module's parameters `nested` and `paging`.
fn module(name: &str, paging: &str) -> Option<Module> {
    let folder = Path::new("/sys/module").join(name);
    let read = |parameter: &str| {
        let text = fs::read_to_string(folder.join("parameters").join(parameter)).ok()?;
        Some((parameter.to_owned(), text.trim().to_owned()))
    };
    folder
        .is_dir()
        .then(|| Module(["nested", paging].into_iter().filter_map(read).collect()))
}

/// The first CPU of `/proc/cpuinfo`.
pub(super) fn host_cpu(cpuinfo: &str) -> HostCpu {
    let value = |name: &str| {
        let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let mut found = fields
            .filter(|(field, _)| field.trim() == name)
            .map(|(_, value)| value.trim());
        found.next().unwrap_or_default()
    };
    let has = |flag: &str| value("flags").split_whitespace().any(|word| word == flag);
    HostCpu {
        vendor: value("vendor_id").to_owned(),
        svm: has("svm"),
        vmx: has("vmx"),
        hypervisor: has("hypervisor"),
    }
}

fn device() -> Device {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            let error = std::io::Error::from(error);
            return match error.kind() {
                ErrorKind::NotFound => Device::Missing,
                ErrorKind::PermissionDenied => Device::Forbidden,
                _ => Device::Broken(format!("opening it says `{error}`")),
            };
        }
    };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Device::Broken(format!("its API version is {version}, not {API_VERSION}"));
    }
    match kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES) {
        Ok(cpuid) => Device::Offers(cpu(&cpuid)),
        Err(error) => Device::Broken(format!(
            "KVM_GET_SUPPORTED_CPUID says `{}`",
            std::io::Error::from(error)
        )),
    }
}

fn cpu(cpuid: &CpuId) -> Cpu {
    let leaf = |function: u32| cpuid.as_slice().iter().find(|entry| entry.function == function);
    let has = |function, register: fn(&kvm_cpuid_entry2) -> u32, bit: u32| {
        leaf(function).is_some_and(|entry| register(entry) & (1 << bit) != 0)
    };
    let vendor = leaf(0).map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat());
    Cpu {
        vendor: String::from_utf8_lossy(&vendor.unwrap_or_default()).into_owned(),
        svm: has(0x8000_0001, |entry| entry.ecx, 2),
        npt: has(0x8000_000a, |entry| entry.edx, 0),
        vmx: has(1, |entry| entry.ecx, 5),
    }
}
