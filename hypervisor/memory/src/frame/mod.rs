//! Frame state and the allocator of host memory.
//!
//! RAM is a two-level tree that mirrors the page tables: *gigablocks* of 512 *blocks* (2 MiB), blocks of 512 frames. What a
//! frame is stands in one word ([`state`]). A block whose frames agree has one word for all of them; only a *mixed*
//! block uses its frames' own words, so a whole region changes hands by one write and the words of most RAM are never touched.
//!
//! [`records`] lays the records out over the memory map, `buddy` is the one buddy algorithm that serves both levels,
//! [`allocator`] hands out ordinary memory of 4 KiB to 1 GiB, and [`list`] has the states of a region and threads lists through the
//! records, so that no list needs memory of its own.

pub mod allocator;
mod buddy;
pub mod list;
pub mod records;
pub mod state;

pub use allocator::{HostFrames, OutOfMemory};
pub use records::FrameTable;
pub use state::{FrameState, GuestId};
