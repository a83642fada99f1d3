//! Translation tables.
//!
//! [`format`] says how an entry is written, one implementation for each layout that hardware knows ([`ept`] is Intel's second stage); [`build`] makes the
//! host's tables at boot, before there is an allocator; `edit` is the single place where an entry of a live table is
//! written afterwards: it fills, clears, links, splits, permits more, and merges.

pub mod build;
pub(crate) mod edit;
pub mod ept;
pub mod format;
pub(crate) mod mark;

pub use build::{BuildError, TableBuilder};
pub use ept::{Ept, EptAttributes};
pub use format::{Attributes, Decoded, Format, LongMode};
