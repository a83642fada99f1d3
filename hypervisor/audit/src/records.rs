//! The check of a guest's tables against the mapper's own records of frames: what a leaf maps is recorded as that guest's, at that
//! address.

use core::fmt;

use crate::address::{K4, Pa, Va};
use crate::walk::{PhysicalRead, Tables, WalkError};

/// Whose a frame is, and at which address of that guest, as the mapper's own record of the frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner.
    pub owner: u64,
    /// The guest-physical address of the frame.
    pub gpa: Va,
}

/// A guest's second stage and the record of a frame disagree, or the tables are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordViolation {
    /// The tables are malformed.
    Walk(WalkError),
    /// The frame is not recorded as the guest's, at this address.
    Differs {
        /// The guest-physical address at which the guest maps the frame.
        gpa: Va,
        /// The frame.
        pa: Pa,
        /// What its record says; `None` when that names no guest.
        recorded: Option<Record>,
    },
}

impl fmt::Display for RecordViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::Differs { gpa, pa, recorded } => {
                write!(f, "guest-physical {gpa} translates to {pa}, whose record names ")?;
                match recorded {
                    Some(Record { owner, gpa }) => write!(f, "owner {owner} at {gpa}"),
                    None => f.write_str("no owner"),
                }
            }
        }
    }
}

impl core::error::Error for RecordViolation {}

/// Checks for each leaf of second-stage `tables` that the records of its first and its last frame name `owner` and the address at
/// which the leaf maps them. `record` looks the record of the frame at an address up; it is told where the leaf maps it, for records that do not
/// say by which alias.
///
/// It reads the tables, so [`check_second_stage`](crate::check_second_stage) should have found them where they may be read.
///
/// # Errors
/// The first difference in address order, or the first malformed place.
pub fn check_records<M: PhysicalRead + ?Sized>(
    tables: &Tables<'_, M>,
    owner: u64,
    mut record: impl FnMut(Pa, Va) -> Option<Record>,
) -> Result<(), RecordViolation> {
    for leaf in tables.leaves() {
        let leaf = leaf.map_err(RecordViolation::Walk)?;
        for offset in [0, leaf.size.bytes() - K4] {
            let (gpa, pa) = (Va::new(leaf.va.get() + offset), Pa::new(leaf.pa.get() + offset));
            let recorded = record(pa, gpa);
            if recorded != Some(Record { owner, gpa }) {
                return Err(RecordViolation::Differs { gpa, pa, recorded });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
