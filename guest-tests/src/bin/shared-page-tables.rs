//! Runs on page tables that lie in pages that it shares, also in place: what the hypervisor reads through them to answer an exit, it reads from there.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use guest_abi::cpuid;
use guest_tests::{LaunchInfo, hypercall, launch, main, memory, println, sharing};

launch!("memory=8M");
main!(run);

fn run(info: &LaunchInfo) {
    sharing::map();
    let page = sharing::area(2 << 20).start();
    assert_eq!(sharing::share(page, 4096), Ok(()));
    run_on(page, info);
    assert_eq!(sharing::unshare(page, 4096), Ok(()));
    assert_eq!(sharing::accept(page, 4096), Ok(()));
    assert_eq!(sharing::share_in_place(page, 4096), Ok(()));
    run_on(page, info);
    assert_eq!(sharing::unshare_in_place(page, 4096), Ok(()));
}

/// Runs on a top-level table in a page that is shared, for a while.
fn run_on(page: u64, info: &LaunchInfo) {
    for offset in (0..4096).step_by(8) {
        // SAFETY: the guest's own top-level table is copied into a page that is shared and free.
        unsafe {
            let entry = memory::load(info.page_tables_start + offset);
            memory::store(sharing::shown(page) + offset, entry);
        }
    }
    let table = sharing::shared_bit() | page;
    // SAFETY: the table maps what the one in use maps.
    unsafe { asm!("mov cr3, {}", in(reg) table, options(nostack, preserves_flags)) };
    assert_eq!(__cpuid(cpuid::LEAF_SIGNATURE).eax, cpuid::LEAF_MAX);
    hypercall::yield_now();
    println!("the top-level table is at {table:#x}");
    // SAFETY: as above.
    unsafe { asm!("mov cr3, {}", in(reg) info.page_tables_start, options(nostack, preserves_flags)) };
}
