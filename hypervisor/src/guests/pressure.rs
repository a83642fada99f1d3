//! Memory is low: the hidden frames that are kept for pages which guests share, or have given back, serve others (docs/guest-abi.md).
//!
//! No guest notices, but that such a page gets another frame when it is private again. So it is done only for somebody who was refused memory, and
//! asks once more. Regions come first, which are ordinary memory again; single frames serve only those who want hidden memory, and cost their guest a
//! 2M leaf.

use memory::address::Gfn;
use memory::guest::Kept;

use super::guest::Guest;
use super::world::World;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::virt::Backend;

/// Takes what is kept until so many frames are free, or nothing is left. True when there was any. To be called with nothing locked; `between` is
/// called between two steps of at most 2 MiB.
pub fn make_room<B: Backend>(world: &World<B>, frames: u64, between: impl Fn()) -> bool {
    let mut taken = 0;
    for which in [Kept::Regions, Kept::Pages] {
        for position in 0.. {
            let Some(guest) = world.guest(position) else {
                break;
            };
            let mut next = Gfn::default();
            while taken < frames
                && let Some(more) = take_some(&guest, &mut next, which)
            {
                taken += more;
                between();
            }
        }
    }
    taken > 0
}

fn take_some(guest: &Guest, next: &mut Gfn, which: Kept) -> Option<u64> {
    guest
        .with_memory(|guest| with_memory(|memory| guest.take_kept(memory, &Hardware, next, which)))
        .flatten()
}
