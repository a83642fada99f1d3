//! Panics: the message comes out and the exit code is the runtime's.
#![no_std]
#![no_main]

use guest_tests::{LaunchInfo, launch, main};

launch!("memory=4M,expect=exit:101");
main!(run);

fn run(info: &LaunchInfo) {
    panic!("guest {} panics, as it should", info.instance);
}
