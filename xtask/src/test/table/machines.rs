//! Other CPUs, other ways to boot, and the machine as it is seen from outside.

use crate::machine::Kind;
use crate::medium::Boot;
use crate::test::checks;
use crate::test::row::{EVERYWHERE, Outside, QEMU, Row};

/// CPUs that lack what others have, older or newer: KVM offers what it is asked for.
pub(super) fn other_cpus() -> Vec<Row> {
    let row = |kinds, cpu_flags, name: &str, about| Row {
        kinds,
        cpu_flags,
        ..Row::passing(name, about, "{hello} {spin} {two-at-once}")
    };
    // On a host these flags would mean nothing to an AMD CPU.
    const INTEL: &[Kind] = &[Kind::NestedIntel];
    let refused = |cpu_flags, says, name: &str, about| Row {
        kinds: INTEL,
        cpu_flags,
        check: checks::no_guest_ran,
        ..Row::ending("REFUSED", says, name, about, "{hello}")
    };
    vec![
        Row {
            smp: 2,
            ..row(
                &[Kind::Kvm],
                "x2apic=off",
                "no-x2apic",
                "the local APIC is used by its page where it has no MSRs",
            )
        },
        row(
            &[Kind::Kvm],
            "smep=off,smap=off,pdpe1gb=off,mtrr=off",
            "few-features",
            "protections, 1G leaves and MTRRs are used only where there are any",
        ),
        Row {
            check: |record| checks::tags(record, 1),
            ..row(
                INTEL,
                "vmx-vpid=off",
                "no-vpid",
                "guests run without tagged translations",
            )
        },
        row(
            INTEL,
            "vmx-preemption-timer=off",
            "no-preemption-timer",
            "an interrupt alone ends the turn of a guest that spins",
        ),
        refused(
            "vmx-ept=off,vmx-unrestricted-guest=off",
            &["ENABLE_EPT", "load kvm_intel with ept=1"],
            "no-ept",
            "VMX without EPT is refused",
        ),
        refused(
            "vmx-unrestricted-guest=off",
            &["UNRESTRICTED_GUEST", "unrestricted_guest=1"],
            "no-unrestricted-guest",
            "VMX without unrestricted guests is refused",
        ),
        refused(
            "vmx=off",
            &["no VMX", "load kvm_intel with nested=1"],
            "no-vmx",
            "a CPU without VMX is refused",
        ),
    ]
}

/// Every way to start the hypervisor that is not the emulator's own.
pub(super) fn boots() -> Vec<Row> {
    let row = |boot, kinds, says, name: &str, about| Row {
        boot,
        kinds,
        says,
        ..Row::passing(name, about, "{hello}")
    };
    // KVM runs the same firmware and the same loaders.
    let emulators: &[Kind] = &[Kind::Tcg, Kind::Bochs];
    vec![
        row(
            Boot::Disk,
            emulators,
            &["loaded by PVH"],
            "boot-disk",
            "boots from a raw disk with its own boot sector",
        ),
        row(
            Boot::Iso,
            emulators,
            &["loaded by multiboot2, GRUB"],
            "boot-iso",
            "boots from a GRUB disc, by the BIOS",
        ),
        row(
            Boot::Uefi,
            &[Kind::Tcg],
            &["loaded by multiboot2, GRUB"],
            "boot-uefi",
            "boots from a GRUB disc, by UEFI",
        ),
    ]
}

/// The machine as it is seen from outside.
pub(super) fn seen_from_outside() -> Vec<Row> {
    let row = |name: &str, memory_mib, host_mib, line: &str| Row {
        kinds: QEMU,
        outside: Outside::Holds,
        memory_mib,
        host_mib,
        ..Row::passing(
            name,
            "RAM searched and tables walked from outside at boot, with guests, and after",
            &format!("{line} pause=boot+guests+after"),
        )
    };
    vec![
        Row {
            kinds: EVERYWHERE,
            ..row("outside", 512, 512, "{touch-all} {two-at-once}")
        },
        Row {
            kinds: EVERYWHERE,
            smp: 2,
            ..row(
                "outside-128M-two-cpus",
                128,
                384,
                "{two-at-once} guest=touch-all,memory=16M,limit=60s",
            )
        },
        Row {
            kinds: EVERYWHERE,
            ..row("outside-shared", 512, 512, "{share-and-stay} {touch-all}")
        },
        row(
            "outside-4G",
            4096,
            1536,
            "guest=touch-all,memory=512M,limit=60s {two-at-once} {touch-all}",
        ),
        Row {
            cpu_flags: "pdpe1gb=off",
            ..row(
                "outside-no-1G-leaves",
                2048,
                512,
                "{touch-all} guest=touch-all,memory=4M,count=6",
            )
        },
    ]
}
