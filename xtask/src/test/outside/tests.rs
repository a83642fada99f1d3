//! The look accepts what is right and refuses what is wrong in one point.

use tools::LeafRecord;
use tools::audit::Pa;

use super::*;
use crate::preflight::Cpu;

const REGION: u64 = 2 << 20;

fn leaf(number: u64) -> LeafRecord {
    LeafRecord {
        va: number * REGION,
        pa: number * REGION,
        bytes: REGION,
        attributes: "rw".into(),
        accessed: false,
        dirty: false,
    }
}

fn moment(leaves: impl IntoIterator<Item = u64>) -> Moment {
    let dump = LeafDump {
        root: 0,
        leaves: leaves.into_iter().map(leaf).collect(),
    };
    Moment {
        dump,
        hits: Vec::new(),
        private: Vec::new(),
        shared: Vec::new(),
        stray: Vec::new(),
        reached: Vec::new(),
        sees_image: true,
    }
}

const HIT: Hit = Hit {
    pa: REGION,
    instance: 1,
    gpa: 0x1000,
    words: 8,
};

/// A good run: region 1 is private while guests live.
fn good() -> [Moment; 3] {
    let mut guests = moment([0, 2]);
    guests.hits.push(HIT);
    guests.private.push(Frames {
        start: REGION,
        end: 2 * REGION,
        owner: 1,
    });
    [moment(0..3), guests, moment(0..3)]
}

fn conclude(moments: [Moment; 3], hidden_mib: u64) -> String {
    let mut look = Look::new(Kind::Tcg, Path::new("ram"), 1);
    look.moments = ["boot", "guests", "after"]
        .map(str::to_owned)
        .into_iter()
        .zip(moments)
        .collect();
    let line = format!(
        r#"{{"event":"phase","phase":"guests","leaves":{{"g1":0,"m2":2,"k4":0}},"hidden_mib":{hidden_mib},"gigablocks":[]}}"#
    );
    look.conclude(&Report::parse(line.as_bytes()))
        .err()
        .unwrap_or_default()
}

/// The good run with one moment spoilt.
fn spoilt(at: usize, spoil: impl FnOnce(&mut Moment)) -> String {
    let mut moments = good();
    spoil(&mut moments[at]);
    conclude(moments, 2)
}

#[test]
fn a_good_run_is_accepted() {
    assert_eq!(conclude(good(), 2), "");
}

#[test]
fn what_must_not_be_is_found() {
    let reach = Reach {
        va: Va::new(REGION),
        pa: Pa::new(REGION),
        owner: 1,
        table: None,
    };
    assert!(spoilt(1, |m| m.reached.push(reach)).contains("at guests the host reaches private memory"));
    assert!(spoilt(0, |m| m.hits.push(HIT)).contains("at boot there is a guest's pattern"));
    assert!(spoilt(2, |m| m.hits.push(HIT)).contains("after teardown 1 pieces"));
    assert!(spoilt(1, |m| m.stray.push(HIT)).contains("outside its memory"));
    assert!(spoilt(1, |m| m.shared.push("a frame".into())).contains("at guests a frame"));
    assert!(spoilt(2, |m| m.dump.leaves.truncate(2)).contains("differ from those at boot in 1 places"));
    assert!(spoilt(1, |m| m.dump.leaves.push(leaf(1))).contains("less than at boot"));
}

#[test]
fn a_look_that_sees_nothing_is_no_proof() {
    assert!(spoilt(1, |m| m.hits.clear()).contains("their pattern is nowhere"));
    assert!(spoilt(2, |m| m.sees_image = false).contains("does not even find"));
    assert!(conclude(good(), 4).contains("the report says Some(4194304)"));
    let look = Look::new(Kind::Tcg, Path::new("ram"), 1);
    assert!(
        look.conclude(&Report::default())
            .unwrap_err()
            .contains("did not pause at `boot`")
    );
}

#[test]
fn a_mistake_must_be_found_for_what_it_is() {
    assert_eq!(
        found("after teardown", Err("after teardown 1 piece".into())),
        Ok(())
    );
    let other = found("after teardown", Err("at boot".into())).unwrap_err();
    assert!(
        other.contains("something else") && other.contains("at boot"),
        "{other}"
    );
    assert!(
        found("after teardown", Ok(()))
            .unwrap_err()
            .contains("does not find")
    );
}

#[test]
fn intel_s_guests_under_kvm_are_not_looked_for() {
    let host = |svm, vmx| {
        Host::offering(Cpu {
            vendor: String::new(),
            svm,
            npt: svm,
            vmx,
        })
    };
    let reason = obstacle(Kind::Kvm, &host(false, true)).unwrap();
    assert!(reason.contains("a format of its own"), "{reason}");
    assert_eq!(obstacle(Kind::Kvm, &host(true, false)), None);
    assert_eq!(obstacle(Kind::Tcg, &host(false, true)), None);
}

#[test]
fn words_for_registers_may_lie_in_the_host() {
    let extent = Frames {
        start: REGION,
        end: 2 * REGION,
        owner: 1,
    };
    let register = Hit {
        pa: 5 * REGION,
        gpa: REGISTERS,
        ..HIT
    };
    assert_eq!(private(&[HIT, register], vec![extent]), (vec![extent], vec![]));
    let stray = Hit {
        pa: 5 * REGION,
        ..HIT
    };
    let (frames, found) = private(&[HIT, stray], vec![extent]);
    assert_eq!(found, [stray]);
    assert_eq!(frames.len(), 2);
    // Words that begin in the extent and go on behind it.
    let crossing = Hit {
        pa: 2 * REGION - 8,
        ..HIT
    };
    assert_eq!(private(&[crossing], vec![extent]).1, [crossing]);
}
