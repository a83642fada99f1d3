//! Every call that changes a page, in every state of the page: done or refused as the ABI says; what is refused changes nothing. So is what is
//! not the guest's: absent and device addresses, addresses above its own, ranges that wrap or are partly wrong.
#![no_std]
#![no_main]

use guest_abi::{Arguments, HypercallError, number};
use guest_tests::{LaunchInfo, Pattern, hypercall, launch, main, memory, println, sharing};

launch!("memory=8M");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;

type Call = fn(u64, u64) -> Result<(), HypercallError>;
const CALLS: [(&str, Call); 7] = [
    ("share", sharing::share),
    ("unshare", sharing::unshare),
    ("accept", sharing::accept),
    ("share in place", sharing::share_in_place),
    ("unshare in place", sharing::unshare_in_place),
    ("give back", sharing::give_back),
    ("take again", sharing::take_again),
];

fn run(info: &LaunchInfo) {
    sharing::map();
    let pattern = Pattern::new(info.seed);
    let area = sharing::area(2 * REGION);
    area.fill(&pattern, info.instance);
    let at = area.start();
    states(at, PAGE);
    states(at, REGION);
    // What follows is refused, all of it.
    area.fill(&pattern, info.instance);
    assert_eq!(sharing::share(at + REGION + 7 * PAGE, PAGE), Ok(()));
    partly_wrong(at);
    not_its_memory(info.memory_bytes, at);
    let hole = area.start() + REGION + 7 * PAGE;
    for part in [
        area.sub(0, REGION + 7 * PAGE),
        area.sub(REGION + 8 * PAGE, REGION - 8 * PAGE),
    ] {
        let changed = part.and_then(|part| part.first_foreign(&pattern, info.instance, 8));
        assert!(changed.is_none(), "a call that was refused has left {changed:x?}");
    }
    assert_eq!(sharing::unshare(hole, PAGE), Ok(()));
    assert_eq!(sharing::accept(hole, PAGE), Ok(()));
    println!("every page did what its state says");
}

/// Convert twice, accept twice, accept what was never given up.
fn states(at: u64, bytes: u64) {
    let wrong = Err(HypercallError::WrongState);
    let expect = |step: &str, expected: [Result<(), HypercallError>; 7]| {
        // Those that are refused first: they must change nothing.
        for ((name, call), expected) in CALLS
            .iter()
            .zip(expected)
            .filter(|(_, expected)| expected.is_err())
        {
            assert_eq!(call(at, bytes), expected, "{name} when {step}");
        }
        // Of those that are done the first.
        if let Some((name, call)) = CALLS
            .iter()
            .zip(expected)
            .find_map(|(call, expected)| expected.is_ok().then_some(call))
        {
            assert_eq!(call(at, bytes), Ok(()), "{name} when {step}");
        }
    };
    expect("accepted", [Ok(()), wrong, wrong, Ok(()), wrong, Ok(()), wrong]);
    expect("shared", [wrong, Ok(()), wrong, wrong, wrong, wrong, wrong]);
    // Pending: to be accepted, shared again at once, or given back.
    expect("pending", [Ok(()), wrong, Ok(()), wrong, wrong, Ok(()), wrong]);
    expect("shared again", [wrong, Ok(()), wrong, wrong, wrong, wrong, wrong]);
    for (name, call) in [CALLS[1], CALLS[3], CALLS[4], CALLS[6]] {
        assert_eq!(call(at, bytes), wrong, "{name} when pending");
    }
    assert_eq!(sharing::accept(at, bytes), Ok(()), "accept when pending");
    assert_eq!(sharing::accept(at, bytes), wrong, "accept twice");
    // SAFETY: reading the guest's own memory has no effect.
    assert_eq!(unsafe { memory::load(at) }, 0, "what was accepted is zero");
    in_place(at, bytes);
    absent(at, bytes);
}

/// There and back, with what the pages hold; twice is refused either way.
fn in_place(at: u64, bytes: u64) {
    let wrong = Err(HypercallError::WrongState);
    let last = at + bytes - 8;
    // SAFETY: the pages are the guest's own, and free.
    unsafe { memory::store(last, 0x600d) };
    assert_eq!(sharing::share_in_place(at, bytes), Ok(()));
    for (name, call) in CALLS.iter().filter(|(name, _)| *name != "unshare in place") {
        assert_eq!(call(at, bytes), wrong, "{name} when shared in place");
    }
    // SAFETY: as above, at the shared alias.
    unsafe {
        assert_eq!(
            memory::load(sharing::shown(last)),
            0x600d,
            "lost on the way to the shared alias"
        );
        memory::store(sharing::shown(last), 0xbe77e4);
    }
    assert_eq!(sharing::unshare_in_place(at, bytes), Ok(()));
    assert_eq!(
        sharing::unshare_in_place(at, bytes),
        wrong,
        "unshare in place twice"
    );
    assert_eq!(sharing::accept(at, bytes), wrong, "accept after being in place");
    // SAFETY: as above.
    assert_eq!(unsafe { memory::load(last) }, 0xbe77e4, "lost on the way back");
}

/// Given back, when accepted and when pending; taken again, each refused when it is done already.
fn absent(at: u64, bytes: u64) {
    let wrong = Err(HypercallError::WrongState);
    let last = at + bytes - 8;
    // SAFETY: the pages are the guest's own, and free.
    unsafe { memory::store(last, 0xab5e47) };
    for step in ["accepted", "pending"] {
        assert_eq!(sharing::give_back(at, bytes), Ok(()), "give back when {step}");
        for (name, call) in CALLS.iter().filter(|(name, _)| *name != "take again") {
            assert_eq!(call(at, bytes), wrong, "{name} when absent");
        }
        assert_eq!(sharing::take_again(at, bytes), Ok(()), "take again when absent");
        assert_eq!(sharing::take_again(at, bytes), wrong, "take again twice");
    }
    assert_eq!(sharing::accept(at, bytes), Ok(()), "accept what was taken again");
    // SAFETY: as above.
    assert_eq!(unsafe { memory::load(last) }, 0, "what was taken again is zero");
}

/// One shared page among private ones, at the end, in the middle, at the start.
fn partly_wrong(at: u64) {
    let shared = at + REGION + 7 * PAGE;
    for (start, end) in [
        (at, shared + PAGE),
        (at, at + 2 * REGION),
        (shared, at + 2 * REGION),
    ] {
        for (name, call) in CALLS {
            assert_eq!(
                call(start, end - start),
                Err(HypercallError::WrongState),
                "{name} {start:#x}"
            );
        }
    }
}

fn not_its_memory(memory_bytes: u64, own: u64) {
    let shared_bit = sharing::shared_bit();
    let last = u64::MAX - PAGE + 1;
    let ranges = [
        // Absent, and partly so.
        (memory_bytes, PAGE),
        (memory_bytes - PAGE, 2 * PAGE),
        (0, memory_bytes + PAGE),
        (own, 1 << 46),
        // Local APIC, I/O APIC, HPET, firmware.
        (0xfee0_0000, PAGE),
        (0xfec0_0000, PAGE),
        (0xfed0_0000, PAGE),
        (0xffff_f000, PAGE),
        // The shared alias, and above it.
        (shared_bit | own, PAGE),
        (shared_bit << 1 | own, PAGE),
        (1 << 63 | own, PAGE),
        (last - PAGE, PAGE),
        // Wrapping, empty, odd.
        (last, PAGE),
        (last, 2 * PAGE),
        (own, last),
        (own, u64::MAX - own + 1),
        (own, 0),
        (own, PAGE - 1),
        (own + 1, PAGE),
        (own + 8, PAGE),
        (own, PAGE + 8),
    ];
    for (start, bytes) in ranges {
        for call in [
            number::SHARE,
            number::UNSHARE,
            number::ACCEPT,
            number::SHARE_IN_PLACE,
            number::UNSHARE_IN_PLACE,
            number::GIVE_BACK,
            number::TAKE_AGAIN,
        ] {
            let arguments = Arguments {
                rdi: start,
                rsi: bytes,
                ..Arguments::default()
            };
            assert_eq!(
                hypercall::raw(call, &arguments),
                HypercallError::BadRange.code(),
                "call {call} of {bytes:#x} bytes at {start:#x}"
            );
        }
    }
}
