//! An independent page-table walker that checks what the memory subsystem did.
//!
//! It shares no code with the mapper, not even types, so that one misunderstanding cannot hide in both. It was written
//! from the manuals: AMD APM volume 2 sections 5.3 to 5.6 and 15.25, Intel SDM volume 3A section 4.5 and volume 3C section 29.3. It allocates
//! nothing, changes nothing, and takes every buffer from its caller, so it runs inside the hypervisor and on a RAM file outside.
//!
//! Data passes through in this order: [`PhysicalRead`] gives the words of RAM; [`Tables`] walks them into [`Leaf`]s ([`walk`],
//! [`entry`], [`extended`]); neighbours join to [`Run`]s and a digest ([`runs`]); [`direct_map`] turns the leaves of the direct map into one
//! [`Region`] for each 2M block of RAM; [`boot_record`] remembers those at boot and compares later; [`private`] holds the list of
//! private extents and checks that host tables never reach them and that a guest's tables reach its own exactly once; [`records`]
//! compares a guest's leaves with what the mapper has noted about their frames.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod boot_record;
pub mod direct_map;
pub mod entry;
pub mod extended;
pub mod private;
pub mod records;
pub mod runs;
pub mod walk;

pub use address::{Pa, Va};
pub use boot_record::{BootCheck, BootRecord, BootViolation, CaptureError};
pub use direct_map::{DirectMap, Extent, LayoutError, Region, RegionState, ScanError};
pub use entry::{Attributes, Entry, Format, Leaf, LeafSize};
pub use private::{
    ExpectedGuest, PrivateExtent, PrivateSet, PrivateViolation, Reach, SecondStageViolation, SetError,
    check_second_stage, check_unreachable,
};
pub use records::{Record, RecordViolation, check_records};
pub use runs::{Run, Runs, digest};
pub use walk::{LeafCounts, Leaves, PhysicalRead, Stats, Tables, Visit, Walk, WalkError};

#[cfg(test)]
mod test_ram;
