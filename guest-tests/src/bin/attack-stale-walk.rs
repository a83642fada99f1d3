//! Pulls its page tables away from under the instruction that exits: the CPU still has the translation, but who walks the tables again finds
//! one where the guest owns nothing. A hypervisor that reads the instruction by such a walk must not follow it; the guest goes on, or ends.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use guest_tests::exceptions::catch;
use guest_tests::hypercall::report;
use guest_tests::mapping::{FREE_SLOT, PRESENT, Pages, WRITABLE, entry_at, map};
use guest_tests::{LaunchInfo, attempt, launch, main, memory, println};

// The text says which of the two it was.
launch!("memory=4M,count=3,expect=any");
main!(run);

/// Stores RAX where RDX points, then CPUID and RET.
const CODE: u64 = 0x0000_c3a2_0f02_8948;

fn run(info: &LaunchInfo) {
    catch();
    let mut pages = Pages::new();
    let page = pages.take();
    map(&mut pages, FREE_SLOT, page, PRESENT | WRITABLE);
    // SAFETY: the page is free memory, mapped in the identity map too.
    unsafe { memory::store(page, CODE) };
    let level = 2 + info.instance % 3;
    let Some(entry) = entry_at(FREE_SLOT, level) else {
        panic!("there is no table of level {level}")
    };
    // SAFETY: reads an entry of the guest's own tables.
    let before = unsafe { memory::load(entry) };
    let beyond = 0xfee0_0000 | PRESENT | WRITABLE;
    println!("a table of level {} is pulled away from under CPUID", level - 1);
    // SAFETY: the word is on the guest's own stack. The code writes the entry, by an address of the identity map.
    let attempt = attempt!("push rcx", => "call qword ptr [rsp]", beyond, FREE_SLOT, entry);
    // SAFETY: as above.
    unsafe { memory::store(entry, before) };
    report("leaf", __cpuid(0).eax.into());
    println!("went on: {:?}", attempt.vector());
}
