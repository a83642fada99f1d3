//! What each refusal says to people: what was asked for, and what is missing.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use memory::address::{Gfn, Gpa, Hpa, Hva, Pfn};
use memory::direct_map::HideCause;
use memory::frame::{GuestId, OutOfMemory};
use memory::guest::{ChangeError, LaunchError, NotGuestMemory, NotShared};
use memory::memory_map::{MAX_RANGES, MemoryMapError};
use memory::paging::BuildError;
use memory::region::PrivateError;
use memory::tlb::shootdown::{CpuIndex, JoinError};

#[test]
fn sizes_are_in_units_that_people_read() {
    let text = |wanted, free| {
        let error = OutOfMemory {
            wanted,
            free,
            free_regions: 3,
        };
        error.to_string()
    };
    assert_eq!(
        text(2 << 20, 4096),
        "out of memory: 2 MiB wanted, 4 KiB free, 3 whole regions of 2 MiB among them"
    );
    assert_eq!(
        text((1 << 20) - 4096, 1 << 20),
        "out of memory: 1020 KiB wanted, 1 MiB free, 3 whole regions of 2 MiB among them"
    );
}

#[test]
fn a_refusal_says_what_was_asked_for_and_what_is_missing() {
    let memory = OutOfMemory {
        wanted: 5 << 20,
        free: 0,
        free_regions: 0,
    };
    let cause = HideCause::NotALeaf(Pfn::new(0x1234));
    let at = Hva::new(0xffff_8000_0012_3000);
    let texts: [(String, &[&str]); 15] = [
        (HideCause::OutOfMemory(memory).to_string(), &["5 MiB wanted"]),
        (cause.to_string(), &["0x1234000", "cannot be hidden"]),
        (
            PrivateError::TooLarge { order: 19 }.to_string(),
            &["2^19", "1 GiB"],
        ),
        (PrivateError::OutOfMemory(memory).to_string(), &["5 MiB wanted"]),
        (PrivateError::Hide(cause).to_string(), &["0x1234000"]),
        (
            LaunchError::BadSize(12_345).to_string(),
            &["12345 bytes", "2 MiB"],
        ),
        (
            LaunchError::TooLarge {
                bytes: 3 << 40,
                limit: 512 << 30,
            }
            .to_string(),
            &["3145728 MiB", "at most 524288 MiB"],
        ),
        (LaunchError::OutOfMemory(memory).to_string(), &["5 MiB wanted"]),
        (LaunchError::Hide(cause).to_string(), &["0x1234000"]),
        (LaunchError::Cancelled.to_string(), &["cancelled"]),
        (MemoryMapError::NoRam.to_string(), &["no RAM"]),
        (
            MemoryMapError::TooManyRanges.to_string(),
            &[&format!("{MAX_RANGES} separate")],
        ),
        (BuildError::NoTableFrame.to_string(), &["page tables of the boot"]),
        (
            BuildError::AlreadyMapped(at).to_string(),
            &[&at.to_string(), "twice"],
        ),
        (
            BuildError::BadAddress(at).to_string(),
            &[&at.to_string(), "cannot be mapped"],
        ),
    ];
    for (text, parts) in texts {
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let start = Gpa::new(0x7000);
    let outside = NotGuestMemory { start, bytes: 99 }.to_string();
    assert!(
        outside.starts_with(&format!("99 bytes at guest-physical {start} ")),
        "{outside}"
    );
    assert!(JoinError::NotExpected.to_string().contains("nobody waits for"));
}

#[test]
fn a_change_that_is_refused_says_why() {
    let start = Gpa::new(0x7000);
    let memory = OutOfMemory {
        wanted: 5 << 20,
        free: 0,
        free_regions: 0,
    };
    let outside = NotGuestMemory { start, bytes: 99 };
    for (error, text) in [
        (ChangeError::Unaligned, "not made of whole pages"),
        (ChangeError::Range(outside), "99 bytes at guest-physical"),
        (ChangeError::TooMuch, "1024 MiB"),
        (ChangeError::State, "in another state"),
        (ChangeError::OutOfMemory(memory), "5 MiB wanted"),
        (ChangeError::Limit, "than the guest may share"),
        (ChangeError::Tables, "more tables than the guest may have"),
        (ChangeError::Busy, "under way"),
    ] {
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(NotShared::Range(outside).to_string().contains("99 bytes"));
    let page = NotShared::Page(start).to_string();
    assert!(
        page.contains(&start.to_string()) && page.contains("is not shared"),
        "{page}"
    );
}

/// Numbers of different kinds cannot be taken for each other, printed either.
#[test]
fn addresses_and_numbers_say_what_they_are_of() {
    assert_eq!(GuestId::new(7).unwrap().to_string(), "7");
    assert_eq!(CpuIndex::new(3).to_string(), "CPU 3");
    for (text, debug) in [
        (Hpa::new(0x5000).to_string(), format!("{:?}", Hpa::new(0x5000))),
        (Gfn::new(0x12).to_string(), format!("{:?}", Gfn::new(0x12))),
    ] {
        assert!(
            text.starts_with("0x") && debug.ends_with(&text[2..]),
            "{text}, {debug}"
        );
        assert!(debug.contains(':'), "{debug}");
    }
}
