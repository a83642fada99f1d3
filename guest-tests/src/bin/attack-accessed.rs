//! Makes its page tables read-only for itself and lets the CPU set accessed and dirty bits in them: they are set, a write of its own is a
//! page fault, and no bit changes but those.
#![no_std]
#![no_main]

use guest_tests::exceptions::{catch, vector::PAGE_FAULT};
use guest_tests::hypercall::exit;
use guest_tests::mapping::{ACCESSED, DIRTY, FREE_SLOT, PRESENT, Pages, WRITABLE, entry_at, invalidate, map};
use guest_tests::{LaunchInfo, attempt, launch, main, memory, println};

launch!("memory=4M");
main!(run);

/// Page-fault error code: the page is there; it was a write (Intel SDM vol. 3A, 4.7).
const WRITE_DENIED: u64 = 0b11;
/// Where the lowest table can be seen, read-only.
const SHOWN: u64 = FREE_SLOT + (1 << 21);

fn run(_: &LaunchInfo) {
    catch();
    let mut pages = Pages::new();
    let page = pages.take();
    let entry = map(&mut pages, FREE_SLOT, page, PRESENT | WRITABLE);
    let table = entry & !0xfff;
    let shown = map(&mut pages, SHOWN, table, PRESENT);
    check("the entry is shown", load(SHOWN), page | PRESENT | WRITABLE);

    load(FREE_SLOT);
    check("after a read", load(SHOWN), page | PRESENT | WRITABLE | ACCESSED);
    // SAFETY: the page is free memory.
    unsafe { memory::store(FREE_SLOT, 1) };
    let used = page | PRESENT | WRITABLE | ACCESSED | DIRTY;
    check("after a write", load(SHOWN), used);

    let denied = attempt!(=> "mov [rcx], rax", 0, SHOWN);
    if denied.vector() != Some((PAGE_FAULT, WRITE_DENIED)) {
        println!("a write to the table: {:x?}", denied.exception);
        exit(1);
    }
    check("after a write that was denied", load(SHOWN), used);
    check("the read-only leaf", load(shown), table | PRESENT | ACCESSED);

    // The tables above, too: each entry has been used.
    for level in 2..=4 {
        let above = entry_at(FREE_SLOT, level).unwrap_or(0);
        check("an upper entry", load(above) & (ACCESSED | DIRTY), ACCESSED);
    }
    // A table that maps itself, read-only: using it sets bits in it.
    // SAFETY: an entry of the guest's own tables, for addresses that nothing uses.
    unsafe { memory::store(entry + 8, table | PRESENT) };
    invalidate(FREE_SLOT + 0x1000);
    check(
        "a table through itself",
        load(FREE_SLOT + 0x1008),
        table | PRESENT | ACCESSED,
    );
    println!("accessed and dirty bits are set where they should be");
}

fn load(at: u64) -> u64 {
    // SAFETY: the address is mapped, in the identity map or in the slot above; reading has no effect.
    unsafe { memory::load(at) }
}

fn check(what: &str, found: u64, wanted: u64) {
    if found != wanted {
        println!("{what}: {found:#x}, should be {wanted:#x}");
        exit(2);
    }
}
