//! A guest's own page tables: the entries that map an address, and pages mapped anew above the identity map (AMD APM vol. 2, 5.3; Intel SDM vol.
//! 3A, 4.5).

use core::arch::asm;

use guest_abi::launch_area::PAGE;

use crate::{launch_info, memory};

/// Entry: something is mapped.
pub const PRESENT: u64 = 1 << 0;
/// Entry: it may be written.
pub const WRITABLE: u64 = 1 << 1;
/// Entry: write-through.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Entry: cache disable.
pub const CACHE_DISABLE: u64 = 1 << 4;
/// Entry: it was used.
pub const ACCESSED: u64 = 1 << 5;
/// Entry of a leaf: it was written.
pub const DIRTY: u64 = 1 << 6;
/// Entry above the lowest level: a leaf.
pub const LARGE: u64 = 1 << 7;
/// Entry of a large leaf: the third bit of the memory type's index into PAT.
pub const LARGE_PAT: u64 = 1 << 12;

/// The second entry of the top-level table covers addresses from here on; the identity map ends below.
pub const FREE_SLOT: u64 = 1 << 39;

/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Pages of the guest's free memory, from its end, each taken once.
pub struct Pages {
    start: u64,
    next: u64,
}

impl Pages {
    /// The pages of the last free extent, which ends with the guest's memory; the highest of them comes first.
    ///
    /// # Panics
    /// When the guest has no free memory.
    pub fn new() -> Self {
        let Some(extent) = memory::free().last() else {
            panic!("there is no free memory")
        };
        Self {
            start: extent.start().next_multiple_of(PAGE),
            next: extent.start() + extent.bytes(),
        }
    }

    /// A page of zeros.
    ///
    /// # Panics
    /// When all are taken.
    pub fn take(&mut self) -> u64 {
        assert!(self.next >= self.start + PAGE, "no free page is left");
        self.next -= PAGE;
        self.next
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the entry of a level (4 is the top) for an address is, if the levels above have tables for it.
pub fn entry_at(address: u64, level: u32) -> Option<u64> {
    let mut table = launch_info().page_tables_start;
    for at in (level..=4).rev() {
        let entry = table + (address >> (12 + 9 * (at - 1)) & 0x1ff) * 8;
        if at == level {
            return Some(entry);
        }
        // SAFETY: reads an entry of the guest's own tables.
        let value = unsafe { memory::load(entry) };
        if value & PRESENT == 0 || value & LARGE != 0 {
            return None;
        }
        table = value & ADDRESS;
    }
    None
}

/// Maps a page at `address`, in [`FREE_SLOT`], to `gpa` with these bits, and drops an older translation. Tables that are missing are taken
/// from `pages`. Gives the address of the lowest entry.
///
/// # Panics
/// When no page is left for a table.
pub fn map(pages: &mut Pages, address: u64, gpa: u64, bits: u64) -> u64 {
    assert!(address >> 39 == FREE_SLOT >> 39, "that is the identity map's");
    for level in (2..=4).rev() {
        let Some(entry) = entry_at(address, level) else {
            panic!("a table is missing")
        };
        // SAFETY: entries of the guest's own tables, for addresses that nothing else uses.
        unsafe {
            if memory::load(entry) & PRESENT == 0 {
                memory::store(entry, pages.take() | PRESENT | WRITABLE);
            }
        }
    }
    let Some(entry) = entry_at(address, 1) else {
        panic!("the last table is missing")
    };
    // SAFETY: as above.
    unsafe { memory::store(entry, gpa | bits) };
    invalidate(address);
    entry
}

/// Drops the CPU's translation of an address.
pub fn invalidate(address: u64) {
    // SAFETY: the next access looks into the tables.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}
