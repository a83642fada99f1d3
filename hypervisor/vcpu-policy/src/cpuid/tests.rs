//! The filter on recorded dumps, on a CPU that claims everything, and on arbitrary answers.

use super::*;
use crate::xcr0;
use proptest::prelude::*;
use raw_cpuid::CpuId;
use std::collections::HashMap;
use std::rc::Rc;

/// Recorded answers, one `leaf subleaf: eax ebx ecx edx` a line, all hexadecimal. Leaves that are missing read as zero.
fn recorded(text: &str) -> impl CpuIdReader {
    let leaves: HashMap<(u32, u32), CpuIdResult> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let numbers: Vec<u32> = line
                .split([' ', ':'])
                .filter(|part| !part.is_empty())
                .map(|part| u32::from_str_radix(part, 16).unwrap())
                .collect();
            let [leaf, subleaf, eax, ebx, ecx, edx] = numbers[..] else {
                panic!("not a line of a dump: {line}");
            };
            ((leaf, subleaf), CpuIdResult { eax, ebx, ecx, edx })
        })
        .collect();
    let leaves = Rc::new(leaves);
    move |leaf: u32, subleaf: u32| leaves.get(&(leaf, subleaf)).copied().unwrap_or(ZERO)
}

const XEON: &str = include_str!("../../tests/dumps/xeon-under-kvm.txt");
const QEMU: &str = include_str!("../../tests/dumps/qemu-tcg-7.2-max.txt");

/// Every bit of every register set: a CPU that claims all there is.
fn all_ones(_: u32, _: u32) -> CpuIdResult {
    CpuIdResult {
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
    }
}

fn host_mask(host: &impl CpuIdReader) -> u64 {
    let leaf = host.cpuid2(0xd, 0);
    xcr0::allowed(u64::from(leaf.edx) << 32 | u64::from(leaf.eax))
}

/// No byte is like another.
const MEASURED: [u8; MEASUREMENT_BYTES] = {
    let mut bytes = [0; MEASUREMENT_BYTES];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = at as u8 + 1;
        at += 1;
    }
    bytes
};

fn view(host: &impl CpuIdReader) -> GuestView {
    GuestView {
        cr4: 0,
        xcr0: xcr0::X87,
        xcr0_allowed: host_mask(host),
        measurement: MEASURED,
    }
}

fn bits(leaf: u32, subleaf: u32, view: &GuestView) -> CpuIdResult {
    answer(&all_ones, view, leaf, subleaf)
}

const EVERYTHING: GuestView = GuestView {
    cr4: u64::MAX,
    xcr0: xcr0::KNOWN,
    xcr0_allowed: xcr0::KNOWN,
    measurement: MEASURED,
};

#[test]
fn a_guest_reads_what_it_was_measured_as() {
    let read = guest_abi::cpuid::measurement(|leaf| {
        let answer = bits(leaf, 0, &EVERYTHING);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    });
    assert_eq!(read, MEASURED);
    assert_eq!(bits(LEAF_MAX + 1, 0, &EVERYTHING), ZERO);
}

#[test]
fn a_cpu_that_claims_everything_shows_nothing_dangerous() {
    let one = bits(1, 0, &EVERYTHING);
    // DTES64 2, MONITOR 3, DS-CPL 4, VMX 5, SMX 6, EIST 7, PDCM 15, PCID 17, x2APIC 21, TSC-deadline 24.
    for bit in [2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 17, 18, 21, 24] {
        assert_eq!(one.ecx >> bit & 1, 0, "leaf 1 ECX bit {bit}");
    }
    // MCE 7, APIC 9, MTRR 12, MCA 14, PSN 18, DS 21, ACPI 22, HTT 28, TM 29, PBE 31.
    for bit in [7, 9, 12, 14, 18, 21, 22, 28, 29, 31] {
        assert_eq!(one.edx >> bit & 1, 0, "leaf 1 EDX bit {bit}");
    }
    assert_eq!(one.ebx >> 16, 0, "one CPU, APIC identifier 0");
    let seven = bits(7, 0, &EVERYTHING);
    // TSC_ADJUST 1, SGX 2, HLE 4, INVPCID 10, RTM 11, RDT 12 and 15, MPX 14, PT 25.
    for bit in [1, 2, 4, 10, 11, 12, 14, 15, 25] {
        assert_eq!(seven.ebx >> bit & 1, 0, "leaf 7 EBX bit {bit}");
    }
    // WAITPKG 5, CET 7, TME 13, LA57 16, RDPID 22, key locker 23, ENQCMD 29, SGX_LC 30, PKS 31.
    for bit in [5, 7, 13, 16, 22, 23, 29, 30, 31] {
        assert_eq!(seven.ecx >> bit & 1, 0, "leaf 7 ECX bit {bit}");
    }
    assert_eq!(seven.edx, features::LEAF_7_EDX);
    assert_eq!(seven.eax, 0);
    assert_eq!(bits(7, 1, &EVERYTHING), ZERO);
    let extended = bits(0x8000_0001, 0, &EVERYTHING);
    // SVM 2, extended APIC 3, OSVW 9, IBS 10, SKINIT 12, WDT 13, LWP 15, TCE 17, topology 22, PERFCTR 23 to 28, MWAITX 29.
    for bit in [2, 3, 9, 10, 12, 13, 15, 17, 19, 22, 23, 24, 26, 27, 28, 29] {
        assert_eq!(extended.ecx >> bit & 1, 0, "leaf 8000_0001 ECX bit {bit}");
    }
    // MCE 7, APIC 9, MTRR 12, MCA 14, FFXSR 25, RDTSCP 27.
    for bit in [7, 9, 12, 14, 25, 27] {
        assert_eq!(extended.edx >> bit & 1, 0, "leaf 8000_0001 EDX bit {bit}");
    }
    assert_eq!(bits(0xd, 1, &EVERYTHING).eax & 1 << 3, 0, "XSAVES");
    // PMU, SGX, PT, SVM, memory encryption.
    for leaf in [0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001f, 0x4000_0006, u32::MAX] {
        assert_eq!(bits(leaf, 0, &EVERYTHING), ZERO, "leaf {leaf:#x}");
    }
}

/// The highest address bit, but none that four levels of tables do not translate.
#[test]
fn the_shared_bit_is_the_highest_that_a_guest_has() {
    for (bits, shared) in [
        (32, 31),
        (36, 35),
        (39, 38),
        (40, 39),
        (46, 45),
        (48, 47),
        (52, 47),
        (255, 47),
        (0, 35),
    ] {
        let host = move |leaf: u32, _: u32| match leaf {
            0x8000_0000 => CpuIdResult {
                eax: 0x8000_0008,
                ..ZERO
            },
            0x8000_0008 => CpuIdResult {
                eax: 0x3000 | bits,
                ..ZERO
            },
            _ => ZERO,
        };
        let told = answer(&host, &view(&host), 0x4000_0002, 0);
        assert_eq!(told, CpuIdResult { eax: shared, ..ZERO });
        assert_eq!(u32::from(guest_address_bits(&host)), shared + 1);
    }
    let old = recorded("0 0: 1 0 0 0");
    assert_eq!(guest_address_bits(&old), 36);
}

#[test]
fn lacuna_signs() {
    let host = recorded(XEON);
    let signature = answer(&host, &view(&host), 0x4000_0000, 0);
    assert_eq!(signature.eax, 0x4000_0005);
    let text: Vec<u8> = [signature.ebx, signature.ecx, signature.edx]
        .iter()
        .flat_map(|part| part.to_le_bytes())
        .collect();
    assert_eq!(text, b"LacunaLacuna");
    assert_eq!(answer(&host, &view(&host), 0x4000_0001, 0).eax, ABI_VERSION);
}

#[test]
fn the_guest_decides_osxsave_and_ospke() {
    let off = GuestView { cr4: 0, ..EVERYTHING };
    assert_eq!(bits(1, 0, &off).ecx & features::OSXSAVE, 0);
    assert_ne!(bits(1, 0, &EVERYTHING).ecx & features::OSXSAVE, 0);
    assert_eq!(bits(7, 0, &off).ecx & features::OSPKE, 0);
    assert_ne!(bits(7, 0, &EVERYTHING).ecx & features::OSPKE, 0);
    let none = GuestView {
        xcr0_allowed: 0,
        ..EVERYTHING
    };
    assert_eq!(
        bits(1, 0, &none).ecx & (features::OSXSAVE | features::XSAVE | 1 << 28),
        0
    );
    assert_eq!(bits(0xd, 0, &none), ZERO);
}

#[test]
fn state_that_cannot_be_kept_hides_its_instructions() {
    let sse_only = GuestView {
        xcr0_allowed: xcr0::X87 | xcr0::SSE,
        ..EVERYTHING
    };
    assert_eq!(bits(1, 0, &sse_only).ecx & (1 << 12 | 1 << 28 | 1 << 29), 0);
    assert_eq!(bits(7, 0, &sse_only).ebx & (1 << 5 | 1 << 16), 0);
    let avx = GuestView {
        xcr0_allowed: xcr0::X87 | xcr0::SSE | xcr0::AVX,
        ..EVERYTHING
    };
    assert_ne!(bits(7, 0, &avx).ebx & 1 << 5, 0);
    assert_eq!(bits(7, 0, &avx).ebx & 1 << 16, 0);
    assert_eq!(bits(7, 0, &avx).ecx & features::PKU, 0);
}

fn keeps_its_identity(dump: &str) {
    let host = recorded(dump);
    let guest = {
        let view = view(&host);
        let host = host.clone();
        CpuId::with_cpuid_reader(move |leaf: u32, subleaf: u32| answer(&host, &view, leaf, subleaf))
    };
    let real = CpuId::with_cpuid_reader(host.clone());
    assert_eq!(
        guest.get_vendor_info().unwrap().as_str(),
        real.get_vendor_info().unwrap().as_str()
    );
    assert_eq!(
        guest.get_processor_brand_string().unwrap().as_str(),
        real.get_processor_brand_string().unwrap().as_str()
    );
    let (shown, physical) = (
        guest.get_feature_info().unwrap(),
        real.get_feature_info().unwrap(),
    );
    assert_eq!(shown.family_id(), physical.family_id());
    assert_eq!(
        (shown.has_avx(), shown.has_xsave()),
        (physical.has_avx(), physical.has_xsave())
    );
    assert!(shown.has_hypervisor());
    assert!(!shown.has_vmx() && !shown.has_apic() && !shown.has_mtrr() && !shown.has_monitor_mwait());
    assert!(shown.has_sse2() && shown.has_fxsave_fxstor() && shown.has_pat());
    let extended = guest.get_extended_processor_and_feature_identifiers().unwrap();
    assert!(!extended.has_svm() && !extended.has_rdtscp());
    assert!(extended.has_64bit_mode() && extended.has_execute_disable());
    let widths = guest.get_processor_capacity_feature_info().unwrap();
    assert_eq!(
        widths.physical_address_bits(),
        real.get_processor_capacity_feature_info()
            .unwrap()
            .physical_address_bits()
    );
    assert_eq!(widths.linear_address_bits(), 48);
    assert!(guest.get_svm_info().is_none());
    assert!(
        guest
            .get_performance_monitoring_info()
            .is_none_or(|info| info.version_id() == 0)
    );
}

#[test]
fn a_xeon_keeps_its_identity() {
    keeps_its_identity(XEON);
}

#[test]
fn an_emulated_amd_cpu_keeps_its_identity() {
    keeps_its_identity(QEMU);
    // It has SVM, five-level paging and MPX, and no guest may know.
    let host = recorded(QEMU);
    assert_ne!(host.cpuid1(0x8000_0001).ecx & 1 << 2, 0);
    assert_ne!(host.cpuid2(7, 0).ecx & 1 << 16, 0);
    assert_eq!(host_mask(&host), xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::PKRU);
    assert_eq!(answer(&host, &view(&host), 7, 0).ecx & 1 << 16, 0);
    assert_eq!(answer(&host, &view(&host), 0xd, 3), ZERO);
}

#[test]
fn the_size_of_the_area_follows_xcr0() {
    let host = recorded(XEON);
    let allowed = host_mask(&host);
    assert_eq!(
        allowed & xcr0::AVX512,
        xcr0::AVX512,
        "the dump is of a CPU with AVX-512"
    );
    let leaf = |xcr0| {
        answer(
            &host,
            &GuestView {
                cr4: 0,
                xcr0,
                xcr0_allowed: allowed,
                measurement: MEASURED,
            },
            0xd,
            0,
        )
    };
    assert_eq!(leaf(xcr0::X87).ebx, 576);
    // The AVX component of every known CPU follows the header (SDM vol. 1, 13.5.3 and the CPU's own leaf 0DH).
    assert_eq!(leaf(xcr0::X87 | xcr0::SSE | xcr0::AVX).ebx, 576 + 256);
    assert_eq!(leaf(allowed).ebx, leaf(allowed).ecx);
    assert_eq!(u64::from(leaf(xcr0::X87).eax), allowed);
}

proptest! {
    /// Whatever the host answers, a feature is shown only where the host has it (apart from the bits that are the guest's own), and no
    /// leaf outside the whitelist says anything.
    #[test]
    fn never_more_than_the_host(words: [u32; 4], leaf in prop_oneof![0u32..0x20, 0x8000_0000u32..0x8000_0020, any::<u32>()],
        subleaf in 0u32..70, cr4: u64, xcr0: u64, mask: u64) {
        let host = move |asked: u32, _: u32| match asked {
            0 => CpuIdResult { eax: 0xd, ebx: words[1], ecx: words[2], edx: words[3] },
            0x8000_0000 => CpuIdResult { eax: 0x8000_0008, ebx: words[1], ecx: words[2], edx: words[3] },
            _ => CpuIdResult { eax: words[0], ebx: words[1], ecx: words[2], edx: words[3] },
        };
        let allowed = xcr0::allowed(mask);
        let view = GuestView { cr4, xcr0: xcr0 & allowed, xcr0_allowed: allowed, measurement: MEASURED };
        let shown = answer(&host, &view, leaf, subleaf);
        let own_ecx = match leaf {
            1 => features::HYPERVISOR | features::OSXSAVE,
            7 => features::OSPKE,
            _ => 0,
        };
        if matches!(leaf, 1 | 7 | 0x8000_0001..=0x8000_0007) {
            prop_assert_eq!(shown.ebx & !words[1], 0);
            prop_assert_eq!(shown.ecx & !(words[2] | own_ecx), 0);
            prop_assert_eq!(shown.edx & !words[3], 0);
        }
        if !matches!(leaf, 0 | 1 | 7 | 0xd | 0x4000_0000..=0x4000_0002 | 0x8000_0000..=0x8000_0004 | 0x8000_0007 | 0x8000_0008) {
            prop_assert_eq!(shown, ZERO);
        }
    }
}
