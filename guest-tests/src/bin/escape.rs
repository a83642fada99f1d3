//! Reads the first word above its memory, which is mapped in its own page tables but not its own.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

fn run(info: &LaunchInfo) {
    let beyond = info.memory_bytes;
    println!("reading at {beyond:#x}");
    // SAFETY: the identity map covers 4 GiB, the guest has less; nothing of it is there.
    let found = unsafe { memory::load(beyond) };
    println!("read {found:#x} beyond the end of memory");
    exit(1);
}
