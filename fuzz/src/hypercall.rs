//! Hypercalls: any registers are decoded or refused, and what was decoded encodes to a call that means the same.
//!
//! The input is RAX and the six argument registers.
#![no_main]

use guest_abi::{Arguments, Hypercall, PRINT_SHARED_MAX, Text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|registers: [u64; 7]| {
    let [rax, rdi, rsi, rdx, r8, r9, r10] = registers;
    let arguments = Arguments {
        rdi,
        rsi,
        rdx,
        r8,
        r9,
        r10,
    };
    match Hypercall::decode(rax, &arguments) {
        Ok(call) => {
            let (rax, arguments) = call.encode();
            assert_eq!(Hypercall::decode(rax, &arguments), Ok(call));
            match call {
                Hypercall::Report { name, .. } => assert!(!name.as_str().is_empty()),
                Hypercall::Print(text) => {
                    assert_eq!(text.as_bytes().len() as u64, rdi);
                    // What lies beyond the length is not part of it.
                    assert_eq!(Text::split_from(text.as_bytes()).0, text);
                }
                Hypercall::Exit(code) => assert_eq!(code, rdi),
                Hypercall::Yield => {}
                Hypercall::Share(pages)
                | Hypercall::Unshare(pages)
                | Hypercall::Accept(pages)
                | Hypercall::ShareInPlace(pages)
                | Hypercall::UnshareInPlace(pages)
                | Hypercall::GiveBack(pages)
                | Hypercall::TakeAgain(pages) => {
                    assert_eq!((pages.start() | pages.bytes()) % 4096, 0);
                    assert!(pages.start().checked_add(pages.bytes() - 1).is_some());
                }
                Hypercall::PrintShared { bytes, .. } => {
                    assert!(bytes as u64 == rsi && bytes <= PRINT_SHARED_MAX)
                }
                // Bits 63 to 47 are equal.
                Hypercall::StartVcpu(start) => assert!(matches!(start.rip >> 47, 0 | 0x1ffff)),
            }
        }
        // The guest gets this; 0 would say that the call was done.
        Err(error) => assert_ne!(error.code(), 0),
    }
});
