//! Writes its pattern over all its memory, then checks every word of it; yields after each 2 MiB so that other guests run in between.
#![no_std]
#![no_main]

use guest_tests::hypercall::{exit, report, yield_now};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=64M");
main!(run);

/// A word was not what this guest had written.
const FOUND_FOREIGN: u64 = 1;

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    for part in memory::free_parts() {
        part.fill(&pattern, info.instance);
        yield_now();
    }
    let mut bytes = 0;
    for part in memory::free_parts() {
        if let Some(difference) = part.first_foreign(&pattern, info.instance, 8) {
            println!(
                "found {:#018x} at {:#x}, which is not what was written",
                difference.found, difference.gpa
            );
            exit(FOUND_FOREIGN);
        }
        bytes += part.bytes();
        yield_now();
    }
    println!("wrote and checked {bytes} of {} bytes", info.memory_bytes);
    report("bytes", bytes);
}
