//! Detection on CPUID of real CPUs (`tests/dumps`), of an emulator and of a virtual machine.

use std::collections::HashMap;
use std::rc::Rc;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;
use raw_cpuid::CpuIdResult;

use super::*;

/// Recorded answers; leaves that are missing read as zero.
fn recorded(text: &str) -> impl CpuIdReader + use<> {
    let line = |line: &str| {
        let numbers: Vec<u32> = line
            .split([' ', ':'])
            .filter(|part| !part.is_empty())
            .map(|part| u32::from_str_radix(part, 16).unwrap())
            .collect();
        let [leaf, subleaf, eax, ebx, ecx, edx] = numbers[..] else {
            panic!("not a line of a dump: {line}");
        };
        ((leaf, subleaf), CpuIdResult { eax, ebx, ecx, edx })
    };
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let leaves: Rc<HashMap<(u32, u32), CpuIdResult>> = Rc::new(lines.map(line).collect());
    let zero = CpuIdResult {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
    move |leaf: u32, subleaf: u32| leaves.get(&(leaf, subleaf)).copied().unwrap_or(zero)
}

macro_rules! dump {
    ($name:literal) => {
        recorded(include_str!(concat!("../../tests/dumps/", $name, ".txt")))
    };
}

/// Interface, counters, width, and the event that counts walks.
fn seen(cpuid: &impl CpuIdReader) -> (Interface, u8, u8, Option<u16>) {
    let unit = Unit::detect(cpuid).unwrap();
    let walks = |event: &Event| matches!(event.metric, Metric::LoadWalks | Metric::Walks);
    let event = unit.all().find(walks).map(|event| event.select.event);
    (unit.interface, unit.counters, unit.width, event)
}

#[test]
fn real_cpus_are_recognised() {
    use Interface::{AmdCore, AmdV2, Architectural};
    assert_eq!(
        seen(&dump!("skylake-server")),
        (Architectural(4), 4, 48, Some(0x08))
    );
    assert_eq!(
        seen(&dump!("ice-lake-server")),
        (Architectural(5), 8, 48, Some(0x08))
    );
    assert_eq!(
        seen(&dump!("sapphire-rapids")),
        (Architectural(5), 8, 48, Some(0x12))
    );
    assert_eq!(
        seen(&dump!("emerald-rapids")),
        (Architectural(5), 8, 48, Some(0x12))
    );
    assert_eq!(
        seen(&dump!("granite-rapids")),
        (Architectural(5), 8, 48, Some(0x12))
    );
    assert_eq!(seen(&dump!("zen-2")), (AmdCore, 6, 48, Some(0x45)));
    assert_eq!(seen(&dump!("zen-3")), (AmdCore, 6, 48, Some(0x45)));
    assert_eq!(seen(&dump!("zen-4")), (AmdV2, 6, 48, Some(0x45)));
    assert_eq!(seen(&dump!("zen-5")), (AmdV2, 6, 48, Some(0x45)));
}

#[test]
fn cores_of_a_hybrid_cpu_differ() {
    use Interface::Architectural;
    // Leaf 0AH has what all kinds of core have: six counters.
    assert_eq!(
        seen(&dump!("alder-lake-p-core")),
        (Architectural(5), 6, 48, Some(0x12))
    );
    // Leaf 23H has this core's own ten, of which eight are looked at.
    assert_eq!(
        seen(&dump!("lunar-lake-p-core")),
        (Architectural(6), 8, 48, Some(0x12))
    );
    let efficient = Unit::detect(&dump!("alder-lake-e-core")).unwrap();
    assert_eq!(
        efficient.events,
        Err(Absence::UnknownCore {
            family: 6,
            model: 0x97
        })
    );
    let metrics: Vec<_> = efficient.all().map(|event| event.metric).collect();
    assert_eq!(metrics, [Metric::Cycles, Metric::Instructions]);
}

#[test]
fn emulators_and_guests_are_told_apart_from_cpus() {
    let tcg = recorded(include_str!(
        "../../../vcpu-policy/tests/dumps/qemu-tcg-7.2-max.txt"
    ));
    let unit = Unit::detect(&tcg).unwrap();
    // AMD's first counters need no bit in CPUID: whether they are there, only trying them tells.
    assert_eq!((unit.interface, unit.core()), (Interface::AmdLegacy, "unknown"));
    let guest = recorded(include_str!(
        "../../../vcpu-policy/tests/dumps/xeon-under-kvm.txt"
    ));
    assert_eq!(Unit::detect(&guest), Err(Absence::NotAdvertised));
    assert_eq!(Unit::detect(&recorded("")), Err(Absence::Vendor));
}

#[test]
fn registers_are_those_of_the_manuals() {
    let intel = Unit::detect(&dump!("sapphire-rapids")).unwrap();
    assert_eq!(
        (intel.select(3), intel.count(3), intel.switch()),
        (0x189, 0xc4, Some(0x38f))
    );
    let zen_3 = Unit::detect(&dump!("zen-3")).unwrap();
    assert_eq!(
        (zen_3.select(5), zen_3.count(5), zen_3.switch()),
        (0xc001_020a, 0xc001_020b, None)
    );
    let zen_4 = Unit::detect(&dump!("zen-4")).unwrap();
    assert_eq!(zen_4.switch(), Some(0xc000_0301));
    let text = recorded("0 0: 1 68747541 444d4163 69746e65\n1 0: 00830f10 0 0 0");
    let legacy = Unit::detect(&text).unwrap();
    assert_eq!((legacy.select(3), legacy.count(3)), (0xc001_0003, 0xc001_0007));
}

#[test]
fn events_that_cpuid_says_are_missing_are_not_asked_for() {
    let of = |ebx: &str, length: &str| {
        let text = std::format!(
            "0 0: a 756e6547 6c65746e 49656e69\n1 0: 000806f8 0 0 0\na 0: {length}300402 {ebx} 0 0"
        );
        let unit = Unit::detect(&recorded(&text)).unwrap();
        unit.all().take(2).map(|event| event.metric).collect::<Vec<_>>()
    };
    assert_eq!(of("0", "08"), [Metric::Cycles, Metric::Instructions]);
    assert_eq!(of("1", "08"), [Metric::Instructions, Metric::LoadWalks4K]);
    // The vector has one bit, so nothing is said of instructions.
    assert_eq!(of("0", "01"), [Metric::Cycles, Metric::LoadWalks4K]);
}

#[test]
fn absence_has_a_reason() {
    let core = Absence::UnknownCore {
        family: 0xf,
        model: 0x6b,
    };
    assert!(core.to_string().contains("family 0FH, model 6BH"));
}

proptest! {
    #[test]
    fn no_answer_of_cpuid_is_too_much(seed in any::<u32>(), vendor in 0..3_usize, all in any::<bool>()) {
        let names = [[0x756e_6547, 0x6c65_746e, 0x4965_6e69], [0x6874_7541, 0x444d_4163, 0x6974_6e65], [1, 2, 3]];
        let reader = move |leaf: u32, subleaf: u32| {
            let any = |number: u32| if all { u32::MAX } else { (seed ^ leaf).rotate_left(subleaf + number).wrapping_mul(0x9e37_79b9) };
            let [ebx, ecx, edx] = names[vendor];
            match leaf {
                0 => CpuIdResult { eax: any(0), ebx, ecx, edx },
                _ => CpuIdResult { eax: any(0), ebx: any(1), ecx: any(2), edx: any(3) },
            }
        };
        if let Ok(unit) = Unit::detect(&reader) {
            prop_assert!(unit.usable() <= unit.counters && unit.counters <= MOST_COUNTERS);
            prop_assert!(unit.all().count() <= crate::MOST_EVENTS);
        }
    }
}
