//! Hypercalls do what the ABI says: bad ones get their error, registers stay, text of every length arrives, CPUID tells about Lacuna.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use guest_abi::{ABI_VERSION, Arguments, HypercallError, cpuid, number};
use guest_tests::registers::{Source, general};
use guest_tests::{LaunchInfo, Pattern, hypercall, launch, main, print, println};

launch!("memory=4M");
main!(run);

fn run(info: &LaunchInfo) {
    let signature = __cpuid(cpuid::LEAF_SIGNATURE);
    assert_eq!(
        [signature.ebx, signature.ecx, signature.edx],
        cpuid::SIGNATURE_REGISTERS
    );
    assert_eq!(signature.eax, cpuid::LEAF_MAX);
    assert_eq!(__cpuid(cpuid::LEAF_ABI).eax, ABI_VERSION);
    let aliases = __cpuid(cpuid::LEAF_ALIASES);
    let bits = __cpuid(0x8000_0008).eax & 0xff;
    assert_eq!(aliases.eax, bits.min(48) - 1, "the shared bit");
    assert_eq!([aliases.ebx, aliases.ecx, aliases.edx], [0; 3]);
    assert!(__cpuid(1).ecx >> 31 == 1, "the bit that tells of a hypervisor");

    let call = |number, rdi| {
        hypercall::raw(
            number,
            &Arguments {
                rdi,
                ..Arguments::default()
            },
        )
    };
    for unknown in [0, 1000, 1 << 32 | number::YIELD, u64::MAX] {
        assert_eq!(
            call(unknown, 0),
            HypercallError::UnknownNumber.code(),
            "number {unknown:#x}"
        );
    }
    for length in [41, 256, 1 << 32, u64::MAX] {
        assert_eq!(
            call(number::PRINT, length),
            HypercallError::BadArgument.code(),
            "length {length:#x}"
        );
    }
    assert_eq!(call(number::REPORT, 0), HypercallError::BadArgument.code());
    assert_eq!(call(number::PRINT, 0), 0);
    assert_eq!(call(number::YIELD, 0), 0);

    let pattern = Pattern::new(info.seed);
    if let Some(changed) = general::yield_with(&Source::new(&pattern, info.instance, 0)) {
        panic!("{} changed: {changed:x?}", general::NAMES[changed.index]);
    }

    print!("one line ");
    print!("in pieces, ");
    println!("and one that is a good deal longer than the forty bytes of one call: 0123456789abcdef");
    hypercall::report("eight888", u64::MAX);
    println!("hypercalls do what they should");
}
