//! The shortest guest: says hello and ends with success.
#![no_std]
#![no_main]

use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M");
main!(run);

fn run(info: &LaunchInfo) {
    println!(
        "Hello from guest {} with {} MiB of memory.",
        info.instance,
        info.memory_bytes >> 20
    );
}
