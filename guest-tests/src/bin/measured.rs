//! Reads its own launch measurement, from two vCPUs, and reports it in six values, first byte first.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::cpuid::measurement;
use guest_tests::{LaunchInfo, hypercall, launch, main, println, vcpu};

launch!("memory=4M,vcpus=2");
main!(run);

/// What the second vCPU has read, and how many parts of it.
static READ: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
static PARTS: AtomicU64 = AtomicU64::new(0);

fn read() -> [u8; 48] {
    measurement(|leaf| {
        let answer = __cpuid(leaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    })
}

extern "C" fn second(_: u64) -> ! {
    for (slot, part) in READ.iter().zip(read().as_chunks::<8>().0) {
        slot.store(u64::from_be_bytes(*part), Ordering::Relaxed);
        PARTS.fetch_add(1, Ordering::Release);
    }
    loop {
        hypercall::yield_now();
    }
}

fn run(_: &LaunchInfo) {
    let digest = read();
    assert_ne!(digest, [0; 48], "nothing was measured");
    assert_eq!(read(), digest, "a second reading differs");
    for (name, part) in ["digest0", "digest1", "digest2", "digest3", "digest4", "digest5"]
        .into_iter()
        .zip(digest.as_chunks::<8>().0)
    {
        hypercall::report(name, u64::from_be_bytes(*part));
    }
    if let Err(error) = vcpu::start(second, 0) {
        panic!("the second vCPU does not start: {error}");
    }
    while PARTS.load(Ordering::Acquire) < READ.len() as u64 {
        hypercall::yield_now();
    }
    for (slot, part) in READ.iter().zip(digest.as_chunks::<8>().0) {
        assert_eq!(
            slot.load(Ordering::Relaxed),
            u64::from_be_bytes(*part),
            "the second vCPU"
        );
    }
    println!("I know what I was launched as");
}
