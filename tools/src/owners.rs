//! Whose memory is whose, by the guests' own tables.

use audit::{
    ExpectedGuest, Pa, PhysicalRead, PrivateExtent, PrivateSet, SecondStageViolation, Tables, WalkError,
    check_second_stage,
};

use crate::reach::{Frames, SHARED_FROM};

/// What the guests' second stages say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// All private memory of guests, with what they share in place. The owner is the guest's place in the list that was given, from 1; of two guests that have the same frame it is the
    /// first.
    pub frames: Vec<Frames>,
    /// Guests, by their place in the list from 1, whose tables map a frame of another guest, or one of theirs twice, or a private one at the
    /// shared alias, or let them reach it past the
    /// caches; and what of it was found first.
    pub wrong: Vec<(u64, SecondStageViolation)>,
}

/// Walks the second stages of all guests. What they map at their shared alias and the host's tables do not show is shared in place.
///
/// # Errors
/// The tables of a guest, by its place in the list from 1, are malformed, or those of the host, met when that guest's were compared.
pub fn owners<M: PhysicalRead + ?Sized>(
    guests: &[Tables<'_, M>],
    host: &Tables<'_, M>,
) -> Result<Owners, (u64, WalkError)> {
    let (mut frames, mut in_place) = (Vec::new(), Vec::new());
    for (owner, tables) in (1..).zip(guests) {
        frames.extend(Frames::of_second_stage(tables, owner).map_err(|error| (owner, error))?);
        in_place.extend(Frames::in_place(tables, owner, host).map_err(|error| (owner, error))?);
    }
    frames.extend(&in_place);
    let frames = Frames::sorted(frames);
    let extents: Vec<PrivateExtent> = frames.iter().map(|frames| (*frames).into()).collect();
    // Sorted and cut as they are, they are a set.
    let private = PrivateSet::new(&extents).unwrap_or(PrivateSet::EMPTY);
    let wrong = (1..).zip(guests).filter_map(|(owner, tables)| {
        let violation = check_second_stage(tables, &private, expected(owner, &in_place)).err()?;
        Some((owner, violation))
    });
    Ok(Owners {
        wrong: wrong.collect(),
        frames,
    })
}

/// What a guest has lost for the moment nobody here knows: what its tables lead to is all that it has.
fn expected(
    owner: u64,
    in_place: &[Frames],
) -> ExpectedGuest<impl Iterator<Item = (Pa, Pa)>, impl Iterator<Item = (Pa, Pa)>> {
    let own = in_place.iter().filter(move |frames| frames.owner == owner);
    ExpectedGuest {
        owner,
        shared_from: SHARED_FROM,
        unreachable: std::iter::empty(),
        in_place: own.map(|frames| (Pa::new(frames.start), Pa::new(frames.end))),
    }
}

impl From<Frames> for PrivateExtent {
    fn from(frames: Frames) -> Self {
        Self {
            start: Pa::new(frames.start & !0xfff),
            end: Pa::new(frames.end.next_multiple_of(4096)),
            owner: frames.owner,
        }
    }
}
