//! Asks for every memory type: caching off in CR0, every type in PAT, every combination of bits in its tables. Writes its pattern through
//! all of them, past the caches and into them, and leaves it there: the next guest must find zeros.
#![no_std]
#![no_main]

use core::arch::asm;

use guest_tests::hypercall::{exit, report};
use guest_tests::mapping::{CACHE_DISABLE, LARGE_PAT, WRITE_THROUGH, entry_at, invalidate};
use guest_tests::registers::system::{read_msr, write_msr};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=64M,limit=120s");
main!(run);

const PAT: u32 = 0x277;
/// The memory types: UC, WC, WT, WP, WB, UC- (AMD APM vol. 2, 7.8.1).
const TYPES: [u64; 6] = [0, 1, 4, 5, 6, 7];
/// A byte's worth of a type in all eight bytes.
const EVERYWHERE: u64 = 0x0101_0101_0101_0101;
/// CR0: cache disable, not write-through.
const CD: u64 = 1 << 30;
const NW: u64 = 1 << 29;

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    let mut parts = 0;
    for (turn, part) in memory::free_parts().enumerate() {
        let kind = TYPES[turn % TYPES.len()] * EVERYWHERE;
        write_msr(PAT, kind);
        let shown = set_caching(turn % 2 == 0);
        if read_msr(PAT) != kind || shown & (CD | NW) != 0 {
            println!("PAT is {:#x}, CR0 {shown:#x}", read_msr(PAT));
            exit(1);
        }
        select(part.start(), turn as u64);
        part.fill(&pattern, info.instance);
        // Half of it a second time, past the caches.
        for at in (part.start()..part.start() + part.bytes() / 2).step_by(8) {
            let word = pattern.word(info.instance, at);
            // SAFETY: the part is free memory, and gets the word that it holds.
            unsafe { asm!("movnti [{}], {}", in(reg) at, in(reg) word, options(nostack, preserves_flags)) };
        }
        // SAFETY: orders stores; the caches lose nothing of this guest's: INVD is not let through.
        unsafe {
            asm!("sfence", "clflush [{}]", "invd", "wbinvd", in(reg) part.start(), options(nostack, preserves_flags));
        }
        if let Some(changed) = part.first_foreign(&pattern, info.instance, 8) {
            println!("memory at {:#x} is now {:#x}", changed.gpa, changed.found);
            exit(2);
        }
        parts += 1;
    }
    // Everything is uncacheable now, as far as the guest can say.
    write_msr(PAT, 0);
    set_caching(false);
    report("parts", parts);
    println!("{parts} parts written with every memory type");
}

/// Asks for caching or none; gives CR0 as it is then.
fn set_caching(on: bool) -> u64 {
    let cr0: u64;
    let wanted = if on { 0 } else { CD | NW };
    // SAFETY: changes nothing but how memory is cached, if that.
    unsafe {
        asm!("mov {0}, cr0", "btr {0}, 30", "btr {0}, 29", "or {0}, {1}", "mov cr0, {0}", "mov {0}, cr0",
            out(reg) cr0, in(reg) wanted, options(nostack));
    }
    cr0
}

/// Selects the entry of PAT with this number for the 2M leaf around an address of the identity map.
fn select(address: u64, entry: u64) {
    let bits = [(1, WRITE_THROUGH), (2, CACHE_DISABLE), (4, LARGE_PAT)];
    let Some(at) = entry_at(address, 2) else {
        panic!("the identity map has no leaf for {address:#x}")
    };
    // SAFETY: an entry of the guest's own tables; what it maps stays the same.
    unsafe {
        let leaf = memory::load(at) & !(WRITE_THROUGH | CACHE_DISABLE | LARGE_PAT);
        let chosen = bits.into_iter().filter(|(bit, _)| entry & bit != 0);
        memory::store(at, chosen.fold(leaf, |leaf, (_, bits)| leaf | bits));
    }
    invalidate(address);
}
