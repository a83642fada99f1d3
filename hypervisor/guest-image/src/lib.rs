//! From the boot module to what must be written into a guest's memory.
//!
//! Data passes through in this order:
//!
//! 1. [`Archive`]: the boot module is a tar; each file in it is a guest. The whole archive is checked when it is opened.
//! 2. [`Image`]: one of its files, checked as a hostile ELF: every segment lies in the file, in the guest's memory and above the
//!    launch area, and none overlap. Nothing of the file is trusted that was not checked here.
//! 3. [`Launch`]: what the hypervisor adds below 1 MiB (GDT, launch information, identity page tables), as a sequence of writes, and
//!    the registers to start with.
//! 4. [`Measuring`]: the digest over all of that, as it lies in memory.
//!
//! Nothing here writes memory, allocates, or panics on input; the caller zeroes the guest's memory first and does the writes.
#![cfg_attr(not(test), no_std)]

mod archive;
mod image;
mod launch;
mod measurement;

pub use archive::{Archive, ArchiveError, FILES_MAX, File};
pub use image::{Image, ImageError, SEGMENTS_MAX, Segment};
pub use launch::{Launch, LaunchError, StartState};
pub use measurement::{Digest, Flags, Measuring, OutOfOrder, PageKind};
