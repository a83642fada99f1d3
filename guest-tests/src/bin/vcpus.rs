//! Four vCPUs of one guest hammer its memory at once: each fills and checks a part of its own, and all count in one shared word. No word and no
//! count is lost, and there is no fifth vCPU.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::{Hypercall, HypercallError, VcpuStart};
use guest_tests::hypercall::{self, exit, report, yield_now};
use guest_tests::memory::{self, Extent};
use guest_tests::{LaunchInfo, Pattern, launch, launch_info, main, println, vcpu};

launch!("memory=16M,vcpus=4");
main!(run);

/// vCPUs, the first included.
const VCPUS: u64 = 4;
/// Times that each fills and checks its part.
const ROUNDS: u64 = 24;
/// Rounds after which all wait for each other, so that they go on at the same time.
const MEET_AFTER: u64 = 4;
/// Looks at the others before one that waits lets somebody else have its CPU.
const LOOKS: u64 = 10_000;
/// Additions to the shared count in each round.
const COUNTS: u64 = 2000;

/// A word was not what its vCPU had written.
const MEMORY_CHANGED: u64 = 1;
/// Additions were lost.
const COUNT_WRONG: u64 = 2;
/// A vCPU was started or refused wrongly.
const WRONG_ANSWER: u64 = 3;

/// What all add to.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// How often vCPUs have come to the point where all meet.
static MET: AtomicU64 = AtomicU64::new(0);
/// vCPUs that have done their rounds.
static DONE: AtomicU64 = AtomicU64::new(0);

fn run(_: &LaunchInfo) {
    for number in 1..VCPUS {
        if let Err(error) = vcpu::start(further, number) {
            println!("vCPU {number} does not start: {error}");
            exit(WRONG_ANSWER);
        }
    }
    refused(0x1000, HypercallError::NoMoreVcpus);
    // Not canonical: the first address that 48 bits with a sign cannot name.
    refused(1 << 47, HypercallError::BadArgument);

    hammer(0);
    while DONE.load(Ordering::Acquire) < VCPUS {
        yield_now();
    }
    let count = COUNT.load(Ordering::Acquire);
    if count != VCPUS * ROUNDS * COUNTS {
        println!("counted to {count}, not to {}", VCPUS * ROUNDS * COUNTS);
        exit(COUNT_WRONG);
    }
    println!("{VCPUS} vCPUs counted to {count} together, and each found its own memory as it left it");
    report("count", count);
}

extern "C" fn further(number: u64) -> ! {
    hammer(number);
    loop {
        yield_now();
    }
}

/// The rounds of the vCPU with this number.
fn hammer(number: u64) {
    let info = launch_info();
    let pattern = Pattern::new(info.seed);
    for round in 0..ROUNDS {
        if round.is_multiple_of(MEET_AFTER) {
            meet(round / MEET_AFTER + 1);
        }
        for part in parts(number) {
            part.fill(&pattern, info.instance);
        }
        for _ in 0..COUNTS {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        for part in parts(number) {
            if let Some(difference) = part.first_foreign(&pattern, info.instance, 8) {
                println!(
                    "vCPU {number}: memory at {:#x} holds {:#018x}",
                    difference.gpa, difference.found
                );
                exit(MEMORY_CHANGED);
            }
            part.clear();
        }
    }
    DONE.fetch_add(1, Ordering::Release);
}

/// Waits until all have come here for the `time`th time.
fn meet(time: u64) {
    MET.fetch_add(1, Ordering::AcqRel);
    let mut looks = 0;
    while MET.load(Ordering::Acquire) < time * VCPUS {
        core::hint::spin_loop();
        looks += 1;
        if looks % LOOKS == 0 {
            yield_now();
        }
    }
}

/// 64 KiB in each of the first parts of free memory; the stacks are in the last one.
fn parts(number: u64) -> impl Iterator<Item = Extent> {
    const BYTES: u64 = 64 << 10;
    memory::free_parts()
        .take(3)
        .filter_map(move |part| part.sub(number * BYTES, BYTES))
}

/// A vCPU more, at this address, is refused.
fn refused(rip: u64, error: HypercallError) {
    let call = Hypercall::StartVcpu(VcpuStart {
        rip,
        rsp: 0,
        argument: 0,
    });
    let code = hypercall::call(&call);
    if code != error.code() {
        println!("starting one more at {rip:#x} gives {code}, not {}", error.code());
        exit(WRONG_ANSWER);
    }
}
