//! The report: JSON lines for programs, text for people.
//!
//! The hypervisor gathers plain values: [`event`]s (one struct for each JSON line of `docs/report-schema.md`), and [`block`]
//! spans, which say how each 2M block of RAM is mapped. [`json`] writes events as lines, never a part of one. From the spans come the `gigablocks` of a
//! `phase` line ([`gigablock`]) and the picture of the direct map ([`picture`]). [`summary`] writes the numbers as text. What guests
//! print becomes whole, plain and limited lines by [`guest_text`].
//! Nothing here allocates or has a size that depends on the amount of RAM.
//!
//! Programs that read the lines use the same structs: feature `read` makes every event deserialisable with
//! `serde_json::from_str::<Event<String>>(line)`.
#![no_std]

#[cfg(feature = "read")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod block;
pub mod event;
pub mod gigablock;
pub mod guest_text;
pub mod json;
pub mod picture;
pub mod summary;

pub use block::{BlockState, Span};
#[cfg(feature = "read")]
pub use event::Phase;
pub use event::{
    Bench, Check, Counters, Event, Guest, Latency, Leaves, Machine, Outcome, Pause, PhaseHeader, Pmu,
    PmuCount, PmuEvent, Probe, ReportValue, SCHEMA, Skip, Start, Stress, Trace, Verdict, View,
};
pub use gigablock::{Gigablock, Gigablocks};
pub use guest_text::GuestText;
pub use json::{LINE_BYTES, WriteError, write_event, write_phase};
pub use picture::{Picture, PictureFull};
pub use summary::{PhaseColumn, Summary, write_summary};
