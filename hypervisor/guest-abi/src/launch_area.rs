//! Guest-physical addresses of what the hypervisor puts into a guest's memory before it starts. All of it lies below 1 MiB;
//! the guest's own image lies above.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 0x1000 | zero |
//! | 0x1000 | 0x2000 | [`LaunchInfo`](crate::LaunchInfo), then zeros |
//! | 0x2000 | 0x3000 | GDT, then zeros |
//! | 0x3000 | 0x40000 | zero |
//! | 0x40000 | 0x80000 | stack, zero, grows down |
//! | 0x80000 | 0x100000 | page tables, as many as the memory needs, then zeros |
//!
//! A guest starts in 64-bit mode with paging on, CS = [`CODE_SELECTOR`], SS and the data segments = [`DATA_SELECTOR`], interrupts
//! off, RSP = [`START_RSP`], RDI = [`LAUNCH_INFO`], CR4.OSFXSR and CR4.OSXMMEXCPT set, every other register zero or in its
//! initial state. There is no IDT: an exception is a triple fault until the guest loads one.

/// Size of a page.
pub const PAGE: u64 = 4096;
/// The [`LaunchInfo`](crate::LaunchInfo) page; also in RDI at the start.
pub const LAUNCH_INFO: u64 = 0x1000;
/// The GDT that GDTR points to: null, code, data.
pub const GDT: u64 = 0x2000;
/// Selector of the flat 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the flat data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Lowest byte of the stack.
pub const STACK_START: u64 = 0x4_0000;
/// First byte above the stack.
pub const STACK_END: u64 = 0x8_0000;
/// RSP at the start: as if the entry point had been called, so that RSP + 8 is a multiple of 16 (System V ABI, AMD64, 3.2.2).
pub const START_RSP: u64 = STACK_END - 8;
/// The top-level page table, the value of CR3 at the start; the other tables follow.
pub const PAGE_TABLES_START: u64 = 0x8_0000;
/// First byte above the room for page tables.
pub const PAGE_TABLES_END: u64 = 0x10_0000;
/// Lowest address of a guest's own image.
pub const IMAGE_START: u64 = 0x10_0000;
/// The identity map covers at least this much, whatever the memory size, so that a guest can name addresses it does not own.
pub const IDENTITY_MIN: u64 = 4 << 30;
/// Most memory a guest may have: one top-level table, one third-level table, and a second-level table (2M leaves) for each GiB
/// that fits into the room for page tables. 126 GiB.
pub const MEMORY_MAX: u64 = ((PAGE_TABLES_END - PAGE_TABLES_START) / PAGE - 2) << 30;

const _: () = assert!(MEMORY_MAX == 126 << 30 && MEMORY_MAX <= 512 << 30);
