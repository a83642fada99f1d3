//! Builds a mapping to the upper half of the guest-physical address space, far above its memory, and reads there.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use guest_abi::launch_area::PAGE;
use guest_tests::hypercall::exit;
use guest_tests::{LaunchInfo, launch, main, memory, println};

launch!("memory=4M,expect=memory-fault");
main!(run);

/// Present and writable; and the same for a leaf of 2M (AMD APM vol. 2, 5.4.1).
const TABLE: u64 = 0b11;
const LARGE_LEAF: u64 = TABLE | 1 << 7;
/// The second entry of the top-level table covers addresses from here on.
const SLOT_1: u64 = 1 << 39;

fn run(info: &LaunchInfo) {
    // Address bits: leaf 8000_0008H, EAX 7:0; bits 23:16 when the guest has others than the CPU (AMD APM vol. 3, appendix E).
    let widths = __cpuid(0x8000_0008).eax;
    let width = if widths >> 16 & 0xff != 0 {
        widths >> 16 & 0xff
    } else {
        widths & 0xff
    };
    let target = 1_u64 << (width.clamp(36, 52) - 1);

    let Some(free) = memory::free().find(|extent| extent.bytes() >= 2 * PAGE) else {
        println!("no room for two page tables");
        exit(2);
    };
    let (third_level, second_level) = (free.start(), free.start() + PAGE);
    // SAFETY: two free pages, zero so far, become tables; the top-level table gets an entry that was absent.
    unsafe {
        memory::store(second_level, target | LARGE_LEAF);
        memory::store(third_level, second_level | TABLE);
        memory::store(info.page_tables_start + 8, third_level | TABLE);
    }
    println!("reading at {target:#x} of {width} bits");
    // SAFETY: the address is mapped now, and nothing of the guest is there.
    let found = unsafe { memory::load(SLOT_1) };
    println!("read {found:#x} far above the end of memory");
    exit(1);
}
