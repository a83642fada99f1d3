//! Guests that meet each other.

use std::time::Duration;

use crate::build::Flavor;
use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::{QEMU, Row};

use super::console::SPINS;
use super::long_on_bochs;

/// One guest spins on one CPU while others die on the other, and everybody is looked at after each death.
const KICKED: &str =
    "guest=spin,memory=4M,limit=1s,expect=time-limit guest=hello,memory=4M,count=20 together=2";

/// Two guests that spin with interrupts off (`SPINS`) are paused in turn, on two CPUs: the one that does not run on the CPU that listens has to be kicked, each time. Where one thread of the emulator runs all
/// CPUs, for 100 ms each, deaths (`KICKED`) can fall so that nobody is in a guest.
pub(super) const TYPED_TO_KICK: &[(&str, &str)] = &[
    ("launched spin#2", "pause 1"),
    ("spin#1 is paused", "resume 1"),
    ("spin#1 goes on", "pause 2"),
    ("spin#2 is paused", "resume 2"),
    ("spin#2 goes on", "pause 1"),
    ("spin#1 is paused", "resume 1"),
    ("spin#1 goes on", "pause 2"),
    ("spin#2 is paused", "resume 2"),
    ("spin#2 goes on", "pause 1"),
    ("spin#1 is paused", "resume 1"),
    ("spin#1 goes on", "pause 2"),
    ("spin#2 is paused", "resume 2"),
    ("spin#2 goes on", "pause 1"),
    ("spin#1 is paused", "resume 1"),
    ("spin#1 goes on", "pause 2"),
    ("spin#2 is paused", "resume 2"),
    ("spin#2 goes on", "destroy 1"),
    ("spin#1 is being destroyed", "destroy 2"),
];

/// More guests than CPUs, most of them short-lived.
const BUSY: &str = "{two-at-once} {spin} guest=hello,memory=4M,count=20 together=8";

/// Guests with several vCPUs, one after the other: each has all CPUs for itself.
const SEVERAL: &str = "{vcpus} guest=vcpus-left-behind,memory=8M,vcpus=4,count=4 together=1";

/// Guests that meet each other.
pub(super) fn together() -> Vec<Row> {
    let busy_4_cpus = long_on_bochs(Row {
        smp: 4,
        check: |record| checks::busy(record, 4),
        ..Row::passing("busy-4-cpus", "guests come and go on 4 CPUs", BUSY)
    });
    let races = long_on_bochs(Row {
        smp: 4,
        check: |record| {
            checks::vcpus(&record.report, "attack-races", 4, 2)?;
            checks::guests_flushed(record)
        },
        ..Row::passing(
            "vcpus-races",
            "vCPUs change ranges of every shape beside each other, and of those that race for one exactly one succeeds",
            "{attack-races}",
        )
    });
    let mut rows = vec![
        Row::passing(
            "nothing-left-over",
            "a guest finds no byte and no register of those before it",
            "{touch-all} {two-at-once} {reads-zero}",
        ),
        Row {
            check: |record| {
                checks::value(&record.report, "two-at-once", "yields", |yields| yields >= 100)?;
                checks::alternations(&record.report, "two-at-once", 2, 100)
            },
            ..Row::passing(
                "two-at-once",
                "two guests alternate at least 100 times and stay apart",
                "{two-at-once}",
            )
        },
        Row {
            // 200 instances of 5,000 calls: elsewhere an exit takes too long for so many, and one instance has to do.
            kinds: &[Kind::Tcg],
            check: |record| checks::total(&record.report, "hypercalls-at-random", "calls", 1_000_000),
            ..Row::passing(
                "million-hypercalls",
                "a million calls at random are each answered as the ABI says",
                "guest=hypercalls-at-random,memory=4M,limit=120s,count=200 quiet",
            )
        },
        Row {
            check: |record| checks::measured(&record.report, "measured", 3),
            ..Row::passing(
                "measurement",
                "guest, report and `cargo xtask measure` agree on what was launched; no two launches are alike",
                "{measured} guest=measured,memory=6M,vcpus=2 guest=measured,memory=4M,vcpus=3",
            )
        },
        Row {
            // What it prints from its shared page, and nothing of a private one.
            says: &["this is shared with the host"],
            check: checks::shared_and_back,
            ..Row::passing(
                "shared-and-back",
                "each call flushes once, 2M leaves come back, and the host sees what is shared only",
                "{share-and-take-back}",
            )
        },
        Row {
            // From the hidden frame, and from that and an ordinary one.
            says: &["this lies in a hidden frame", "half is ordinaryidden frame"],
            check: checks::shared_in_place,
            ..Row::passing(
                "shared-in-place",
                "each call flushes once, contents and 2M leaves come back, and the host sees what is shared only",
                "{share-in-place}",
            )
        },
        Row {
            says: &[
                "KiB at the private alias, pending: it was not accepted",
                "KiB at the private alias, which is shared,",
                "KiB at the private alias, which is shared in place,",
                "KiB at the shared alias, which is private",
                "KiB at the private alias, not its memory",
                "KiB at the private alias, absent: it was given back",
            ],
            ..Row::passing(
                "named-faults",
                "a memory fault names address, size, alias, access and what the page is",
                "{touch-pending} {touch-shared-as-private} {touch-shared-in-place} {touch-private-as-shared} {escape} {touch-given-back} \
                 guest=touch-pending,memory=8M,auto-convert,expect=memory-fault \
                 guest=touch-given-back,memory=8M,auto-convert,expect=memory-fault \
                 guest=touch-shared-as-private,memory=8M,auto-accept,expect=memory-fault \
                 guest=touch-shared-in-place,memory=8M,auto-accept,expect=memory-fault \
                 guest=touch-private-as-shared,memory=8M,auto-accept,expect=memory-fault {auto-convert-limit}",
            )
        },
        Row {
            memory_mib: 1024,
            host_mib: 1152,
            // Three long calls and an exit: without turns in the middle there would be four, or five.
            check: |record| {
                checks::few_flushes(record)?;
                checks::alternations(&record.report, "share-much", 1, 6)
            },
            ..Row::passing(
                "long-call",
                "a guest that changes much of its memory by one call gives others their turns meanwhile, and flushes once for 512 pages at most",
                "guest=share-much,memory=384M,limit=60s guest=spin,memory=4M,limit=1s,expect=time-limit",
            )
        },
        Row {
            check: checks::conversion_storm,
            ..Row::passing(
                "conversion-storm",
                "large leaves of a guest that are split by a storm of conversions come back, all of them",
                "{conversion-storm}",
            )
        },
        Row {
            memory_mib: 160,
            check: checks::squeezed,
            ..Row::passing(
                "squeeze",
                "frames that are kept for shared pages serve others when memory is low, and no guest notices",
                "{squeeze}",
            )
        },
        Row {
            smp: 2,
            ..Row::passing(
                "shared-side-by-side",
                "guests that change their memory move between CPUs and stay apart",
                "guest=changes-at-random,memory=12M,limit=120s,count=4 guest=hello,memory=4M,count=8",
            )
        },
        Row {
            smp: 4,
            check: |record| checks::cpus(record, 4, 4),
            ..Row::passing(
                "four-cpus",
                "every CPU of the firmware's list is started",
                "{two-at-once}",
            )
        },
        Row {
            // Bochs can't have so many, and KVM's host may have few.
            kinds: &[Kind::Tcg],
            smp: 64,
            check: |record| checks::cpus(record, 64, 64),
            ..Row::passing("64-cpus", "64 CPUs are started", "{two-at-once}")
        },
        Row {
            check: checks::cache_of_20,
            says: &["extents", "host free"],
            ..Row::passing(
                "cache",
                "a guest gets the regions of the one before it, and the trace and the view say so",
                "guest=hello,memory=64M,count=3 together=1 cache=20 trace=all view",
            )
        },
        Row {
            kinds: &[Kind::Tcg],
            smp: 8,
            check: |record| checks::busy(record, 8),
            ..Row::passing("busy-8-cpus", "guests come and go on 8 CPUs", BUSY)
        },
        Row {
            kinds: &[Kind::Tcg],
            smp: 16,
            check: |record| checks::busy(record, 16),
            ..Row::passing("busy-16-cpus", "guests come and go on 16 CPUs", BUSY)
        },
        Row {
            // As main-job-4G; here the guests' memory is scrubbed, 2120 MiB.
            kinds: QEMU,
            memory_mib: 4096,
            host_mib: 2816,
            smp: 4,
            check: checks::split_while_cpus_sleep,
            ..Row::passing(
                "split-4-cpus",
                "a table that is merged away waits for CPUs that sleep, and is freed",
                // Less than 512 regions each, so that nobody takes a whole gigablock.
                "guest=spin,memory=1010M,limit=2s,expect=time-limit,count=2 guest=spin,memory=100M,limit=1s,expect=time-limit",
            )
        },
        Row {
            kinds: &[Kind::Tcg],
            typed: TYPED_TO_KICK,
            line: SPINS.into(),
            check: checks::pauses_kick,
            ..kicked()
        },
        Row {
            kinds: &[Kind::Kvm, Kind::Bochs],
            ..kicked()
        },
        Row {
            smp: 2,
            check: |record| checks::several_vcpus(record, 2),
            ..Row::passing("vcpus-2-cpus", "a guest's vCPUs run on 2 CPUs at once", SEVERAL)
        },
        Row {
            smp: 4,
            check: |record| checks::several_vcpus(record, 4),
            ..Row::passing("vcpus-4-cpus", "a guest's vCPUs run on 4 CPUs at once", SEVERAL)
        },
        Row {
            kinds: &[Kind::Tcg],
            smp: 16,
            check: |record| checks::several_vcpus(record, 16),
            ..Row::passing("vcpus-16-cpus", "a guest's vCPUs run on 16 CPUs", SEVERAL)
        },
        Row {
            smp: 4,
            check: |record| {
                checks::vcpus(&record.report, "vcpus-share", 4, 2)?;
                checks::guests_flushed(record)
            },
            ..Row::passing(
                "vcpus-share",
                "vCPUs change pages of the same 2 MiB at the same time, and each change reaches all CPUs",
                "{vcpus-share}",
            )
        },
        Row {
            smp: 2,
            says: &["KiB at the private alias, "],
            check: checks::guests_kicked,
            ..Row::passing(
                "vcpus-revoked",
                "a vCPU on another CPU loses a page as soon as it is shared",
                "guest=vcpus-revoked,memory=8M,vcpus=2,expect=memory-fault,count=8 together=1",
            )
        },
        Row {
            smp: 4,
            flavor: Flavor::TestHooks,
            check: checks::controlled,
            ..Row::passing(
                "control",
                "guests are paused, resumed and destroyed from other CPUs, whatever they do, a change of memory among it",
                "{vcpus} guest=vcpus-left-behind,memory=8M,vcpus=4,expect=any,count=8 \
                 guest=spin,memory=32M,limit=200ms,expect=any,count=8 guest=hello,memory=16M,expect=any,count=24 \
                 guest=share-much,memory=32M,expect=any,limit=60s,count=16 together=12 test=control",
            )
        },
        Row {
            // Bochs takes more than a minute and a half; it has a row of its own.
            kinds: QEMU,
            ..thousand()
        },
        Row {
            kinds: &[Kind::Bochs],
            long: true,
            ..thousand()
        },
    ];
    rows.extend(busy_4_cpus);
    rows.extend(races);
    rows
}

/// A CPU is got out of its guest.
fn kicked() -> Row {
    Row {
        smp: 2,
        check: checks::kicks_arrive,
        ..Row::passing(
            "kicked",
            "a guest with interrupts off is kicked by another CPU, and goes on",
            KICKED,
        )
    }
}

/// A thousand lifetimes.
fn thousand() -> Row {
    Row {
        check: checks::thousand,
        limit: Duration::from_secs(600),
        ..Row::passing(
            "thousand-guests",
            "1000 guests launched and torn down in one boot",
            "guest=hello,memory=4M,count=1000 together=8 quiet",
        )
    }
}
