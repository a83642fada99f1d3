//! Mistakes made on purpose.

use std::time::Duration;

use crate::build::Flavor;
use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::{Outside, QEMU, Row};

use super::console::SPINS;
use super::together::TYPED_TO_KICK;

/// Mistakes made on purpose by a test build: each must be caught and reported for what it is.
pub(super) fn deliberate_mistakes() -> Vec<Row> {
    let row = |hook: &str, says, about| Row {
        flavor: Flavor::TestHooks,
        ..Row::ending("PANIC", says, hook, about, &format!("{{touch-all}} test={hook}"))
    };
    // Nothing stops these: the look from outside has to find what was done.
    let unseen = |hook: &str, found, about| Row {
        flavor: Flavor::TestHooks,
        outside: Outside::Finds(found),
        memory_mib: 256,
        ..Row::ending(
            "FAIL",
            &["was not caught"],
            hook,
            about,
            &format!("{{touch-all}} test={hook} pause=boot+guests+after"),
        )
    };
    let control_block = |says, name: &str, about| Row {
        flavor: Flavor::TestHooks,
        ..Row::ending("FAIL", says, name, about, "{hello} test=bad-control-block")
    };
    vec![
        Row {
            flavor: Flavor::TestHooks,
            says: &["behaviours of the pool: 7 held, 1 skipped, 0 failed"],
            limit: Duration::from_secs(300),
            ..Row::passing(
                "pool",
                "what the pool must do, as on the model machine",
                "{hello} test=pool",
            )
        },
        Row {
            kinds: QEMU,
            flavor: Flavor::TestHooks,
            memory_mib: 4096,
            host_mib: 1536,
            says: &["behaviours of the pool: 8 held, 0 skipped, 0 failed"],
            limit: Duration::from_secs(300),
            ..Row::passing(
                "pool-4G",
                "the same where a whole gigablock is free",
                "{hello} test=pool",
            )
        },
        Row {
            flavor: Flavor::TestHooks,
            says: &[
                "a write: page fault, error 0x2",
                "execution: page fault, error 0x10",
                "direct map of",
                "hole of guest 65535 (its guest-physical 0x",
                "window slot of this CPU",
                "a guest with a hole of ",
                "accesses of the host: 41 as they must be, 0 not",
            ],
            ..Row::passing(
                "host-access",
                "no access and no routine of the host's reaches hidden memory, and each fault is named",
                "{hello} test=host-access",
            )
        },
        row(
            "read-hole",
            &["Page Fault", "supervisor read, not present", "hole of guest 1"],
            "reading a hidden frame through the direct map faults",
        ),
        row(
            "write-text",
            &[
                "Page Fault",
                "supervisor write, not permitted",
                "direct map of",
                "image section .text",
            ],
            "writing to code through the direct map faults",
        ),
        row(
            "stack-overflow",
            &["guard page"],
            "a stack overflow meets its guard page",
        ),
        Row {
            flavor: Flavor::TestHooks,
            smp: 4,
            says: &["CPU 3 (APIC id 3) is left out: it did not answer"],
            check: |record| checks::cpus(record, 4, 3),
            ..Row::passing(
                "silent-cpu",
                "a CPU that does not come is reported and left out",
                "{two-at-once} test=silent-cpu",
            )
        },
        Row {
            flavor: Flavor::TestHooks,
            smp: 2,
            typed: TYPED_TO_KICK,
            check: checks::kicks_left_out,
            ..Row::passing(
                "no-kick",
                "a kick that is left out is missed",
                &format!("{SPINS} test=no-kick"),
            )
        },
        Row {
            smp: 2,
            ..row(
                "stale-read",
                &["Page Fault", "supervisor read, not present", "hole"],
                "a CPU that reads what another hides faults once that is done",
            )
        },
        Row {
            keeps_translations: true,
            smp: 2,
            ..row(
                "no-interrupt",
                // Whichever CPU has not hidden it: the first guest may end on either.
                &[
                    "still reads hidden memory, through an old translation",
                    "has not acknowledged flush",
                    "it is in the host",
                ],
                "a shootdown without its interrupt leaves old translations in use, and is reported",
            )
        },
        unseen(
            "show-hole",
            "at guests the host reaches private memory in 1 places, first ",
            "a hidden region that the host can reach is seen from outside",
        ),
        unseen(
            "keep-copy",
            "pieces of guests' patterns are left",
            "a copy of a guest's memory that stays behind is found from outside",
        ),
        Row {
            // Most hosts of KVM have FFXSR.
            kinds: &[Kind::NestedAmd],
            ..control_block(
                &["hello#1 ended by unexpected", "refuse"],
                "bad-control-block",
                "KVM refuses a control block with a bit that the CPU does not have",
            )
        },
        Row {
            kinds: &[Kind::Tcg],
            ..control_block(
                &[
                    "hello#1 ended by exit:0",
                    "the deliberate fault bad-control-block was not caught",
                ],
                "bad-control-block-unseen",
                "QEMU's emulation alone takes it: what the machine nested-amd is for",
            )
        },
    ]
}
