//! Writes the first word above its memory, which is mapped in its own page tables but not its own.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

fn run(info: &LaunchInfo) {
    let beyond = info.memory_bytes;
    println!("writing at {beyond:#x}");
    // SAFETY: the identity map covers 4 GiB, the guest has less; nothing of it is there.
    unsafe { memory::store(beyond, 0) };
    println!("wrote beyond the end of memory");
    exit(1);
}
