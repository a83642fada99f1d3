//! From the early tables to our own: RAM, page tables, stacks, frame records.
//!
//! [`ram`] normalises the firmware's map, leaves out what is not write-back, and knows what is in use; [`cpu_area`] says where a CPU's
//! stacks are; [`tables`] builds the direct map, the image by section, the stacks with their guard pages and the CPU's window slot, in
//! frames of a small pool; [`switch`] changes over; [`records`] puts the frame records into the highest RAM and hands all of it to
//! `memory`. [`archive`] finds the guests. Later, when this CPU can run guests, [`other_cpus`] starts the others, and [`newcomer`] is what each does first.

pub mod archive;
pub mod cpu_area;
pub mod newcomer;
pub mod other_cpus;
pub mod ram;
pub mod records;
pub mod switch;
pub mod tables;
