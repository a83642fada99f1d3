use super::super::controls::Field;
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::string::ToString;
use std::vec::Vec;

/// Bochs 2.7, model corei7_skylake_x, as read there.
const SKYLAKE_X: CapabilityMsrs = CapabilityMsrs {
    feature_control: 0x5,
    basic: 0xd8_1000_0000_002b,
    controls: ControlCapabilities {
        pin: 0x7f_0000_0016,
        primary: 0xf7f9_fffe_0400_6172,
        secondary: 0x0217_7fff_0000_0000,
        exit: 0x7f_ffff_0003_6dfb,
        entry: 0xffff_0000_11fb,
    },
    misc: 0x6004_01e0,
    ept_vpid: 0xf01_0633_4141,
    cr0_fixed0: 0x8000_0021,
    cr0_fixed1: 0xffff_ffff,
    cr4_fixed0: 0x2000,
    cr4_fixed1: 0x37_27ff,
};
/// The host's registers at that time: PE, MP, ET, NE, WP, PG; PAE, MCE, SMEP, SMAP.
const CR0: u64 = 0x8001_0033;
const CR4: u64 = 0x30_0060;

fn check(msrs: &CapabilityMsrs) -> Result<Capabilities, Lack> {
    Capabilities::check(msrs, CR0, CR4)
}

#[test]
fn what_bochs_offers_is_enough_and_all_of_it_is_used() {
    let found = check(&SKYLAKE_X).unwrap();
    assert_eq!(found.revision, 0x2b);
    assert_eq!(found.vpid, Some(Vpid { single: true }));
    assert!(found.invept_single);
    assert_eq!(found.timer_shift, Some(0));
    // By hand from SDM vol. 3C, tables 25-5 to 25-15: what must be 1 there, and the bits that guests need.
    let controls = found.controls;
    assert_eq!(controls.pin, 0x16 | 1 << 0 | 1 << 3 | 1 << 6);
    let exits = 1 << 7 | 1 << 10 | 1 << 11 | 1 << 19 | 1 << 20 | 1 << 24 | 1 << 28 | 1 << 29 | 1 << 31;
    assert_eq!(controls.primary, 0x0400_6172 | exits);
    assert_eq!(controls.secondary, 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7);
    assert_eq!(
        controls.exit,
        0x3_6dfb | 1 << 2 | 1 << 9 | 1 << 20 | 1 << 21 | 1 << 22
    );
    assert_eq!(controls.entry, 0x11fb | 1 << 2 | 1 << 9 | 1 << 15);
}

/// Takes something away.
type Change = fn(&mut CapabilityMsrs);

#[test]
fn each_thing_that_guests_need_is_named_when_it_is_missing() {
    let without = |change: Change| {
        let mut msrs = SKYLAKE_X;
        change(&mut msrs);
        check(&msrs).unwrap_err()
    };
    let missing = |field, bit: u32| Lack::Control(ControlError::Missing(field, 1_u32 << bit));
    let cases: [(Change, Lack); 12] = [
        (|msrs| msrs.feature_control = 1, Lack::DisabledByFirmware),
        (|msrs| msrs.basic |= 1 << 48, Lack::VmcsRegions),
        (|msrs| msrs.basic &= !(0xf << 50), Lack::VmcsRegions),
        (
            |msrs| msrs.controls.primary &= !(1 << 63),
            missing(Field::Primary, 31),
        ),
        (
            |msrs| msrs.controls.secondary &= !(1 << 33),
            missing(Field::Secondary, 1),
        ),
        (
            |msrs| msrs.controls.secondary &= !(1 << 39),
            missing(Field::Secondary, 7),
        ),
        (|msrs| msrs.controls.exit &= !(1 << 53), missing(Field::Exit, 21)),
        (
            |msrs| msrs.controls.entry &= !(1 << 47),
            missing(Field::Entry, 15),
        ),
        (
            |msrs| msrs.ept_vpid &= !(1 << 6),
            Lack::Ept("tables of four levels"),
        ),
        (|msrs| msrs.ept_vpid &= !(1 << 14), Lack::Ept("write-back tables")),
        (|msrs| msrs.ept_vpid &= !(1 << 16), Lack::Ept("2M leaves")),
        (|msrs| msrs.ept_vpid &= !(0b11 << 25), Lack::Ept("INVEPT")),
    ];
    for (change, lack) in cases {
        assert_eq!(without(change), lack);
        // Every message says what to do.
        let text = lack.to_string();
        assert!(
            text.contains(": use an Intel CPU") || text.contains("enable VT-x"),
            "{text}"
        );
    }
    assert_eq!(
        Capabilities::check(&SKYLAKE_X, CR0, CR4 | 1 << 24),
        Err(Lack::HostRegister("CR4", 1 << 24))
    );
    assert_eq!(
        Capabilities::check(&SKYLAKE_X, CR0 | 1 << 40, CR4),
        Err(Lack::HostRegister("CR0", 1 << 40))
    );
}

#[test]
fn what_only_saves_work_may_be_missing() {
    let mut msrs = SKYLAKE_X;
    msrs.feature_control = 0;
    msrs.controls.pin &= !(1 << (32 + 6));
    msrs.ept_vpid &= !(1 << 25 | 0b11 << 41);
    let found = check(&msrs).unwrap();
    assert!(!found.invept_single);
    assert_eq!((found.vpid, found.timer_shift), (None, None));
    assert_eq!(found.controls.secondary & 1 << 5, 0, "a tag that nothing flushes");
    assert_eq!(
        (found.controls.pin & 1 << 6, found.controls.exit & 1 << 22),
        (0, 0)
    );
    // Only the flush of all tags.
    let mut msrs = SKYLAKE_X;
    msrs.ept_vpid &= !(1 << 41);
    assert_eq!(check(&msrs).unwrap().vpid, Some(Vpid { single: false }));
}

#[test]
fn only_registers_that_exist_are_read() {
    let read = |registers: &[(u32, u64)]| {
        let registers: HashMap<u32, u64> = registers.iter().copied().collect();
        let mut asked = Vec::new();
        CapabilityMsrs::read(|msr| {
            asked.push(msr);
            registers.get(&msr).copied().unwrap_or(0)
        });
        asked.sort_unstable();
        asked
    };
    // The first CPUs: no TRUE controls, no secondary ones.
    assert_eq!(
        read(&[]),
        [
            0x3a, 0x480, 0x481, 0x482, 0x483, 0x484, 0x485, 0x486, 0x487, 0x488, 0x489
        ]
    );
    // Secondary controls without EPT and VPID.
    assert!(!read(&[(0x482, 1 << 63)]).contains(&0x48c));
    let all = read(&[(0x480, 1 << 55), (0x48e, 1 << 63), (0x48b, 1 << 33)]);
    assert_eq!(
        all,
        [
            0x3a, 0x480, 0x485, 0x486, 0x487, 0x488, 0x489, 0x48b, 0x48c, 0x48d, 0x48e, 0x48f, 0x490
        ]
    );
}

proptest! {
    /// Whatever a CPU lacks beside Bochs' model, it is refused by name or gets controls that it takes.
    #[test]
    fn any_subset_is_refused_or_usable(pin: u32, primary: u32, secondary: u32, exit: u32, entry: u32, ept_vpid: u64) {
        let mut msrs = SKYLAKE_X;
        // Mostly ones, so that some pass.
        let mask = |bits: u32| u64::from(bits | bits.rotate_left(7) | bits.rotate_left(15)) << 32 | 0xffff_ffff;
        let must = |capability: u64| (capability & 0xffff_ffff) << 32;
        let controls = &mut msrs.controls;
        for (capability, bits) in [
            (&mut controls.pin, pin),
            (&mut controls.primary, primary),
            (&mut controls.secondary, secondary),
            (&mut controls.exit, exit),
            (&mut controls.entry, entry),
        ] {
            *capability &= mask(bits) | must(*capability);
        }
        msrs.ept_vpid &= ept_vpid | ept_vpid.rotate_left(9);
        if let Ok(found) = check(&msrs) {
            let controls = msrs.controls;
            for (value, capability) in [
                (found.controls.pin, controls.pin),
                (found.controls.primary, controls.primary),
                (found.controls.secondary, controls.secondary),
                (found.controls.exit, controls.exit),
                (found.controls.entry, controls.entry),
            ] {
                prop_assert_eq!(u64::from(value) & !(capability >> 32), 0);
                prop_assert_eq!(capability as u32 & !value, 0);
            }
            prop_assert_eq!(found.vpid.is_some(), found.controls.has_vpid());
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let lack = Lack::Control(ControlError::Missing(Field::Secondary, 0x82));
    let text = lack.to_string();
    assert!(text.contains("ENABLE_EPT | UNRESTRICTED_GUEST"), "{text}");
    assert!(
        text.contains("(0x82)") && text.contains("load kvm_intel with ept=1"),
        "{text}"
    );
}
