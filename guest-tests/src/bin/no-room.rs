//! Needs more memory than it asks for: refused before anything of it is loaded.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;

use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M,expect=refused");
main!(run);

/// Zero-filled memory that takes no room in the file.
#[repr(transparent)]
struct Room(UnsafeCell<[u8; 8 << 20]>);

// SAFETY: only its address is used.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; 8 << 20]));

fn run(_: &LaunchInfo) {
    println!("started with room at {:p}", core::hint::black_box(ROOM.0.get()));
    exit(1);
}
