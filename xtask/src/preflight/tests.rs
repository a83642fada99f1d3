//! The judgement on hosts that were recorded with `cargo xtask host --json`.
//!
//! The recordings in `hosts` are from Debian 12's kernel 6.1 on emulated CPUs, with the parameters and rights that their names say;
//! `software-kvm` from a virtual machine with a KVM that emulates.

use super::ask::host_cpu;
use super::host::{Device, Host};
use super::*;

/// Each recording, and how its host is judged: nothing where KVM works, else a part of the sentence.
const HOSTS: [(&str, &str, &[&str]); 13] = [
    ("amd", include_str!("hosts/amd.json"), &[]),
    ("intel", include_str!("hosts/intel.json"), &[]),
    (
        "amd-nested-off",
        include_str!("hosts/amd-nested-off.json"),
        &[
            "neither SVM nor VMX on this AuthenticAMD CPU",
            "kvm_amd was loaded with nested=0: `sudo modprobe -r kvm_amd && sudo modprobe kvm_amd nested=1`",
        ],
    ),
    (
        "intel-nested-off",
        include_str!("hosts/intel-nested-off.json"),
        &[
            "neither SVM nor VMX on this GenuineIntel CPU",
            "kvm_intel was loaded with nested=0: `sudo modprobe -r kvm_intel && sudo modprobe kvm_intel nested=1`",
        ],
    ),
    (
        "amd-npt-off",
        include_str!("hosts/amd-npt-off.json"),
        &[
            "SVM without nested paging",
            "`sudo modprobe -r kvm_amd && sudo modprobe kvm_amd npt=1 nested=1`",
        ],
    ),
    (
        "intel-ept-off",
        include_str!("hosts/intel-ept-off.json"),
        &[
            "VMX without EPT",
            "`sudo modprobe -r kvm_intel && sudo modprobe kvm_intel ept=1 nested=1`",
        ],
    ),
    (
        "amd-no-access",
        include_str!("hosts/amd-no-access.json"),
        &["this user may not open /dev/kvm (`sudo usermod -aG kvm $USER`"],
    ),
    (
        "amd-module-missing",
        include_str!("hosts/amd-module-missing.json"),
        &["there is no /dev/kvm", "`sudo modprobe kvm_amd`"],
    ),
    (
        "intel-module-missing",
        include_str!("hosts/intel-module-missing.json"),
        &["there is no /dev/kvm", "`sudo modprobe kvm_intel`"],
    ),
    (
        "container",
        include_str!("hosts/container.json"),
        &[
            "there is no /dev/kvm",
            "a container that was not given the device",
        ],
    ),
    (
        "virtual-machine",
        include_str!("hosts/virtual-machine.json"),
        &[
            "there is no /dev/kvm",
            "this is a virtual machine",
            "switch on nested virtualization there",
        ],
    ),
    (
        "firmware-off",
        include_str!("hosts/firmware-off.json"),
        &[
            "there is no /dev/kvm",
            "enable AMD-V or VT-x in the firmware's setup",
        ],
    ),
    (
        "software-kvm",
        include_str!("hosts/software-kvm.json"),
        &[
            "neither SVM nor VMX on this GenuineIntel CPU",
            "neither kvm_amd nor kvm_intel is loaded",
        ],
    ),
];

fn recorded(name: &str) -> Host {
    let (_, text, _) = HOSTS.iter().find(|(known, ..)| *known == name).unwrap();
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_recorded_host_is_judged_and_told_what_to_change() {
    for (name, text, says) in HOSTS {
        let host: Host = serde_json::from_str(text).unwrap();
        assert_eq!(
            serde_json::from_str::<Host>(&serde_json::to_string(&host).unwrap()).unwrap(),
            host
        );
        let best = choose(None, &host).unwrap();
        if says.is_empty() {
            assert_eq!(host.obstacle(), None, "{name}");
            assert_eq!(best.kind, Kind::Kvm, "{name}");
            assert_eq!(choose(Some(Kind::Kvm), &host).unwrap().kind, Kind::Kvm, "{name}");
            continue;
        }
        assert_eq!(best.kind, Kind::Tcg, "{name}");
        let obstacle = host.obstacle().unwrap();
        for part in says {
            assert!(obstacle.contains(part), "{name}: {obstacle}");
        }
        assert_eq!(best.why, format!("not kvm: {obstacle}"), "{name}");
        let error = choose(Some(Kind::Kvm), &host).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("the machine kvm does not work here: {obstacle}"),
            "{name}"
        );
    }
}

#[test]
fn a_machine_that_was_asked_for_is_taken_on_any_host() {
    for kind in [Kind::Tcg, Kind::Bochs, Kind::NestedAmd, Kind::NestedIntel] {
        let asked = choose(Some(kind), &recorded("firmware-off")).unwrap();
        assert_eq!((asked.kind, asked.why.as_str()), (kind, "asked for"));
    }
}

#[test]
fn older_modules_and_other_answers() {
    let mut old = recorded("intel-nested-off");
    old.kvm_intel = Some(serde_json::from_str(r#"{"nested":"0"}"#).unwrap());
    assert!(
        old.obstacle()
            .unwrap()
            .contains("kvm_intel was loaded with nested=0")
    );
    // The module is willing; what it runs on is not.
    old.kvm_intel = Some(serde_json::from_str(r#"{"nested":"Y"}"#).unwrap());
    assert!(
        old.obstacle()
            .unwrap()
            .contains("nested=1, so it is the machine below that lacks it")
    );
    old.kvm = Device::Broken("its API version is 9, not 12".into());
    let wanted = "/dev/kvm does not answer as KVM does: its API version is 9, not 12";
    assert_eq!(old.obstacle().unwrap(), wanted);
}

#[test]
fn the_first_cpu_of_cpuinfo_counts() {
    let text = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx hypervisor\n\nprocessor\t: 1\nvendor_id\t: Other\nflags\t\t: svm\n";
    let cpu = host_cpu(text);
    assert_eq!(cpu.vendor, "GenuineIntel");
    assert_eq!((cpu.svm, cpu.vmx, cpu.hypervisor), (false, true, true));
    // `vmx flags` is another line of newer kernels.
    assert!(!host_cpu("vmx flags\t: vnmi\nflags\t: fpu\n").vmx);
}

#[test]
fn this_host_gives_some_answer() {
    let host = Host::ask();
    let choice = choose(None, &host).unwrap();
    assert_eq!(choice.kind == Kind::Kvm, host.obstacle().is_none());
    assert!(!choice.why.is_empty());
}
