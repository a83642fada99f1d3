//! A model of what translations cost: TLBs, page-walk caches and the caches that the walker reads through.
//!
//! [`geometry`] says what a core has, as data with its sources; [`mod@array`] is one set-associative array; [`mapping`] is a direct map
//! as the independent walker met it, leaves and tables; [`model`] sends addresses through all of that and counts. One address at a time, in
//! order: nothing is overlapped, prefetched or speculated, so its cycles are an upper bound for work whose accesses depend on each other.

pub mod array;
pub mod geometry;
pub mod mapping;
pub mod model;

pub use array::Replacement;
pub use geometry::{GEOMETRIES, Geometry, PageSize};
pub use mapping::{Mapping, MappingError};
pub use model::{Counts, Dimensions, Model, NotMapped};
