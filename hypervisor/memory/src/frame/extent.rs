//! Extents of memory on their way into hiding and back: `1 << order` frames, aligned to their size, from one frame to a gigablock.

use core::marker::PhantomData;

use crate::address::{Gfn, Pfn, REGION_ORDER};

use super::allocator::HostFrames;
use super::records::{FrameTable, GigablockIndex};
use super::state::{FrameState, FrameWord, GuestId};
use super::table_frame::TableFrame;

/// The states that an extent passes through. Each step consumes the extent in one state and yields it in the next, so the steps cannot be
/// taken in another order, nor twice.
///
/// ```text
///  host memory ─carve→ Carved ─hide→ Unmapped ─flush acknowledged→ Dirty ─scrub→ Clean ─assign→ Private
///       ↑                                                            ↑             │                │
///       └──────────────────────── restore, merge, free ──────────────│─────────────┘                │
///                                                                    └───── revoke, guest flushed ──┘
/// ```
///
/// Nothing but a scrub makes an extent clean:
///
/// ```compile_fail
/// use memory::frame::extent::{Clean, Dirty, Extent};
/// fn skip_the_scrub(extent: Extent<Dirty>) -> Extent<Clean> {
///     extent
/// }
/// ```
///
/// An extent cannot be given back twice:
///
/// ```compile_fail
/// use memory::{HostMemory, frame::extent::{Clean, Extent}, machine::Machine};
/// fn twice<M: Machine>(memory: &mut HostMemory<'_>, machine: &M, extent: Extent<Clean>) {
///     memory.give_back(machine, extent);
///     memory.give_back(machine, extent);
/// }
/// ```
///
/// And not before its flush: a batch yields its extents only when it is flushed.
///
/// ```compile_fail
/// use memory::{HostMemory, frame::extent::{Extent, Unmapped}, machine::Machine};
/// fn early<M: Machine>(memory: &mut HostMemory<'_>, machine: &M, extent: Extent<Unmapped>) {
///     memory.give_back(machine, extent);
/// }
/// ```
pub trait ExtentState {
    /// What the frame records say of an extent in this state; `None` when its owner has to be said, too.
    fn record(order: u8) -> Option<FrameState>;
}

macro_rules! state {
    ($(#[$doc:meta])* $name:ident, $record:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl ExtentState for $name {
            fn record(order: u8) -> Option<FrameState> {
                let record: fn(u8) -> Option<FrameState> = $record;
                record(order)
            }
        }
    };
}

state!(
    /// Taken from the host allocator, still in the direct map.
    Carved,
    |order| Some(FrameState::Carved { order })
);
state!(
    /// Its direct-map entries are cleared, but translations may be cached: inside a flush batch.
    Unmapped,
    |order| Some(FrameState::Unmapped { order })
);
state!(
    /// Hidden; its contents are somebody's.
    Dirty,
    |order| Some(FrameState::Hidden { order })
);
state!(
    /// Hidden and zeroed since anyone used it.
    Clean,
    |order| Some(FrameState::Hidden { order })
);
state!(
    /// A guest's, at one guest-physical address.
    Private,
    |_| None
);

/// `1 << order` frames in state `S`, owned.
///
/// Dropping one loses memory but exposes nothing: an extent leaves its state only through the methods that consume it.
#[derive(Debug)]
#[must_use = "an extent that is dropped is lost"]
pub struct Extent<S: ExtentState> {
    pfn: Pfn,
    order: u8,
    state: PhantomData<S>,
}

impl<S: ExtentState> Extent<S> {
    /// An extent whose record says that it is in state `S`.
    pub(super) fn found(pfn: Pfn, order: u8) -> Self {
        Self {
            pfn,
            order,
            state: PhantomData,
        }
    }

    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// log2 of its frames: 0 for 4 KiB, 9 for a region of 2 MiB, 18 for a gigablock.
    pub fn order(&self) -> u8 {
        self.order
    }

    /// Its frames.
    pub fn frames(&self) -> u64 {
        1 << self.order
    }

    /// Whether it is made of whole regions.
    pub(crate) fn is_regions(&self) -> bool {
        self.order >= REGION_ORDER
    }

    /// The gigablock around it.
    pub(crate) fn gigablock(&self, frames: &FrameTable<'_>) -> GigablockIndex {
        frames.known_block(self.pfn).gigablock()
    }

    /// The same extent in another state, and its record with it. Private: each step below says which state it leads to.
    fn step<T: ExtentState>(self, frames: &mut FrameTable<'_>, record: FrameState) -> Extent<T> {
        *frames.head_mut(self.pfn, self.order) = FrameWord::new(record);
        Extent::found(self.pfn, self.order)
    }

    /// Takes the extent out of use for good: it cannot be made safe. Returns its bytes.
    pub(crate) fn quarantine(self, frames: &mut FrameTable<'_>) -> u64 {
        let order = self.order;
        *frames.head_mut(self.pfn, order) = FrameWord::new(FrameState::Quarantined { order });
        crate::address::PAGE_SIZE << order
    }
}

impl Extent<Carved> {
    /// An extent below 2 MiB from ordinary memory.
    pub(crate) fn of_host_frames(frames: &mut FrameTable<'_>, host: HostFrames) -> Self {
        let order = host.order();
        Extent::<Carved>::found(host.into_pfn(), order).step(frames, FrameState::Carved { order })
    }

    /// An extent of whole regions that was just taken from the allocator.
    pub(crate) fn of_blocks(frames: &mut FrameTable<'_>, pfn: Pfn, order: u8) -> Self {
        Extent::<Carved>::found(pfn, order).step(frames, FrameState::Carved { order })
    }

    /// Gives back an extent that was never hidden.
    pub(crate) fn uncarve(self, frames: &mut FrameTable<'_>) {
        release(frames, self.pfn, self.order);
    }
}

impl Extent<Dirty> {
    /// The extent was overwritten with zeros.
    pub(crate) fn scrubbed(self) -> Extent<Clean> {
        // The record stays `Hidden`: it says nothing of the contents.
        Extent::found(self.pfn, self.order)
    }
}

impl Extent<Clean> {
    /// Makes the extent a guest's, at one guest-physical address.
    pub fn assign(self, frames: &mut FrameTable<'_>, owner: GuestId, gfn: Gfn) -> Extent<Private> {
        let order = self.order;
        self.step(frames, FrameState::Private { owner, gfn, order })
    }

    /// Says that the host has put something in, through a window.
    pub fn used(self) -> Extent<Dirty> {
        Extent::found(self.pfn, self.order)
    }

    /// Cuts an extent of regions in halves; the lower one first. Back unchanged when it is a region or less.
    pub(crate) fn halves(self, frames: &mut FrameTable<'_>) -> Result<(Self, Self), Self> {
        let order = self.order.saturating_sub(1);
        // A half of a region would have to be in a block whose frames have words of their own.
        if self.order <= REGION_ORDER {
            return Err(self);
        }
        let half = |frames: &mut FrameTable<'_>, pfn: Pfn| {
            Extent::<Clean>::found(pfn, order).step(frames, FrameState::Hidden { order })
        };
        let upper = half(frames, self.pfn.add(1 << order));
        Ok((half(frames, self.pfn), upper))
    }

    /// Makes the extent free host memory. Its direct-map entries must be back: only `DirectMap` calls this.
    pub(crate) fn free(self, frames: &mut FrameTable<'_>) {
        release(frames, self.pfn, self.order);
    }
}

impl Extent<Private> {
    /// The private extent that begins at a frame, if the records say that it is this guest's, at this address.
    pub(crate) fn claim(frames: &FrameTable<'_>, pfn: Pfn, guest: GuestId, at: Gfn) -> Option<Self> {
        match frames.state(pfn) {
            FrameState::Private { owner, gfn, order } if (owner, gfn) == (guest, at) => {
                pfn.is_aligned(1 << order).then(|| Self::found(pfn, order))
            }
            _ => None,
        }
    }

    /// Whose it is, and where: what the records, the reverse map, say.
    pub(crate) fn place(&self, frames: &FrameTable<'_>) -> Option<(GuestId, Gfn)> {
        match frames.head(self.pfn, self.order).state() {
            FrameState::Private { owner, gfn, order } if order == self.order => Some((owner, gfn)),
            _ => None,
        }
    }

    /// The guest's translations to it are gone from its tables and from every CPU.
    pub(crate) fn revoked(self, frames: &mut FrameTable<'_>) -> Extent<Dirty> {
        let order = self.order;
        self.step(frames, FrameState::Hidden { order })
    }
}

impl FrameTable<'_> {
    /// Cuts the private extent around a frame in halves, and those again, until the region around the frame is an extent of its own. Whose they
    /// are, and where, stays as it is.
    pub(crate) fn cut_private(&mut self, pfn: Pfn) {
        let FrameState::Private { owner, gfn, order } = self.state(pfn) else {
            panic!("broken invariant: {} is no guest's", pfn.hpa())
        };
        let mut first = Pfn::new(pfn.get() & !((1 << order) - 1));
        let mut at = Gfn::new(gfn.get() - (pfn.get() - first.get()));
        for order in (REGION_ORDER..order).rev() {
            for half in [0, 1 << order] {
                let (gfn, pfn) = (at.add(half), first.add(half));
                *self.head_mut(pfn, order) = FrameWord::new(FrameState::Private { owner, gfn, order });
            }
            if pfn >= first.add(1 << order) {
                (at, first) = (at.add(1 << order), first.add(1 << order));
            }
        }
    }

    /// Makes the private extent around a frame, a region at most, single frames. Whose they are, and where, stays as it is.
    pub(crate) fn break_private(&mut self, pfn: Pfn) {
        let FrameState::Private { owner, gfn, order } = self.state(pfn) else {
            panic!("broken invariant: {} is no guest's", pfn.hpa())
        };
        assert!(
            order <= REGION_ORDER,
            "broken invariant: an extent is to be cut before it is broken"
        );
        let first = Pfn::new(pfn.get() & !((1 << order) - 1));
        let at = Gfn::new(gfn.get() - (pfn.get() - first.get()));
        if order == REGION_ORDER {
            self.pool_begin(first);
        }
        for (gfn, pfn) in (0..1 << order).map(|page| (at.add(page), first.add(page))) {
            *self.head_mut(pfn, 0) = FrameWord::new(FrameState::Private { owner, gfn, order: 0 });
        }
    }

    /// Gives a gigablock, all of which is hidden by one entry, the table that the restore of a part of it needs: a zeroed one.
    pub(crate) fn park(&mut self, pfn: Pfn, table: TableFrame) {
        let index = self.known_block(pfn).gigablock();
        let table = table.link(self, 0);
        self.set_parked(index, Some(table));
    }
}

/// Back to the allocator.
fn release(frames: &mut FrameTable<'_>, pfn: Pfn, order: u8) {
    *frames.head_mut(pfn, order) = FrameWord::new(FrameState::Tail);
    frames.free(HostFrames::from_pfn(pfn, order));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// Two frames of a guest: whoever else asks for them, or with another address or size in mind, is told that they are not there.
    #[test]
    fn a_private_extent_is_what_its_record_says_and_nothing_else() {
        let (machine, mut memory, mut windows) = Fake::boot();
        let (guest, other) = (GuestId::new(1).unwrap(), GuestId::new(2).unwrap());
        let (at, elsewhere) = (Gfn::new(6), Gfn::new(8));
        let clean = memory.allocate_private(machine, &mut windows, 1).unwrap();
        let pfn = clean.pfn();
        let frames = &mut memory.frames;
        let extent = clean.assign(frames, guest, at);
        assert_eq!(extent.place(frames), Some((guest, at)));
        for order in [0, 2] {
            assert_eq!(
                Extent::<Private>::found(pfn, order).place(frames),
                None,
                "{order}"
            );
        }
        let claimed = Extent::claim(frames, pfn, guest, at).map(|extent| (extent.pfn(), extent.order()));
        assert_eq!(claimed, Some((pfn, 1)));
        for (pfn, guest, at) in [
            (pfn, other, at),
            (pfn, guest, elsewhere),
            (pfn.add(1), guest, at),
            (pfn.add(1), guest, at.add(1)),
            (pfn.add(2), guest, at),
        ] {
            assert!(
                Extent::claim(frames, pfn, guest, at).is_none(),
                "{pfn:?} {guest:?} {at:?}"
            );
        }
    }
}
