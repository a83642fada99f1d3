//! Loads of which each depends on the one before, and how long they take.

use core::arch::asm;

use memory::address::Pfn;
use memory::layout::direct;

use crate::cpu::registers::with_interrupts_masked;

/// Loads from each address in turn. The address of each load waits for the load before, so that nothing overlaps; the list itself is read
/// ahead.
pub fn follow(list: &[u64]) {
    // SAFETY: the addresses are the caller's list of RAM in the direct map that is not hidden, aligned to lines; what is read is not used. The
    // pointers are those of the slice, which is not empty where the loop reads.
    unsafe {
        asm!(
            "xor {value:e}, {value:e}",
            "cmp {at}, {end}",
            "jae 3f",
            "2:",
            // Always 0, which the CPU does not know before the load before has ended.
            "and {value}, {zero}",
            "add {value}, [{at}]",
            "mov {value}, [{value}]",
            "add {at}, 8",
            "cmp {at}, {end}",
            "jb 2b",
            "3:",
            value = out(reg) _,
            zero = in(reg) 0_u64,
            at = inout(reg) list.as_ptr() => _,
            end = in(reg) list.as_ptr_range().end,
            options(nostack, readonly)
        );
    }
}

/// TSC ticks of [`follow`], interrupts masked; the highest number when it took longer than that.
pub fn time(list: &[u64]) -> u32 {
    with_interrupts_masked(|| {
        let start = ordered_tsc();
        follow(list);
        u32::try_from(ordered_tsc().wrapping_sub(start)).unwrap_or(u32::MAX)
    })
}

/// The TSC when everything before has ended and nothing after has begun (SDM vol. 2B, RDTSC: LFENCE before and after).
fn ordered_tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: both instructions are on every 64-bit CPU and only read the counter; CR4.TSD does not bind privilege level 0.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes to a page without changing it, so that whoever is below us backs it: what was never written may be one page of zeros for all.
pub fn touch(page: Pfn) {
    let Some(at) = direct(page.hpa()) else { return };
    // SAFETY: the page is RAM that the direct map shows writable. OR with 0 changes nothing, and atomically, so it does no harm whoever has the
    // page.
    unsafe { asm!("lock or qword ptr [{}], 0", in(reg) at.get(), options(nostack)) };
}

/// Writes a word of a page, by a plain store: the page is the caller's own.
pub fn store(page: Pfn) {
    let Some(at) = direct(page.hpa()) else { return };
    let word = core::ptr::with_exposed_provenance_mut::<u64>(at.get() as usize);
    // SAFETY: one of the pages that were taken for measuring: RAM that the direct map shows writable, with nothing in it.
    unsafe { word.write_volatile(0) };
}
