//! From the first instruction to the guest's function, and the way out.

use core::arch::global_asm;
use core::panic::PanicInfo;

use guest_abi::LaunchInfo;
use guest_abi::launch_area::LAUNCH_INFO;

use crate::registers::general::ENTRY;
use crate::{hypercall, println};

/// Exit code of a guest that panicked.
pub const PANIC_CODE: u64 = 101;

// Saves the registers before anything changes them, in the order of `registers::general::NAMES`, then RFLAGS. RSP is at 8 below a
// multiple of 16; a call wants it at the multiple.
global_asm!(
    ".section .text.entry, \"ax\", @progbits",
    ".global _start",
    "_start:",
    "mov [rip + {entry}], rax",
    "mov [rip + {entry} + 8], rcx",
    "mov [rip + {entry} + 16], rdx",
    "mov [rip + {entry} + 24], rbx",
    "mov [rip + {entry} + 32], rsp",
    "mov [rip + {entry} + 40], rbp",
    "mov [rip + {entry} + 48], rsi",
    "mov [rip + {entry} + 56], rdi",
    "mov [rip + {entry} + 64], r8",
    "mov [rip + {entry} + 72], r9",
    "mov [rip + {entry} + 80], r10",
    "mov [rip + {entry} + 88], r11",
    "mov [rip + {entry} + 96], r12",
    "mov [rip + {entry} + 104], r13",
    "mov [rip + {entry} + 112], r14",
    "mov [rip + {entry} + 120], r15",
    "pushfq",
    "pop qword ptr [rip + {entry} + 128]",
    "cld",
    "xor ebp, ebp",
    "sub rsp, 8",
    "call {start}",
    "ud2",
    ".text",
    entry = sym ENTRY,
    start = sym start,
);

unsafe extern "Rust" {
    /// The guest's function; [`main!`](crate::main) defines it.
    safe fn lacuna_guest_main(info: &LaunchInfo);
}

extern "C" fn start() -> ! {
    hypercall::choose_instruction();
    let info = launch_info();
    match info.check() {
        Ok(()) => lacuna_guest_main(info),
        Err(error) => {
            println!("{error}");
            hypercall::exit(PANIC_CODE);
        }
    }
    hypercall::exit(0)
}

/// What the hypervisor says about this guest.
pub fn launch_info() -> &'static LaunchInfo {
    let info = core::ptr::with_exposed_provenance(LAUNCH_INFO as usize);
    // SAFETY: the ABI puts a LaunchInfo at this aligned address before the start (guest_abi::launch_area), memory is mapped there, every bit
    // pattern is valid for it, and the runtime's own writes go to free memory only, which excludes this page.
    unsafe { &*info }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    hypercall::exit(PANIC_CODE)
}
