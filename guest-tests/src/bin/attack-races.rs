//! Four vCPUs change ranges of every shape at the same time, each in its own part of the memory. Parts begin and end in the middle of 2 MiB, so that
//! neighbours share tables with what others change: each finds all of its part as it left it, whatever happens around. Then all four make the
//! same change of the same pages at the same time, and exactly one of them succeeds.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::HypercallError;
use guest_tests::hypercall::{report, yield_now};
use guest_tests::{LaunchInfo, Pattern, launch, launch_info, main, memory, println, sharing, vcpu};

launch!("memory=24M,vcpus=4,limit=120s");
main!(run);

const VCPUS: u64 = 4;
const PAGE: u64 = 4 << 10;
const REGION: u64 = 2 << 20;
/// Bytes of a part.
const PART: u64 = 2 * REGION + 2 * PAGE;
/// First byte and length of the ranges in a part: those that the field tests, and odd ones up to the part's end.
const RANGES: [(u64, u64); 8] = [
    (0, PAGE),
    (0, REGION),
    (PAGE, PAGE),
    (PAGE, REGION),
    (REGION, PAGE),
    (3 * PAGE, 5 * PAGE),
    (REGION - PAGE, 2 * PAGE),
    (REGION + PAGE, REGION + PAGE),
];
/// Pages for which all race, across the border of 2 MiB, and how often.
const RACED: u64 = 3;
const RACES: u64 = 8;

/// How many vCPUs have come to each meeting so far, all meetings together.
static MET: AtomicU64 = AtomicU64::new(0);
/// Calls that succeeded in the races.
static WON: AtomicU64 = AtomicU64::new(0);
/// Calls that were refused because another vCPU was changing the memory.
static BUSY: AtomicU64 = AtomicU64::new(0);

type Call = fn(u64, u64) -> Result<(), HypercallError>;

fn run(_: &LaunchInfo) {
    sharing::map();
    for number in 1..VCPUS {
        assert_eq!(vcpu::start(further, number), Ok(()));
    }
    work(0);
    let won = WON.load(Ordering::Relaxed);
    assert_eq!(won, 3 * RACES, "of {RACES} races for three changes each");
    println!(
        "{VCPUS} vCPUs changed {} ranges each; {won} races were won",
        RANGES.len()
    );
    report("busy", BUSY.load(Ordering::Relaxed));
}

extern "C" fn further(number: u64) -> ! {
    work(number);
    loop {
        yield_now();
    }
}

fn work(number: u64) {
    let mut meetings = 0;
    let mut meet = || {
        meetings += 1;
        MET.fetch_add(1, Ordering::AcqRel);
        while MET.load(Ordering::Acquire) < meetings * VCPUS {
            yield_now();
        }
    };
    meet();
    change(number);
    meet();
    // All parts are as they were, so this page is nobody's in particular.
    let start = sharing::area(VCPUS * PART).start() + REGION - PAGE;
    for _ in 0..RACES {
        for call in [sharing::share as Call, sharing::unshare, sharing::accept] {
            match persist(|| call(start, RACED * PAGE)) {
                Ok(()) => WON.fetch_add(1, Ordering::Relaxed),
                // Somebody was first.
                Err(HypercallError::WrongState) => 0,
                Err(error) => panic!("vCPU {number} in a race: {error}"),
            };
            meet();
        }
    }
}

/// All ranges of the part of the vCPU with this number.
fn change(number: u64) {
    let info = launch_info();
    let pattern = Pattern::new(info.seed);
    let Some(part) = sharing::area(VCPUS * PART).sub(number * PART, PART) else {
        panic!("the area has no part {number}");
    };
    part.fill(&pattern, info.instance);
    // One word in each page, another in the next.
    let words = || {
        (0..PART)
            .step_by(PAGE as usize)
            .map(|at| at + at / PAGE % 512 * 8)
    };
    for (offset, bytes) in RANGES {
        let inside = |at: u64| (offset..offset + bytes).contains(&at);
        let first = part.start() + offset;
        let insist = |what: &str, call: Call| {
            if let Err(error) = persist(|| call(first, bytes)) {
                panic!("vCPU {number}: {what} of {bytes:#x} bytes at {first:#x}: {error}");
            }
        };
        let look = |mark: bool| {
            for at in words() {
                let gpa = part.start() + at;
                let (address, expected) = match (inside(at), mark) {
                    (false, _) => (gpa, pattern.word(info.instance, gpa)),
                    (true, true) => (sharing::shown(gpa), pattern.word(!info.instance, gpa)),
                    (true, false) => (sharing::shown(gpa), 0),
                };
                // SAFETY: reading what this vCPU has has no effect.
                let found = unsafe { memory::load(address) };
                assert!(
                    found == expected,
                    "vCPU {number}: {found:#x} instead of {expected:#x} at {gpa:#x}"
                );
            }
        };
        insist("share", sharing::share);
        look(false);
        for at in words().filter(|at| inside(*at)) {
            let gpa = part.start() + at;
            // SAFETY: the page is shared, and only this vCPU uses it.
            unsafe { memory::store(sharing::shown(gpa), pattern.word(!info.instance, gpa)) };
        }
        look(true);
        insist("unshare", sharing::unshare);
        insist("accept", sharing::accept);
        let Some(back) = part.sub(offset, bytes) else {
            panic!("a range is larger than its part");
        };
        if let Some(found) = back.first_nonzero() {
            panic!("vCPU {number}: {found:x?} came back");
        }
        back.fill(&pattern, info.instance);
        if let Some(found) = part.first_foreign(&pattern, info.instance, 1000) {
            panic!("vCPU {number}: {found:x?} after {bytes:#x} bytes at {first:#x}");
        }
    }
}

/// Makes a call again until no other vCPU is in its way.
fn persist(call: impl Fn() -> Result<(), HypercallError>) -> Result<(), HypercallError> {
    loop {
        match call() {
            Err(HypercallError::Busy) => {
                BUSY.fetch_add(1, Ordering::Relaxed);
                yield_now();
            }
            result => return result,
        }
    }
}
