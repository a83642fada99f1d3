//! Every TLB instruction of the project.

use core::arch::asm;

use memory::address::Hva;

use super::registers;

/// Drops this CPU's translation of one page, and its paging-structure caches for the current address space
/// (SDM vol. 3A, 4.10.4.1; APM vol. 2, 5.5.2). A large page's translation goes whole.
pub fn invlpg(page: Hva) {
    // SAFETY: INVLPG changes no memory and no register; losing a translation never makes an access wrong.
    unsafe { asm!("invlpg [{}]", in(reg) page.get(), options(nostack, preserves_flags)) };
}

/// Drops all of this CPU's translations and paging-structure caches, by writing CR3's value back.
///
/// That leaves only global pages (SDM vol. 3A, 4.10.4.1; APM vol. 2, 5.5.2), and CR4.PGE stays off: there are none.
pub fn flush() {
    // SAFETY: the value is the one that is there, so the address space does not change.
    unsafe { registers::write_cr3(registers::read_cr3()) };
}
