//! Deliberate mistakes, in test builds only. Most are faults, made here: each must end in a report that names what was done. Others
//! leave something out, where it would have been done.

use boot_config::Hook;
use memory::address::Hva;
use memory::guest::GuestMemory;
use memory::layout::{DIRECT_MAP_BASE, direct};

use crate::boot::image;
use crate::frames::with_memory;
use crate::println;

/// Makes the fault that `hook` names, if it names one, while these guests live. Returns true only when nothing caught it.
pub fn commit<'g>(hook: Hook, mut guests: impl Iterator<Item = &'g GuestMemory>) -> bool {
    println!("test hook: {hook}");
    match hook {
        Hook::SilentCpu => return false,
        Hook::ReadHole => {
            let hole = guests
                .next()
                .and_then(|guest| with_memory(|memory| guest.regions(&memory.frames).next()));
            if let Some(at) = hole.and_then(|pfn| direct(pfn.hpa())) {
                touch(Hva::new(at.get() + 0x1238), false);
            }
        }
        Hook::WriteText => {
            let text = image::sections()[0].hpa();
            touch(Hva::new(DIRECT_MAP_BASE.get() + text.get()), true);
        }
        Hook::StackOverflow => {
            println!("recursed {} times", recurse(0));
        }
    }
    true
}

/// Reads a word, or writes it back.
fn touch(at: Hva, write: bool) {
    let pointer = core::ptr::with_exposed_provenance_mut::<u64>(at.get() as usize);
    // SAFETY: none can be given: the access is the fault that the test asks for. It reads, and at most writes back what it read, so
    // that nothing is damaged even if nothing catches it.
    unsafe {
        let value = pointer.read_volatile();
        if write {
            pointer.write_volatile(value);
        }
    }
}

/// Uses up any stack.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let filler = core::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1).wrapping_add(filler[7])
    }
}
