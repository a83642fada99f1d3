//! How a raw disk starts Lacuna: the agreement between the boot sector (`boot.s`, this package's binary) and the program that writes
//! the disk (`xtask`).
//!
//! The disk is a PVH loader: whoever writes it prepares everything that such a loader hands over, except the memory map, which only
//! the machine knows.
//! 1. Sector 0 is the boot sector. The BIOS loads it.
//! 2. Sectors from [`PLAN_SECTOR`] are the plan. The boot sector loads it to [`PLAN`]; its parts are the constants `PLAN_*`.
//! 3. The rest is what the plan's pieces name: the image's segments and the guest archive, each from a sector on to a physical
//!    address. The boot sector loads them, adds the BIOS's memory map at [`MAP`], and jumps to the image's PVH entry.
#![no_std]

/// Bytes of a disk sector.
pub const SECTOR: u32 = 512;

/// Where the BIOS loads the boot sector, and jumps to.
pub const BOOT: u32 = 0x7c00;
/// Physical address of the plan.
pub const PLAN: u32 = BOOT + SECTOR;
/// First sector of the plan.
pub const PLAN_SECTOR: u32 = 1;
/// Sectors of the plan.
pub const PLAN_SECTORS: u32 = 8;

/// Offset in the plan of `hvm_start_info`, version 1, with zero entries of memory map.
pub const PLAN_START_INFO: u32 = 0;
/// Offset in the plan of the module list's one entry.
pub const PLAN_MODULE: u32 = 64;
/// Offset in the plan of the image's PVH entry, a physical address of 32 bits.
pub const PLAN_ENTRY: u32 = 96;
/// Offset in the plan of the pieces. A piece is three words of 32 bits: first sector, number of sectors, physical address. One of no
/// sectors ends them.
pub const PLAN_PIECES: u32 = 100;
/// Bytes of a piece.
pub const PIECE_BYTES: u32 = 12;
/// Offset in the plan of the command line, which ends with a zero.
pub const PLAN_COMMAND_LINE: u32 = 2048;

/// Physical address of the memory map's table, entries as PVH has them.
pub const MAP: u32 = 0x9000;
/// Most entries of the memory map.
pub const MAP_ENTRIES: u32 = 128;
/// Physical address of the buffer that the BIOS reads into: its calls reach only the first MiB.
pub const BUFFER: u32 = 0x1_0000;
/// Sectors for one call of the BIOS; some refuse more than 127 (Phoenix, Enhanced Disk Drive Specification 3.0, function 42h).
pub const READ_SECTORS: u32 = 127;

const _: () = {
    use pvh::start_info::{ModlistEntry, StartInfo};
    assert!(PLAN_START_INFO + size_of::<StartInfo>() as u32 <= PLAN_MODULE);
    assert!(PLAN_MODULE + size_of::<ModlistEntry>() as u32 <= PLAN_ENTRY);
    assert!(PLAN_COMMAND_LINE < PLAN_SECTORS * SECTOR);
    assert!(PLAN + PLAN_SECTORS * SECTOR <= MAP);
    assert!(MAP + MAP_ENTRIES * size_of::<pvh::start_info::MemmapTableEntry>() as u32 <= BUFFER);
    // Below the extended BIOS data area, which may begin at 0x80000 (ACPI 6.5, 5.2.5.1, looks for it from there).
    assert!(BUFFER + READ_SECTORS * SECTOR <= 0x8_0000);
};
