//! Reads all of CPUID's ranges twice, with another guest's turn possible in between: both sweeps agree, what a guest must not have is
//! hidden, and leaves beyond the last are zero.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid_count;
use core::ops::RangeInclusive;

use guest_abi::cpuid::LEAF_MAX;
use guest_tests::hypercall::{self, exit, yield_now};
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,limit=120s");
main!(run);

/// Basic, hypervisor and extended leaves (SDM vol. 2A, CPUID; APM vol. 3, appendix E), and the two ranges of Centaur and Transmeta.
const RANGES: [RangeInclusive<u32>; 5] = [
    0..=0xff,
    0x4000_0000..=0x4000_00ff,
    0x8000_0000..=0x8000_00ff,
    0x8086_0000..=0x8086_0007,
    0xc000_0000..=0xc000_0007,
];
/// Leaves up to here may have subleaves; so many of each are read.
const LAST_WITH_SUBLEAVES: u32 = 0x24;
const SUBLEAVES: u32 = 4;

/// EAX, EBX, ECX, EDX.
type Registers = [u32; 4];

/// Bits that are never shown: leaf, register, bits, what they stand for.
const HIDDEN: [(u32, usize, u32, &str); 9] = [
    (
        1,
        1,
        0xffff_0000,
        "the APIC identifier and the count of processors",
    ),
    (1, 2, 1 << 3 | 1 << 5 | 1 << 6, "MONITOR, VMX or SMX"),
    (1, 2, 1 << 15 | 1 << 17 | 1 << 18, "PDCM, PCID or DCA"),
    (1, 2, 1 << 21 | 1 << 24, "x2APIC or the TSC deadline"),
    (
        1,
        3,
        1 << 7 | 1 << 9 | 1 << 12 | 1 << 14,
        "MCE, APIC, MTRR or MCA",
    ),
    (
        7,
        1,
        1 << 2 | 1 << 4 | 1 << 10 | 1 << 11 | 1 << 25,
        "SGX, HLE, INVPCID, RTM or PT",
    ),
    (7, 2, 1 << 5 | 1 << 16 | 1 << 22, "WAITPKG, LA57 or RDPID"),
    (0x8000_0001, 2, 1 << 2 | 1 << 12, "SVM or SKINIT"),
    (0x8000_0001, 3, 1 << 27, "RDTSCP"),
];
/// Leaves of counters, caches, topology, traces and nested virtualization: all zero.
const ZERO: [u32; 12] = [
    2,
    4,
    5,
    6,
    0xa,
    0xb,
    0x12,
    0x14,
    0x1f,
    0x23,
    0x8000_000a,
    0x8000_001f,
];

fn run(_: &LaunchInfo) {
    let (count, first) = sweep();
    yield_now();
    let (_, second) = sweep();
    if first != second {
        println!("two sweeps differ: {first:#x} and {second:#x}");
        exit(1);
    }
    for (leaf, register, bits, what) in HIDDEN {
        let found = read(leaf, 0)[register];
        if found & bits != 0 {
            println!("leaf {leaf:#x} register {register} is {found:#x}: it shows {what}");
            exit(2);
        }
    }
    for leaf in ZERO {
        check_zero(leaf);
    }
    // Nothing stands behind the last leaf of a range: the CPU's own answer there would be that of its last basic leaf.
    for (range, last) in RANGES.iter().zip([
        read(0, 0)[0],
        LEAF_MAX,
        read(0x8000_0000, 0)[0],
        0x8086_0000 - 1,
        0xc000_0000 - 1,
    ]) {
        for leaf in last + 1..=*range.end() {
            check_zero(leaf);
        }
    }
    hypercall::report("leaves", count);
    println!("CPUID shows what it should in {count} places");
}

fn read(leaf: u32, subleaf: u32) -> Registers {
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

fn check_zero(leaf: u32) {
    let found = read(leaf, 0);
    if found != [0; 4] {
        println!("leaf {leaf:#x} should be zero, and is {found:x?}");
        exit(3);
    }
}

/// How many answers there are, and a hash of all (FNV-1a).
fn sweep() -> (u64, u64) {
    let (mut count, mut hash) = (0, 0xcbf2_9ce4_8422_2325_u64);
    for leaf in RANGES.into_iter().flatten() {
        let subleaves = if leaf <= LAST_WITH_SUBLEAVES { SUBLEAVES } else { 1 };
        for subleaf in 0..subleaves {
            count += 1;
            for value in read(leaf, subleaf) {
                hash = (hash ^ u64::from(value)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    (count, hash)
}
