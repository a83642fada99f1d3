//! Guest memory: the free parts of it, filled and checked word by word.

use core::arch::asm;
use core::ops::Range;

use guest_abi::launch_area::PAGE;
use guest_abi::pattern::Pattern;

use crate::launch_info;

/// A part of this guest's memory that holds nothing of its own: its addresses, multiples of 8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    range: Range<u64>,
}

/// A word that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its address.
    pub gpa: u64,
    /// What is there.
    pub found: u64,
}

/// The free extents of this guest's memory, in ascending order.
pub fn free() -> impl Iterator<Item = Extent> {
    launch_info().free_extents().map(|range| Extent { range })
}

/// The free extents in parts of at most 2 MiB.
pub fn free_parts() -> impl Iterator<Item = Extent> {
    free().flat_map(|extent| {
        let Range { start, end } = extent.range;
        (start..end).step_by(2 << 20).map(move |at| Extent {
            range: at..end.min(at + (2 << 20)),
        })
    })
}

/// The part of the stack that has not been used yet, less a page for what the caller is about to call.
pub fn unused_stack() -> Range<u64> {
    let pointer: u64;
    // SAFETY: reads RSP.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    launch_info().stack_start..pointer.next_multiple_of(PAGE) - 2 * PAGE
}

impl Extent {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Address of the first byte.
    pub fn start(&self) -> u64 {
        self.range.start
    }

    /// `bytes` bytes of it from `offset` on, both multiples of 8; `None` when it has not so many.
    pub fn sub(&self, offset: u64, bytes: u64) -> Option<Self> {
        let start = self.range.start + offset;
        (start + bytes <= self.range.end).then_some(Self {
            range: start..start + bytes,
        })
    }

    /// Writes zeros.
    pub fn clear(&self) {
        for gpa in self.range.clone().step_by(8) {
            // SAFETY: as for `fill`.
            unsafe { store(gpa, 0) };
        }
    }

    /// Writes the words of `instance`.
    pub fn fill(&self, pattern: &Pattern, instance: u32) {
        for gpa in self.range.clone().step_by(8) {
            // SAFETY: an extent is memory that the guest has and that nothing else in it uses.
            unsafe { store(gpa, pattern.word(instance, gpa)) };
        }
    }

    /// The first word that is not the one of `instance`, looking at every `step`th byte, a multiple of 8.
    pub fn first_foreign(&self, pattern: &Pattern, instance: u32, step: usize) -> Option<Difference> {
        first_difference(self.range.clone(), step, |gpa| pattern.word(instance, gpa))
    }

    /// The first word that is not zero.
    pub fn first_nonzero(&self) -> Option<Difference> {
        first_nonzero(self.range.clone())
    }
}

/// The first word of `range`, within the guest's memory, that is not zero.
pub fn first_nonzero(range: Range<u64>) -> Option<Difference> {
    first_difference(range, 8, |_| 0)
}

fn first_difference(range: Range<u64>, step: usize, expected: impl Fn(u64) -> u64) -> Option<Difference> {
    range.step_by(step).find_map(|gpa| {
        // SAFETY: reading memory has no effect; a word outside of it would end the guest.
        let found = unsafe { load(gpa) };
        (found != expected(gpa)).then_some(Difference { gpa, found })
    })
}

/// Reads the word at any address through the identity map. Assembly, because guest memory starts at address 0, which Rust reserves for
/// null.
///
/// # Safety
/// The address is mapped and the read has no effect on memory that the program uses. An address that the guest does not own is allowed: the
/// hypervisor ends the guest.
pub unsafe fn load(gpa: u64) -> u64 {
    let word;
    // SAFETY: as the caller promises.
    unsafe { asm!("mov {}, [{}]", out(reg) word, in(reg) gpa, options(readonly, nostack, preserves_flags)) };
    word
}

/// Writes the word at any address through the identity map.
///
/// # Safety
/// The address is mapped, and the word is not one that the program uses. An address that the guest does not own is allowed: the hypervisor
/// ends the guest.
pub unsafe fn store(gpa: u64, word: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov [{}], {}", in(reg) gpa, in(reg) word, options(nostack, preserves_flags)) };
}
