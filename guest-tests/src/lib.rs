//! The runtime of the test guests; any guest in Rust may use it (docs/first-guest.md). One program for each behaviour is in `src/bin`.
//!
//! In the order in which a guest goes through it:
//!
//! - `entry`: the first instruction saves the registers as they were at the start, then [`main!`]'s function gets the [`LaunchInfo`].
//! - [`launch!`]: how the guest wants to be launched and how it should end, carried in its own file.
//! - [`hypercall`], [`println!`]: calls to the hypervisor.
//! - [`memory`]: fill, check and reach guest memory.
//! - [`mapping`]: the guest's own page tables.
//! - [`registers`]: the same for registers: general, vector, debug and model-specific ones.
//! - [`sharing`]: pages that are shared with the host.
//! - [`exceptions`], [`attempt!`]: run an instruction and see which exception came.
//! - [`vcpu`]: further vCPUs, for a guest launched with `vcpus=N`.
//! - A panic prints its message and exits with [`PANIC_CODE`]; returning from `main` exits with 0.
//!
//! A guest starts with one CPU, and has no interrupts and, until it calls [`exceptions::catch`], no IDT: an exception ends it as a triple fault.
#![no_std]

mod entry;
pub mod exceptions;
pub mod hypercall;
pub mod mapping;
pub mod memory;
mod print;
pub mod registers;
pub mod sharing;
pub mod vcpu;

pub use entry::{PANIC_CODE, launch_info};
pub use guest_abi::LaunchInfo;
pub use guest_abi::pattern::Pattern;
#[doc(hidden)]
pub use print::print_arguments;

/// Names the guest's function: `main!(run)` with `fn run(info: &LaunchInfo)`.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        // SAFETY: the runtime declares this symbol with the same signature, and only one guest is linked into a file.
        #[unsafe(no_mangle)]
        extern "Rust" fn lacuna_guest_main(info: &$crate::LaunchInfo) {
            let run: fn(&$crate::LaunchInfo) = $run;
            run(info)
        }
    };
}

/// How the guest wants to be launched, in the syntax of the command line after the name: `launch!("memory=16M,expect=exit:3")`.
///
/// The text goes into the section `.lacuna.launch` of the file, where `cargo xtask` reads it. It is not loaded.
#[macro_export]
macro_rules! launch {
    ($text:literal) => {
        const _: () = {
            const TEXT: &str = $text;
            // SAFETY: the section holds bytes for tools; the guest does not use it and the linker script does not load it.
            #[unsafe(link_section = ".lacuna.launch")]
            #[used]
            static LAUNCH: [u8; TEXT.len()] = match TEXT.as_bytes().first_chunk() {
                Some(bytes) => *bytes,
                None => [0; TEXT.len()],
            };
        };
    };
}
