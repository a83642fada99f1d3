//! Frame state and the allocator of host memory.
//!
//! RAM is a two-level tree that mirrors the page tables: *gigablocks* of 512 *blocks* (2 MiB), blocks of 512 frames. What a
//! frame is stands in one word ([`state`]). A block whose frames agree has one word for all of them; only a *mixed*
//! block uses its frames' own words, so a whole region changes hands by one write and the words of most RAM are never touched.
//!
//! [`records`] lays the records out over the memory map, `buddy` is the one buddy algorithm that serves both levels, `partial` and
//! `shelves` (on `bit_tree`) find the block or the gigablock to take from. [`allocator`] hands out ordinary memory of 4 KiB to 1 GiB.
//! [`extent`] has the states of memory that is hidden, [`extent_list`] and [`table_frame`] thread lists through the records, so that no
//! list needs memory of its own. `pool` takes small extents from hidden blocks.

pub mod allocator;
mod bit_tree;
mod buddy;
pub mod extent;
pub mod extent_list;
mod partial;
pub(crate) mod pool;
pub mod records;
mod shelves;
pub mod state;
pub mod table_frame;

pub use allocator::{HostFrames, OutOfMemory};
pub use records::FrameTable;
pub use state::{FrameState, GuestId};
