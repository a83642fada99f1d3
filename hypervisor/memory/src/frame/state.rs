//! What a frame, or a whole block of 512 frames, is at the moment: one 64-bit word.

use core::fmt;

use bitfield::bitfield;

use crate::address::{Gfn, Pfn};

/// A guest's number, unique among the guests alive. 0 is never a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestId(u16);

impl GuestId {
    /// The guest with this number; `None` for 0.
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Largest guest frame number that a word can hold: 36 bits, 48 bits of guest-physical address (APM vol. 2, 15.25: guest
/// physical addresses are at most as wide as host physical ones; no current part offers guests more than 48 bits).
pub const MAX_GFN: Gfn = Gfn::new((1 << 36) - 1);
/// Largest frame number that a word can hold: 40 bits, all of the 52 architectural address bits.
const MAX_PFN: u64 = (1 << 40) - 1;

/// A place in a chain of free runs within one buddy: a unit number 0 to 511, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct Link(u16);

impl Link {
    /// No unit: as wide as a word has room for.
    pub(super) const NONE: Self = Self(0x3ff);

    /// A unit below 512.
    pub(super) const fn to(unit: u16) -> Self {
        Self(unit)
    }

    /// The unit.
    pub(super) fn unit(self) -> Option<u16> {
        (self != Self::NONE).then_some(self.0)
    }
}

/// What a frame or a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Not RAM.
    Absent,
    /// RAM that was in use before the allocator existed: image, boot data, the frame records themselves. Never freed.
    Reserved,
    /// First unit of a free run of `1 << order` units.
    Free {
        /// log2 of the run's units.
        order: u8,
    },
    /// Not the first unit of its run: what holds for the run's first unit holds here.
    Tail,
    /// First unit of an extent of ordinary memory, allocated as `1 << order` frames.
    Host {
        /// log2 of the extent's frames.
        order: u8,
    },
    /// A translation table.
    Table {
        /// How many of its 512 entries equal the canonical one; a hint for merging.
        canonical: u16,
    },
    /// A table frame on a list: in a reserve, or unlinked and waiting for a flush.
    TableListed {
        /// The next one on the list.
        next: Option<Pfn>,
    },
    /// A block whose frames have words of their own.
    Mixed,
    /// A hidden block whose frames have words of their own: private memory below 2 MiB comes from here.
    Pooled,
    /// First unit of a hidden run of `1 << order` frames in a block, zeroed and nobody's.
    PoolFree {
        /// log2 of the run's frames.
        order: u8,
    },
    /// An extent taken from the host allocator to be hidden, still in the direct map.
    Carved {
        /// log2 of the extent's frames.
        order: u8,
    },
    /// An extent whose direct-map entries are cleared; translations may still be cached until its batch is flushed.
    Unmapped {
        /// log2 of the extent's frames.
        order: u8,
    },
    /// An extent out of the direct map that no guest owns.
    Hidden {
        /// log2 of the extent's frames.
        order: u8,
    },
    /// A private extent of one guest, at one guest-physical address.
    Private {
        /// Whose.
        owner: GuestId,
        /// Where in the guest: of the first frame; asked for a frame, of that one.
        gfn: Gfn,
        /// log2 of the extent's frames.
        order: u8,
    },
    /// An ordinary frame that a guest shares with the host, at one page of that guest's shared alias.
    Shared {
        /// Whose.
        owner: GuestId,
        /// Which page, by its number at the private alias.
        gfn: Gfn,
    },
    /// Memory that could not be made safe: out of the direct map and out of use for good.
    Quarantined {
        /// log2 of the extent's frames.
        order: u8,
    },
}

impl FrameState {
    /// log2 of the frames of the extent that begins here, for states that have one.
    pub(super) fn extent_order(self) -> Option<u8> {
        match self {
            Self::Host { order }
            | Self::Carved { order }
            | Self::Unmapped { order }
            | Self::Hidden { order }
            | Self::Private { order, .. }
            | Self::Quarantined { order } => Some(order),
            _ => None,
        }
    }
}

bitfield! {
    /// The word's fields. Which of them hold something depends on `kind`; setters truncate, so only [`FrameWord`]'s
    /// constructors, which check, use them.
    #[derive(Clone, Copy)]
    struct Fields(u64);
    kind, set_kind: 3, 0;
    // All kinds with an order but Private.
    order, set_order: 8, 4;
    // Free and PoolFree: links.
    previous_unit, set_previous_unit: 19, 10;
    next_unit, set_next_unit: 29, 20;
    // Table.
    canonical, set_canonical: 19, 10;
    // TableListed, and extents below 2 MiB on a list: frame number plus one, 0 for none.
    next_listed, set_next_listed: 50, 10;
    // Private, and but for the order Shared.
    owner, set_owner: 19, 4;
    gfn, set_gfn: 55, 20;
    private_order, set_private_order: 60, 56;
}

/// A link to a frame as a word holds it. A frame number of RAM is below 2^40; one above it never entered the table of frames.
fn listed(next: Option<Pfn>) -> u64 {
    next.map_or(0, |pfn| pfn.get().min(MAX_PFN) + 1)
}

/// The encoded state of one frame or block.
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct FrameWord(u64);

/// Which free runs: those of the host allocator, or those of the pool of hidden memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    /// Free ordinary memory.
    Host = 2,
    /// Free hidden memory.
    Pool = 12,
}

impl FrameWord {
    /// The word for [`FrameState::Tail`].
    pub(super) const TAIL: Self = Self(3);

    /// The word for a state. A free run's links are set by [`FrameWord::free`].
    pub(super) fn new(state: FrameState) -> Self {
        let of_order = |kind: u64, order: u8| {
            let mut fields = Fields(0);
            fields.set_kind(kind);
            fields.set_order(u64::from(order & 0x1f));
            fields
        };
        let of_kind = |kind: u64| of_order(kind, 0);
        let fields = match state {
            FrameState::Absent => of_kind(0),
            FrameState::Reserved => of_kind(1),
            FrameState::Free { order } => return Self::free(RunKind::Host, order, Link::NONE, Link::NONE),
            FrameState::PoolFree { order } => {
                return Self::free(RunKind::Pool, order, Link::NONE, Link::NONE);
            }
            FrameState::Tail => return Self::TAIL,
            FrameState::Host { order } => of_order(4, order),
            FrameState::Table { canonical } => {
                let mut fields = of_kind(5);
                fields.set_canonical(u64::from(canonical.min(512)));
                fields
            }
            FrameState::TableListed { next } => {
                let mut fields = of_kind(6);
                fields.set_next_listed(listed(next));
                fields
            }
            FrameState::Mixed => of_kind(7),
            FrameState::Carved { order } => of_order(8, order),
            FrameState::Unmapped { order } => of_order(9, order),
            FrameState::Hidden { order } => of_order(10, order),
            FrameState::Private { owner, gfn, order } => {
                let mut fields = of_kind(11);
                fields.set_owner(u64::from(owner.get()));
                fields.set_gfn(gfn.min(MAX_GFN).get());
                fields.set_private_order(u64::from(order & 0x1f));
                fields
            }
            FrameState::Pooled => of_kind(13),
            FrameState::Shared { owner, gfn } => {
                let mut fields = of_kind(15);
                fields.set_owner(u64::from(owner.get()));
                fields.set_gfn(gfn.min(MAX_GFN).get());
                fields
            }
            FrameState::Quarantined { order } => of_order(14, order),
        };
        Self(fields.0)
    }

    /// The word for the first unit of a free run.
    pub(super) fn free(kind: RunKind, order: u8, previous: Link, next: Link) -> Self {
        let mut fields = Fields(0);
        fields.set_kind(kind as u64);
        fields.set_order(u64::from(order & 0x1f));
        fields.set_previous_unit(u64::from(previous.0));
        fields.set_next_unit(u64::from(next.0));
        Self(fields.0)
    }

    /// Whether this is the word of a free run of this kind and order.
    pub(super) fn is_free_run(self, kind: RunKind, order: u8) -> bool {
        let fields = Fields(self.0);
        fields.kind() == kind as u64 && fields.order() == u64::from(order)
    }

    /// The links of a free run: the one before it, and the one after it.
    pub(super) fn links(self) -> (Link, Link) {
        let fields = Fields(self.0);
        (
            Link(fields.previous_unit() as u16),
            Link(fields.next_unit() as u16),
        )
    }

    /// The word of a free run that comes after another one from now on.
    pub(super) fn after(self, previous: Link) -> Self {
        let mut fields = Fields(self.0);
        fields.set_previous_unit(u64::from(previous.0));
        Self(fields.0)
    }

    /// The word of a free run that comes before another one from now on.
    pub(super) fn before(self, next: Link) -> Self {
        let mut fields = Fields(self.0);
        fields.set_next_unit(u64::from(next.0));
        Self(fields.0)
    }

    /// The same word with the next extent of the list that this one, below 2 MiB and no guest's, is on.
    pub(super) fn with_next(self, next: Option<Pfn>) -> Self {
        let mut fields = Fields(self.0);
        fields.set_next_listed(listed(next));
        Self(fields.0)
    }

    /// What [`FrameWord::with_next`] said.
    pub(super) fn next(self) -> Option<Pfn> {
        Fields(self.0).next_listed().checked_sub(1).map(Pfn::new)
    }

    /// The state that the word stands for.
    pub(super) fn state(self) -> FrameState {
        let fields = Fields(self.0);
        let order = (fields.order() & 0x1f) as u8;
        match fields.kind() {
            1 => FrameState::Reserved,
            2 => FrameState::Free { order },
            3 => FrameState::Tail,
            4 => FrameState::Host { order },
            5 => FrameState::Table {
                canonical: fields.canonical() as u16,
            },
            6 => FrameState::TableListed { next: self.next() },
            7 => FrameState::Mixed,
            8 => FrameState::Carved { order },
            9 => FrameState::Unmapped { order },
            10 => FrameState::Hidden { order },
            11 => match GuestId::new(fields.owner() as u16) {
                Some(owner) => FrameState::Private {
                    owner,
                    gfn: Gfn::new(fields.gfn()),
                    order: (fields.private_order() & 0x1f) as u8,
                },
                None => FrameState::Absent,
            },
            12 => FrameState::PoolFree { order },
            13 => FrameState::Pooled,
            14 => FrameState::Quarantined { order },
            15 => match GuestId::new(fields.owner() as u16) {
                Some(owner) => FrameState::Shared {
                    owner,
                    gfn: Gfn::new(fields.gfn()),
                },
                None => FrameState::Absent,
            },
            _ => FrameState::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_state_survives_its_word() {
        let states = [
            FrameState::Absent,
            FrameState::Reserved,
            FrameState::Free { order: 9 },
            FrameState::Tail,
            FrameState::Host { order: 18 },
            FrameState::Table { canonical: 512 },
            FrameState::TableListed { next: None },
            FrameState::TableListed {
                next: Some(Pfn::new(0)),
            },
            FrameState::TableListed {
                next: Some(Pfn::new(MAX_PFN)),
            },
            FrameState::Mixed,
            FrameState::Pooled,
            FrameState::PoolFree { order: 8 },
            FrameState::Carved { order: 18 },
            FrameState::Unmapped { order: 9 },
            FrameState::Hidden { order: 0 },
            FrameState::Quarantined { order: 17 },
        ];
        for state in states {
            assert_eq!(FrameWord::new(state).state(), state);
        }
    }

    #[test]
    fn what_a_word_has_no_room_for_is_the_largest_that_it_has() {
        let owner = GuestId::new(7).unwrap();
        let private = |gfn| FrameState::Private {
            owner,
            gfn: Gfn::new(gfn),
            order: 9,
        };
        let shared = |gfn| FrameState::Shared {
            owner,
            gfn: Gfn::new(gfn),
        };
        let listed = |pfn| FrameState::TableListed {
            next: Some(Pfn::new(pfn)),
        };
        let (gfns, pfns) = (1 << 36, 1 << 40);
        for (state, holds) in [
            (private(gfns), private(gfns - 1)),
            (shared(gfns + 5), shared(gfns - 1)),
            (listed(pfns), listed(pfns - 1)),
        ] {
            assert_eq!(FrameWord::new(state).state(), holds);
        }
    }

    proptest! {
        #[test]
        fn owners_and_guest_addresses_survive(owner in 1u16.., gfn in 0u64..1 << 36, order in 0u8..=18) {
            let state = FrameState::Private { owner: GuestId::new(owner).unwrap(), gfn: Gfn::new(gfn), order };
            prop_assert_eq!(FrameWord::new(state).state(), state);
            let state = FrameState::Shared { owner: GuestId::new(owner).unwrap(), gfn: Gfn::new(gfn) };
            prop_assert_eq!(FrameWord::new(state).state(), state);
        }

        #[test]
        fn links_survive(order in 0u8..=9, links in prop::collection::vec(prop::option::of(0u16..512), 4)) {
            let links: std::vec::Vec<Link> = links.into_iter().map(|unit| unit.map_or(Link::NONE, Link::to)).collect();
            for (kind, other) in [(RunKind::Host, RunKind::Pool), (RunKind::Pool, RunKind::Host)] {
                let word = FrameWord::free(kind, order, links[0], links[1]);
                prop_assert_eq!(word.links(), (links[0], links[1]));
                prop_assert!(word.is_free_run(kind, order) && !word.is_free_run(other, order));
                prop_assert!(!word.is_free_run(kind, order ^ 1));
                let word = word.after(links[2]).before(links[3]);
                prop_assert!(word == FrameWord::free(kind, order, links[2], links[3]));
            }
            prop_assert_eq!(FrameWord::TAIL.state(), FrameState::Tail);
        }
    }
}
