//! What is hidden and whose, for the walker: the living guests' regions and pieces, as their second stages and the frame records have them, and what
//! the pool keeps.

use core::fmt;

use audit::{Pa, PrivateExtent, PrivateSet};
use memory::address::{PAGE_SIZE, Pfn, REGION_ORDER};

use super::Memories;
use crate::frames::with_memory;
use crate::hardware::Hardware;

/// The owner of hidden memory that no guest has; a guest's number is not 0.
const NOBODY: u64 = 0;

/// Why there is no list of what is private.
#[derive(Debug)]
pub enum PrivateError {
    /// The guests name more pieces of memory than there is room for; the number that fit.
    TooMany(usize),
    /// Two guests, or one guest twice, name the same region.
    Overlap(audit::SetError),
}

impl fmt::Display for PrivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(slots) => write!(
                f,
                "the guests' lists name more than {slots} pieces of memory: RAM is torn to shreds, or one is on two lists"
            ),
            Self::Overlap(error) => write!(f, "the guests' lists name a region twice: {error}"),
        }
    }
}

/// Puts what is hidden, sorted, into `private`: the guests' regions and pieces, and what nobody has.
pub(super) fn gather<'p>(
    private: &'p mut [PrivateExtent],
    guests: &dyn Memories,
) -> Result<PrivateSet<'p>, PrivateError> {
    let mut gathered = Gathered {
        extents: private,
        count: 0,
        result: Ok(()),
    };
    guests.each(&mut |guest| {
        let owner = guest.id().get().into();
        with_memory(|memory| {
            for pfn in guest.regions(&Hardware, &memory.frames) {
                gathered.add(pfn, REGION_ORDER, owner);
            }
            for (pfn, order) in guest.pieces(&Hardware, &memory.frames) {
                gathered.add(pfn, order, owner);
            }
            // In a test build it is below, with all that is nobody's.
            if cfg!(not(feature = "test-hooks")) {
                for (pfn, order) in guest.drawn(&memory.frames) {
                    gathered.add(pfn, order, NOBODY);
                }
            }
        });
    });
    with_memory(|memory| {
        let add = |pfn, order| gathered.add(pfn, order, NOBODY);
        // What the stress holds is hidden, too.
        #[cfg(feature = "test-hooks")]
        memory.test_hidden(add);
        #[cfg(not(feature = "test-hooks"))]
        memory.each_unused(add);
    });
    let Gathered {
        extents,
        count,
        result,
    } = gathered;
    result?;
    let extents = extents.get_mut(..count).unwrap_or_default();
    extents.sort_unstable_by_key(|extent| extent.start);
    PrivateSet::new(extents).map_err(PrivateError::Overlap)
}

/// Extents as they are found; neighbours that come one after the other are one.
struct Gathered<'p> {
    extents: &'p mut [PrivateExtent],
    count: usize,
    result: Result<(), PrivateError>,
}

impl Gathered<'_> {
    fn add(&mut self, pfn: Pfn, order: u8, owner: u64) {
        let start = Pa::new(pfn.hpa().get());
        let end = Pa::new(start.get() + (PAGE_SIZE << order));
        let last = self
            .count
            .checked_sub(1)
            .and_then(|last| self.extents.get_mut(last));
        if let Some(last) = last
            && (last.end, last.owner) == (start, owner)
        {
            last.end = end;
            return;
        }
        let slots = self.extents.len();
        match self.extents.get_mut(self.count) {
            Some(slot) => {
                *slot = PrivateExtent { start, end, owner };
                self.count += 1;
            }
            None => self.result = Err(PrivateError::TooMany(slots)),
        }
    }
}
