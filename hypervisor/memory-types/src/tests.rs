//! Registers as firmware sets them, and the rules against a byte-by-byte reading.

use super::*;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

/// A valid pair for a range whose size is a power of two.
fn pair(start: u64, bytes: u64, kind: u8, bits: u8) -> Variable {
    Variable {
        base: start | u64::from(kind),
        mask: ((1_u64 << bits) - bytes) | VALID,
    }
}

fn registers(default: u64, pairs: &[Variable]) -> Registers {
    let mut variable = [Variable::default(); MAX_VARIABLE];
    variable[..pairs.len()].copy_from_slice(pairs);
    Registers {
        default,
        fixed: None,
        variable,
        top_of_memory: None,
        physical_bits: 40,
    }
}

fn spans(registers: &Registers) -> Vec<(u64, u64)> {
    let spans = registers.not_write_back().unwrap();
    spans.map(|span| (span.start.get(), span.end.get())).collect()
}

#[test]
fn switched_off_they_say_nothing() {
    assert_eq!(spans(&registers(0, &[])), []);
    assert_eq!(spans(&registers(FIXED_ENABLED, &[pair(0, GIB, 0, 40)])), []);
}

#[test]
fn write_back_by_default_with_a_hole_below_4_gib() {
    // SeaBIOS on QEMU's q35 with 4 GiB.
    let registers = registers(ENABLED | 6, &[pair(0x8000_0000, 2 * GIB, 0, 40)]);
    assert_eq!(spans(&registers), [(0x8000_0000, 4 * GIB)]);
}

#[test]
fn uncacheable_by_default_with_ram_listed() {
    let registers = registers(
        ENABLED,
        &[
            pair(0, 2 * GIB, 6, 40),
            pair(2 * GIB, GIB, 6, 40),
            // The last 256 MiB of these three are taken back.
            pair(3 * GIB - (256 << 20), 256 << 20, 0, 40),
            pair(4 * GIB, 4 * GIB, 6, 40),
        ],
    );
    assert_eq!(
        spans(&registers),
        [(3 * GIB - (256 << 20), 4 * GIB), (8 * GIB, 1 << 40)]
    );
}

#[test]
fn the_first_mib_has_ranges_of_its_own() {
    let wb = 0x0606_0606_0606_0606;
    let mut fixed = [wb; FIXED];
    fixed[2] = 0; // 0xa0000 to 0xc0000
    fixed[3] = 0x0606_0606_0606_0005; // 0xc0000: 5, 0xc1000: 0
    fixed[10] = 0x0006_0606_0606_0606; // 0xff000
    let mut registers = registers(ENABLED | FIXED_ENABLED | 6, &[]);
    registers.fixed = Some(fixed);
    assert_eq!(spans(&registers), [(0xa_0000, 0xc_2000), (0xf_f000, 0x10_0000)]);
    fixed[0] = 0x0006_0606_0606_0606; // 0x70000
    fixed[1] = 0x0600_0606_0606_0606; // 0x98000
    registers.fixed = Some(fixed);
    assert_eq!(
        spans(&registers)[..2],
        [(0x7_0000, 0x8_0000), (0x9_8000, 0x9_c000)]
    );
    registers.default = ENABLED | 6;
    assert_eq!(spans(&registers), [], "they can be switched off alone");
}

#[test]
fn amd_has_ram_above_4_gib_without_a_range() {
    let mut registers = registers(ENABLED, &[pair(0, 2 * GIB, 6, 40)]);
    registers.top_of_memory = Some(Hpa::new(9 * GIB));
    assert_eq!(spans(&registers), [(2 * GIB, 4 * GIB), (9 * GIB, 1 << 40)]);
}

#[test]
fn overlaps() {
    let types = |one, other| {
        let registers = registers(ENABLED | 6, &[pair(0, GIB, one, 40), pair(0, GIB, other, 40)]);
        registers.kind(0)
    };
    assert_eq!(types(6, 6), 6);
    assert_eq!(types(6, 4), 4);
    assert_eq!(types(4, 6), 4);
    assert_eq!(types(6, 0), 0);
    assert_eq!(types(1, 6), 0);
}

#[test]
fn a_mask_with_holes_is_refused() {
    let mut pair = pair(0, GIB, 0, 40);
    pair.mask &= !(1 << 35);
    let mut registers = registers(ENABLED | 6, &[Variable::default(), pair]);
    assert_eq!(registers.not_write_back().err(), Some(MaskWithHoles(1)));
    registers.variable[1].mask &= !VALID;
    assert_eq!(spans(&registers), []);
}

#[test]
fn any_values_are_survived() {
    for value in [0, 1, u64::MAX, ENABLED, u64::MAX << 12, 0x8000_0000_0000_0000] {
        for physical_bits in [0, 32, 36, 52, 255] {
            let registers = Registers {
                default: value,
                fixed: Some([value; FIXED]),
                variable: [Variable {
                    base: value,
                    mask: value,
                }; MAX_VARIABLE],
                top_of_memory: Some(Hpa::new(value & 0x000f_ffff_ffff_ffff)),
                physical_bits,
            };
            if let Ok(spans) = registers.not_write_back() {
                assert!(spans.count() < 300);
            }
        }
    }
}

proptest! {
    /// Spans ascend, do not touch, and hold exactly the addresses whose type is another than write-back.
    #[test]
    fn spans_are_what_the_types_say(
        pairs in prop::collection::vec((0_u64..64, 0_u32..6, prop::sample::select(vec![0_u8, 1, 4, 5, 6, 6, 6])), 0..6),
        default in prop::sample::select(vec![0_u64, 6]),
        top in prop::option::of(16_u64..64),
    ) {
        const UNIT: u64 = 256 << 20;
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|(start, order, kind)| pair((start >> order << order) * UNIT, UNIT << order, kind, 36))
            .collect();
        let mut registers = registers(ENABLED | default, &pairs);
        registers.physical_bits = 36;
        registers.top_of_memory = top.map(|top| Hpa::new(top * UNIT));
        let spans = spans(&registers);
        for two in spans.windows(2) {
            prop_assert!(two[0].1 < two[1].0);
        }
        for unit in 0..256 {
            let at = unit * UNIT;
            let inside = spans.iter().any(|(start, end)| (*start..*end).contains(&at));
            prop_assert_eq!(inside, registers.kind(at) != WRITE_BACK, "{:#x}", at);
        }
    }
}
