//! The boot sector: `boot.s`, assembled with the numbers of the library. Nothing of Rust runs here.
#![no_std]
#![no_main]

use core::mem::offset_of;
use core::panic::PanicInfo;

use disk_boot::*;
use pvh::start_info::{MemmapTableEntry, StartInfo};

core::arch::global_asm!(
    include_str!("boot.s"),
    plan = const PLAN,
    plan_sector = const PLAN_SECTOR,
    plan_sectors = const PLAN_SECTORS,
    start_info = const PLAN + PLAN_START_INFO,
    map_entries = const PLAN + PLAN_START_INFO + offset_of!(StartInfo, memmap_entries) as u32,
    image_entry = const PLAN + PLAN_ENTRY,
    pieces = const PLAN + PLAN_PIECES,
    piece_bytes = const PIECE_BYTES,
    map = const MAP,
    map_end = const MAP + MAP_ENTRIES * size_of::<MemmapTableEntry>() as u32,
    map_entry = const size_of::<MemmapTableEntry>(),
    buffer = const BUFFER,
    buffer_segment = const BUFFER >> 4,
    read_sectors = const READ_SECTORS,
    options(att_syntax)
);

/// Required of every binary; there is no code that could panic.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
