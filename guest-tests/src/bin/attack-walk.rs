//! Lets a table of each level lie where it owns nothing: the CPU takes entries from there, and must not get any. Which level depends on the
//! instance.
#![no_std]
#![no_main]

use guest_tests::hypercall::exit;
use guest_tests::mapping::{ACCESSED, FREE_SLOT, PRESENT, Pages, WRITABLE, entry_at, invalidate, map};
use guest_tests::{LaunchInfo, launch, main, memory, println};

launch!("memory=4M,count=6,limit=1s,expect=memory-fault");
main!(run);

fn run(info: &LaunchInfo) {
    let mut pages = Pages::new();
    let page = pages.take();
    map(&mut pages, FREE_SLOT, page, PRESENT | WRITABLE);
    // The entry of level 4 points at a table of level 3, and so on.
    let level = 2 + info.instance % 3;
    // The first page that is not its own, and one far above all RAM that there may be below the end of the address space.
    let beyond = if info.instance.is_multiple_of(2) {
        info.memory_bytes
    } else {
        (1 << 39) - (1 << 30)
    };
    let Some(entry) = entry_at(FREE_SLOT, level) else {
        panic!("there is no table of level {level}")
    };
    // SAFETY: an entry of the guest's own tables, for addresses that nothing uses.
    unsafe { memory::store(entry, beyond | PRESENT | WRITABLE | ACCESSED) };
    invalidate(FREE_SLOT);
    println!("a table of level {} at {beyond:#x}", level - 1);
    // SAFETY: without a table there is no memory; the hypervisor ends the guest.
    let found = unsafe { memory::load(FREE_SLOT + 8) };
    println!("read {found:#x} through a table that is not mine");
    exit(1);
}
