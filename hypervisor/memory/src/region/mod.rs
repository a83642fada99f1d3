//! The pool of hidden memory: one for all users, from 4 KiB to 1 GiB, side by side.
//!
//! Memory enters it by `carve` (which gigablock, which regions, and what to do when no whole region is free), is hidden in one batch and
//! zeroed. `pool` hands it out and takes it back: whole regions and gigablocks as they are, small extents from blocks with a buddy inside
//! (`frame::pool`). Regions that nobody uses stay in its cache up to a limit, or go back to the host. `shrinker` empties the cache
//! when free memory is low. [`Magazine`], one for each CPU, keeps single frames ready in front of it all. Mappings change only where
//! memory enters or leaves the pool, never when it changes hands inside.

mod access;
mod carve;
mod grow;
mod magazine;
mod pool;
mod restored;
mod scrubber;
mod shrinker;

pub use access::OutOfExtent;
pub(crate) use carve::Carving;
pub use grow::{Growing, Grown, PrivateError};
pub use magazine::Magazine;
pub use pool::Pool;
pub use restored::{Flushed, Restored};
pub use scrubber::Freeing;
pub(crate) use scrubber::Scrubber;
pub use shrinker::{SHRINK_STEP, Watermarks};
