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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(pub(super) Option<u16>);

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
    /// A region taken from the host allocator, still in the direct map.
    Carved,
    /// A region whose direct-map entry is cleared; translations may still be cached until its batch is flushed.
    Unmapped,
    /// A region out of the direct map that no guest owns.
    Hidden,
    /// A private frame or region of one guest, at one guest-physical address.
    Private {
        /// Whose.
        owner: GuestId,
        /// Where in the guest: of the first frame.
        gfn: Gfn,
    },
}

bitfield! {
    /// The word's fields. Which of them hold something depends on `kind`; setters truncate, so only [`FrameWord`]'s
    /// constructors, which check, use them.
    #[derive(Clone, Copy)]
    struct Fields(u64);
    kind, set_kind: 3, 0;
    // Free and Host.
    order, set_order: 8, 4;
    // Free: unit numbers, 0x3ff for none.
    previous_unit, set_previous_unit: 19, 10;
    next_unit, set_next_unit: 29, 20;
    // Table.
    canonical, set_canonical: 19, 10;
    // TableListed: frame number plus one, 0 for none.
    next_table, set_next_table: 50, 10;
    // Private.
    owner, set_owner: 19, 4;
    gfn, set_gfn: 55, 20;
}

const NO_UNIT: u64 = 0x3ff;

/// The encoded state of one frame or block.
#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct FrameWord(u64);

impl FrameWord {
    /// The word for a state. A free run's links are set by [`FrameWord::free`].
    pub(super) fn new(state: FrameState) -> Self {
        let mut fields = Fields(0);
        match state {
            FrameState::Absent => fields.set_kind(0),
            FrameState::Reserved => fields.set_kind(1),
            FrameState::Free { order } => return Self::free(order, Link(None), Link(None)),
            FrameState::Tail => fields.set_kind(3),
            FrameState::Host { order } => {
                fields.set_kind(4);
                fields.set_order(u64::from(order & 0x1f));
            }
            FrameState::Table { canonical } => {
                fields.set_kind(5);
                fields.set_canonical(u64::from(canonical.min(512)));
            }
            FrameState::TableListed { next } => {
                fields.set_kind(6);
                // A frame number of RAM is below 2^40; one above it never entered the table of frames.
                fields.set_next_table(next.map_or(0, |pfn| pfn.get().min(MAX_PFN) + 1));
            }
            FrameState::Mixed => fields.set_kind(7),
            FrameState::Carved => fields.set_kind(8),
            FrameState::Unmapped => fields.set_kind(9),
            FrameState::Hidden => fields.set_kind(10),
            FrameState::Private { owner, gfn } => {
                fields.set_kind(11);
                fields.set_owner(u64::from(owner.get()));
                fields.set_gfn(gfn.min(MAX_GFN).get());
            }
        }
        Self(fields.0)
    }

    /// The word for the first unit of a free run.
    pub(super) fn free(order: u8, previous: Link, next: Link) -> Self {
        let mut fields = Fields(0);
        fields.set_kind(2);
        fields.set_order(u64::from(order & 0x1f));
        fields.set_previous_unit(previous.0.map_or(NO_UNIT, u64::from));
        fields.set_next_unit(next.0.map_or(NO_UNIT, u64::from));
        Self(fields.0)
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
            6 => FrameState::TableListed {
                next: fields.next_table().checked_sub(1).map(Pfn::new),
            },
            7 => FrameState::Mixed,
            8 => FrameState::Carved,
            9 => FrameState::Unmapped,
            10 => FrameState::Hidden,
            11 => match GuestId::new(fields.owner() as u16) {
                Some(owner) => FrameState::Private {
                    owner,
                    gfn: Gfn::new(fields.gfn()),
                },
                None => FrameState::Absent,
            },
            _ => FrameState::Absent,
        }
    }

    /// The order and the links, when the word is that of a free run.
    pub(super) fn free_run(self) -> Option<(u8, Link, Link)> {
        let fields = Fields(self.0);
        let link = |unit: u64| Link((unit != NO_UNIT).then_some(unit as u16));
        (fields.kind() == 2).then(|| {
            (
                (fields.order() & 0x1f) as u8,
                link(fields.previous_unit()),
                link(fields.next_unit()),
            )
        })
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
            FrameState::Carved,
            FrameState::Unmapped,
            FrameState::Hidden,
        ];
        for state in states {
            assert_eq!(FrameWord::new(state).state(), state);
        }
    }

    proptest! {
        #[test]
        fn owners_and_guest_addresses_survive(owner in 1u16.., gfn in 0u64..1 << 36) {
            let state = FrameState::Private { owner: GuestId::new(owner).unwrap(), gfn: Gfn::new(gfn) };
            prop_assert_eq!(FrameWord::new(state).state(), state);
        }

        #[test]
        fn links_survive(order in 0u8..=9, previous in prop::option::of(0u16..512), next in prop::option::of(0u16..512)) {
            let word = FrameWord::free(order, Link(previous), Link(next));
            prop_assert_eq!(word.free_run(), Some((order, Link(previous), Link(next))));
        }
    }
}
