//! The judgement on hosts that were written down.

use super::*;

fn cpu(vendor: &str) -> Cpu {
    Cpu {
        vendor: vendor.into(),
        svm: false,
        npt: false,
        vmx: false,
    }
}

fn host(kvm: Device, amd: Option<&str>, intel: Option<&str>) -> Host {
    Host {
        kvm,
        amd_nested: amd.map(str::to_owned),
        intel_nested: intel.map(str::to_owned),
    }
}

fn reason(host: &Host) -> String {
    let choice = choose(None, host).unwrap();
    assert_eq!(choice.kind, Kind::Tcg);
    let error = choose(Some(Kind::Kvm), host).unwrap_err().to_string();
    assert!(
        error.starts_with("the machine kvm does not work here: "),
        "{error}"
    );
    assert!(choice.why.ends_with(error.split_once(": ").unwrap().1), "{error}");
    choice.why
}

#[test]
fn amd_with_nested_kvm_takes_kvm() {
    let offer = Cpu {
        svm: true,
        npt: true,
        ..cpu("AuthenticAMD")
    };
    let host = host(Device::Offers(offer), Some("1\n"), None);
    assert_eq!(choose(None, &host).unwrap().kind, Kind::Kvm);
    assert_eq!(choose(Some(Kind::Kvm), &host).unwrap().kind, Kind::Kvm);
    let asked = choose(Some(Kind::Tcg), &host).unwrap();
    assert_eq!((asked.kind, asked.why.as_str()), (Kind::Tcg, "asked for"));
}

#[test]
fn a_software_kvm_that_opens_and_offers_nothing() {
    let why = reason(&host(Device::Offers(cpu("GenuineIntel")), None, None));
    assert_eq!(
        why,
        "not kvm: KVM opens, but offers its guests neither SVM nor VMX on this GenuineIntel CPU (neither kvm_amd nor kvm_intel is loaded as a module, so there is no `nested` parameter to change)"
    );
}

#[test]
fn amd_with_nested_switched_off() {
    for off in ["0\n", "N\n"] {
        let why = reason(&host(Device::Offers(cpu("AuthenticAMD")), Some(off), None));
        assert!(
            why.contains("kvm_amd was loaded with nested=0: `sudo modprobe"),
            "{why}"
        );
    }
}

#[test]
fn amd_without_nested_paging() {
    let offer = Cpu {
        svm: true,
        ..cpu("AuthenticAMD")
    };
    let why = reason(&host(Device::Offers(offer), Some("1\n"), None));
    assert!(why.contains("SVM without nested paging"), "{why}");
}

#[test]
fn amd_inside_a_machine_that_hides_svm() {
    let why = reason(&host(Device::Offers(cpu("AuthenticAMD")), Some("1\n"), None));
    assert!(
        why.contains("nested=1, so it is the machine below that lacks it"),
        "{why}"
    );
}

#[test]
fn intel_with_nested_kvm_takes_kvm_and_says_what_to_change_without() {
    let offer = Cpu {
        vmx: true,
        ..cpu("GenuineIntel")
    };
    let with = host(Device::Offers(offer), None, Some("Y\n"));
    assert_eq!(choose(None, &with).unwrap().kind, Kind::Kvm);
    let why = reason(&host(Device::Offers(cpu("GenuineIntel")), None, Some("N\n")));
    assert!(
        why.contains("kvm_intel was loaded with nested=0: `sudo modprobe"),
        "{why}"
    );
}

#[test]
fn no_device_no_rights_no_kvm() {
    assert!(reason(&host(Device::Missing, None, None)).contains("there is no /dev/kvm"));
    let why = reason(&host(Device::Forbidden, Some("1\n"), None));
    assert!(
        why.contains("may not open /dev/kvm (`sudo usermod -aG kvm $USER`"),
        "{why}"
    );
    let why = reason(&host(
        Device::Broken("its API version is 9, not 12".into()),
        None,
        None,
    ));
    assert!(
        why.ends_with("/dev/kvm does not answer as KVM does: its API version is 9, not 12"),
        "{why}"
    );
}

#[test]
fn this_host_gives_some_answer() {
    let host = Host::ask();
    let choice = choose(None, &host).unwrap();
    assert_eq!(choice.kind == Kind::Kvm, host.obstacle().is_none());
    assert!(!choice.why.is_empty());
}
