//! Every test on a machine, one row each.

use std::time::Duration;

use crate::build::Flavor;
use crate::machine::Kind;
use crate::medium::Boot;
use crate::test::checks;
use crate::test::inputs::{self, HOSTILE};
use crate::test::measuring;
use crate::test::row::{Archive, EVERYWHERE, Outside, QEMU, Row};

/// The rows; `guests` are the names of the bundled guests, each of which gets one.
pub fn rows(guests: &[String]) -> Vec<Row> {
    let mut rows: Vec<Row> = guests
        .iter()
        .map(|name| Row {
            kinds: match name.as_str() {
                // QEMU's emulation does not intercept task switches: see `task-switch-unseen`.
                "attack-task-switch" => &[Kind::Kvm, Kind::Bochs],
                // On Bochs it takes ten seconds: there `vcpus-races` has it, with `--long`.
                "attack-races" => QEMU,
                _ => EVERYWHERE,
            },
            ..Row::passing(
                format!("guest-{name}"),
                "ends as its own launch text says",
                &format!("{{{name}}}"),
            )
        })
        .collect();
    rows.extend(together());
    rows.extend(attacks());
    rows.extend(sizes());
    rows.extend(bad_lines());
    rows.extend(bad_input());
    rows.extend(bad_machines());
    rows.extend(other_cpus());
    rows.extend(boots());
    rows.extend(seen_from_outside());
    rows.extend(deliberate_mistakes());
    rows.extend(stress());
    rows.extend(measuring::rows());
    rows
}

/// The same row, and on Bochs only with `--long`: it takes half a minute there, and a shorter row shows the same with VMX.
fn long_on_bochs(row: Row) -> [Row; 2] {
    let on_bochs = Row {
        kinds: &[Kind::Bochs],
        long: true,
        ..row.clone()
    };
    [Row { kinds: QEMU, ..row }, on_bochs]
}

/// One guest spins on one CPU while others die on the other, and everybody is looked at after each death.
const KICKED: &str =
    "guest=spin,memory=4M,limit=1s,expect=time-limit guest=hello,memory=4M,count=20 together=2";

/// More guests than CPUs, most of them short-lived.
const BUSY: &str = "{two-at-once} {spin} guest=hello,memory=4M,count=20 together=8";

/// Guests with several vCPUs, one after the other: each has all CPUs for itself.
const SEVERAL: &str = "{vcpus} guest=vcpus-left-behind,memory=8M,vcpus=4,count=4 together=1";

/// Guests that meet each other.
fn together() -> Vec<Row> {
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
                 guest=touch-private-as-shared,memory=8M,auto-accept,expect=memory-fault",
            )
        },
        Row {
            // Three long calls and an exit: without turns in the middle there would be four.
            check: |record| {
                checks::few_flushes(record)?;
                checks::alternations(&record.report, "share-much", 1, 8)
            },
            ..Row::passing(
                "long-call",
                "a guest that changes much of its memory by one call gives others their turns meanwhile, and flushes once for 512 pages at most",
                "guest=share-much,memory=128M,limit=60s guest=spin,memory=4M,limit=1s,expect=time-limit",
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
            smp: 2,
            check: checks::kicks_arrive,
            ..Row::passing(
                "kicked",
                "a guest with interrupts off is kicked by another CPU, and goes on",
                KICKED,
            )
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
                "guests are paused, resumed and destroyed from other CPUs, whatever they do",
                "{vcpus} guest=vcpus-left-behind,memory=8M,vcpus=4,expect=any,count=8 \
                 guest=spin,memory=4M,limit=100ms,expect=any,count=8 guest=hello,memory=4M,expect=any,count=8 together=12 test=control",
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

/// A row for many guests that have rows of their own: all in one boot, for machines on which each boot takes long.
fn suite(name: &str, about: &'static str, guests: &str) -> Row {
    Row {
        long: true,
        limit: Duration::from_secs(3600),
        ..Row::passing(name, about, &format!("{guests} together=2 quiet"))
    }
}

/// All that attack, but for `attack-task-switch`, which ends otherwise on QEMU's emulation. Two make a hundred thousand exits each, for which a machine
/// with levels takes half a millisecond each, more on a busy host.
const ATTACKS: &str = "{attack-accessed} {attack-caches} {attack-control-registers} {attack-endless} {attack-fetch} \
     guest=attack-msrs,memory=4M,limit=3600s guest=attack-ports,memory=4M,limit=3600s \
     {attack-pause} {attack-port-strings} {attack-stale-walk} {attack-walk} {control-registers} {cpuid-sweep} {escape} \
     {escape-device} {escape-exec} {escape-mapping} {escape-table} {escape-write} {exceptions} {halt} {hypercalls} {hypercalls-at-random} \
     {msr} {port} {self-modifying-code} {spin-open} {triple-fault}";

/// All that change their memory.
const CONVERSIONS: &str = "{changes-at-random} {conversion-storm} {page-states} {share-and-stay} {share-and-take-back} {share-limit} \
     {share-much} {shared-page-tables} {touch-pending} {touch-private-as-shared} {touch-shared-as-private} {attack-races} {vcpus-share} \
     {vcpus-revoked} {reads-zero}";

/// Guests that attack, where more than one is needed, or a machine has a way of its own.
fn attacks() -> Vec<Row> {
    vec![
        Row::passing(
            "nothing-left-uncached",
            "a guest finds zeros after one that asked for every memory type",
            "{attack-caches} {reads-zero}",
        ),
        Row {
            smp: 2,
            ..Row::passing(
                "attacked",
                "guests that attack side by side change nothing of their neighbours",
                "{two-at-once} {attack-control-registers} {attack-fetch} {attack-accessed} {attack-walk} {attack-stale-walk} {attack-endless}",
            )
        },
        Row {
            // The sizes take turns from port to port, and from instance to instance.
            long: true,
            check: |record| checks::total(&record.report, "attack-ports", "accesses", 3 * 2 * 65_536),
            limit: Duration::from_secs(600),
            ..Row::passing(
                "every-port-every-size",
                "a byte, a word and a double word from and for each port",
                "guest=attack-ports,memory=4M,limit=120s,count=3",
            )
        },
        Row {
            long: true,
            limit: Duration::from_secs(600),
            ..Row::passing(
                "strings-for-ports",
                "each string instruction at 25 ports, most of them anywhere",
                "guest=attack-port-strings,memory=4M,count=300,expect=unexpected quiet",
            )
        },
        suite("suite-attacks", "every guest that attacks, in one boot", ATTACKS),
        suite(
            "suite-conversions",
            "every guest that changes its memory, in one boot",
            CONVERSIONS,
        ),
        Row {
            kinds: &[Kind::Tcg],
            ..Row::passing(
                "task-switch-unseen",
                "QEMU's emulation does not intercept a task switch, which is the guest's own affair there",
                "guest=attack-task-switch,memory=4M,expect=exit:2",
            )
        },
    ]
}

/// The main job with little and with much RAM. The host's share was measured (the emulator's VmHWM: 150 MiB with 128 MiB of RAM, 219 with
/// 512 MiB, 1088 with 4 GiB and a guest of 1 GiB, 235 with 64 GiB) and has a margin.
fn sizes() -> Vec<Row> {
    let main_job = |name: &str, memory_mib, host_mib| Row {
        memory_mib,
        host_mib,
        check: |record| checks::cpus(record, 1, 1),
        ..Row::passing(name, "the main job: every bundled guest", "{guests}")
    };
    let with_two_cpus = |name: &str, row: Row| Row {
        name: name.into(),
        about: "the main job on a machine with two CPUs",
        smp: 2,
        check: |record| checks::cpus(record, 2, 2),
        ..row
    };
    let (little, some, much) = (
        main_job("main-job-128M", 128, 256),
        main_job("main-job-512M", 512, 384),
        main_job("main-job-2G", 2048, 512),
    );
    let mut rows = vec![
        with_two_cpus("main-job-512M-two-cpus", some.clone()),
        some,
        Row {
            kinds: QEMU,
            check: |record| {
                checks::gigabyte_leaves(record)?;
                checks::value(&record.report, "touch-all", "bytes", |bytes| bytes > 1000 << 20)
            },
            line: "{guests} guest=touch-all,memory=1G,limit=120s,after".into(),
            ..main_job("main-job-4G", 4096, 1536)
        },
        Row {
            kinds: QEMU,
            check: checks::gigabyte_leaves,
            limit: Duration::from_secs(400),
            ..main_job("main-job-64G", 65536, 512)
        },
        Row {
            // Of KVM's hosts many have fewer bits of physical address.
            kinds: &[Kind::Tcg],
            check: checks::gigabyte_leaves,
            ..main_job("main-job-900G", 900 << 10, 768)
        },
        Row {
            kinds: QEMU,
            cpu_flags: "pdpe1gb=off",
            check: checks::no_gigabyte_leaves,
            ..main_job("no-1G-leaves", 4096, 384)
        },
    ];
    let others = [
        with_two_cpus("main-job-128M-two-cpus", little.clone()),
        with_two_cpus("main-job-2G-two-cpus", much.clone()),
        little,
        much,
    ];
    rows.extend(others.into_iter().flat_map(long_on_bochs));
    rows
}

/// Command lines that are refused before anything else happens.
fn bad_lines() -> Vec<Row> {
    let row = |says, name: &str, line: &str| Row {
        check: checks::no_guest_ran,
        ..Row::ending(
            "REFUSED",
            says,
            &format!("bad-line-{name}"),
            "a wrong command line is refused",
            line,
        )
    };
    vec![
        row(
            &["parameter `tgoether`", "did you mean `together`?"],
            "unknown-parameter",
            "{hello} tgoether=2",
        ),
        row(
            &["parameter `memory`", "`2T`", "from 4M to 1T"],
            "absurd-memory",
            "guest=hello,memory=2T",
        ),
        row(
            &["99999999999999999999T"],
            "overflowing-memory",
            "guest=hello,memory=99999999999999999999T",
        ),
        row(
            &["a number from 1 to 1000000"],
            "absurd-count",
            "guest=hello,count=4000000000",
        ),
        row(&["`0s`", "from 1ms to 3600s"], "no-time", "guest=hello,limit=0s"),
    ]
}

/// Archives and guests that are refused.
fn bad_input() -> Vec<Row> {
    let archive = |archive, says, name: &str| Row {
        archive,
        check: checks::no_guest_ran,
        ..Row::ending(
            "REFUSED",
            says,
            &format!("bad-archive-{name}"),
            "a broken archive is refused",
            "guest=hello",
        )
    };
    let failing = |says, name: &str, about, line: &str| Row {
        check: checks::no_guest_ran,
        ..Row::ending("FAIL", says, name, about, line)
    };
    vec![
        archive(Archive::Missing, &["module", "-initrd"], "missing"),
        archive(
            Archive::Spoilt(inputs::cut),
            &["cut short", "copy it again"],
            "cut",
        ),
        archive(Archive::Spoilt(inputs::damaged), &["wrong checksum"], "damaged"),
        archive(
            Archive::Spoilt(inputs::garbage),
            &["not a tar", "tar --format=ustar"],
            "garbage",
        ),
        archive(
            Archive::Spoilt(inputs::gzip),
            &["gzip", "an uncompressed tar is needed"],
            "gzip",
        ),
        Row {
            archive: Archive::Files(inputs::hostile),
            ..failing(
                &[
                    "text#1 ended by refused",
                    "not an ELF file",
                    "expected was exit:0",
                ],
                "bad-guest-no-elf",
                "a guest that is no ELF file is not launched",
                "guest=text,memory=4M",
            )
        },
        Row {
            archive: Archive::Files(inputs::hostile),
            check: |record| {
                checks::no_guest_ran(record)?;
                HOSTILE
                    .iter()
                    .try_for_each(|file| checks::refused(&record.report, file.name, file.says))
            },
            ..Row::passing(
                "bad-guest-hostile",
                "hostile ELF files are refused, each with its reason",
                &inputs::hostile_line(),
            )
        },
        failing(
            &["hello#1 ended by refused", "out of memory: 1024 MiB wanted"],
            "bad-guest-larger-than-ram",
            "a guest larger than RAM is not launched",
            "guest=hello,memory=1G",
        ),
        failing(
            &["hello#1 ended by refused", "1048576 MiB is too large"],
            "bad-guest-absurd-memory",
            "a guest of 1 TiB is not launched",
            "guest=hello,memory=1T",
        ),
        Row {
            check: checks::no_guest_ran,
            ..Row::ending(
                "REFUSED",
                &["helo", "hello"],
                "bad-guest-not-in-archive",
                "a guest that is not in the archive is refused, and the nearest is named",
                "guest=helo",
            )
        },
        Row {
            check: checks::no_guest_ran,
            ..Row::ending(
                "REFUSED",
                &["read-hole", "test-hooks"],
                "mistakes-need-a-test-build",
                "a hypervisor that is no test build does not make deliberate mistakes",
                "{hello} test=read-hole",
            )
        },
    ]
}

/// Machines that Lacuna can't run on.
fn bad_machines() -> Vec<Row> {
    let row = |says, name: &str, about| Row {
        check: checks::no_guest_ran,
        ..Row::ending("REFUSED", says, name, about, "{hello}")
    };
    // KVM's CPU is the host's, perhaps Intel's, where these flags mean nothing.
    const AMD: &[Kind] = &[Kind::Tcg, Kind::NestedAmd];
    vec![
        Row {
            kinds: AMD,
            cpu_flags: "svm=off",
            ..row(&["SVM"], "no-svm", "a CPU without SVM is refused")
        },
        Row {
            kinds: AMD,
            cpu_flags: "npt=off",
            ..row(
                &["nested paging"],
                "no-npt",
                "a CPU without nested paging is refused",
            )
        },
        Row {
            memory_mib: 64,
            ..row(
                &["63 MiB of RAM", "at least 128 MiB"],
                "little-ram",
                "too little RAM is refused",
            )
        },
    ]
}

/// CPUs that lack what others have, older or newer: KVM offers what it is asked for.
fn other_cpus() -> Vec<Row> {
    let row = |kinds, cpu_flags, name: &str, about| Row {
        kinds,
        cpu_flags,
        ..Row::passing(name, about, "{hello} {spin} {two-at-once}")
    };
    // On a host these flags would mean nothing to an AMD CPU.
    const INTEL: &[Kind] = &[Kind::NestedIntel];
    let refused = |cpu_flags, says, name: &str, about| Row {
        kinds: INTEL,
        cpu_flags,
        check: checks::no_guest_ran,
        ..Row::ending("REFUSED", says, name, about, "{hello}")
    };
    vec![
        Row {
            smp: 2,
            ..row(
                &[Kind::Kvm],
                "x2apic=off",
                "no-x2apic",
                "the local APIC is used by its page where it has no MSRs",
            )
        },
        row(
            &[Kind::Kvm],
            "smep=off,smap=off,pdpe1gb=off,mtrr=off",
            "few-features",
            "protections, 1G leaves and MTRRs are used only where there are any",
        ),
        Row {
            check: |record| checks::tags(record, 1),
            ..row(
                INTEL,
                "vmx-vpid=off",
                "no-vpid",
                "guests run without tagged translations",
            )
        },
        row(
            INTEL,
            "vmx-preemption-timer=off",
            "no-preemption-timer",
            "an interrupt alone ends the turn of a guest that spins",
        ),
        refused(
            "vmx-ept=off,vmx-unrestricted-guest=off",
            &["ENABLE_EPT", "load kvm_intel with ept=1"],
            "no-ept",
            "VMX without EPT is refused",
        ),
        refused(
            "vmx-unrestricted-guest=off",
            &["UNRESTRICTED_GUEST", "unrestricted_guest=1"],
            "no-unrestricted-guest",
            "VMX without unrestricted guests is refused",
        ),
        refused(
            "vmx=off",
            &["no VMX", "load kvm_intel with nested=1"],
            "no-vmx",
            "a CPU without VMX is refused",
        ),
    ]
}

/// Every way to start the hypervisor that is not the emulator's own.
fn boots() -> Vec<Row> {
    let row = |boot, kinds, says, name: &str, about| Row {
        boot,
        kinds,
        says,
        ..Row::passing(name, about, "{hello}")
    };
    // KVM runs the same firmware and the same loaders.
    let emulators: &[Kind] = &[Kind::Tcg, Kind::Bochs];
    vec![
        row(
            Boot::Disk,
            emulators,
            &["loaded by PVH"],
            "boot-disk",
            "boots from a raw disk with its own boot sector",
        ),
        row(
            Boot::Iso,
            emulators,
            &["loaded by multiboot2, GRUB"],
            "boot-iso",
            "boots from a GRUB disc, by the BIOS",
        ),
        row(
            Boot::Uefi,
            &[Kind::Tcg],
            &["loaded by multiboot2, GRUB"],
            "boot-uefi",
            "boots from a GRUB disc, by UEFI",
        ),
    ]
}

/// The machine as it is seen from outside.
fn seen_from_outside() -> Vec<Row> {
    let row = |name: &str, memory_mib, host_mib, line: &str| Row {
        kinds: QEMU,
        outside: Outside::Holds,
        memory_mib,
        host_mib,
        ..Row::passing(
            name,
            "RAM searched and tables walked from outside at boot, with guests, and after",
            &format!("{line} pause=boot+guests+after"),
        )
    };
    vec![
        Row {
            kinds: EVERYWHERE,
            ..row("outside", 512, 512, "{touch-all} {two-at-once}")
        },
        Row {
            kinds: EVERYWHERE,
            smp: 2,
            ..row(
                "outside-128M-two-cpus",
                128,
                384,
                "{two-at-once} guest=touch-all,memory=16M,limit=60s",
            )
        },
        Row {
            kinds: EVERYWHERE,
            ..row("outside-shared", 512, 512, "{share-and-stay} {touch-all}")
        },
        row(
            "outside-4G",
            4096,
            1536,
            "guest=touch-all,memory=512M,limit=60s {two-at-once} {touch-all}",
        ),
        Row {
            cpu_flags: "pdpe1gb=off",
            ..row(
                "outside-no-1G-leaves",
                2048,
                512,
                "{touch-all} guest=touch-all,memory=4M,count=6",
            )
        },
    ]
}

/// Mistakes made on purpose by a test build: each must be caught and reported for what it is.
fn deliberate_mistakes() -> Vec<Row> {
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
            check: checks::kicks_left_out,
            ..Row::passing(
                "no-kick",
                "a kick that is left out is missed",
                &format!("{KICKED} test=no-kick"),
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
                &[
                    "CPU 1 still reads hidden memory",
                    "CPU 1 has not acknowledged flush",
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

/// Guests that come and go while the stress runs: more than CPUs at a time, short ones and such as never leave their CPU by themselves.
const CROWD: &str = "guest=spin,memory=4M,limit=100ms,expect=time-limit,count=4 {two-at-once} {changes-at-random} \
     guest=touch-all,memory=8M,limit=60s,count=2 guest=hello,memory=4M,count=8 together=6";

/// Few of them, where a CPU is slow or only a mistake is to be noticed.
const SMALL_CROWD: &str = "guest=spin,memory=4M,limit=50ms,expect=time-limit,count=4 \
     guest=changes-at-random,memory=12M,limit=120s guest=hello,memory=4M,count=8 together=6";

/// The same for longer.
const LONG_CROWD: &str = "guest=spin,memory=4M,limit=1s,expect=time-limit,count=20 {two-at-once} \
     guest=changes-at-random,memory=12M,limit=120s,count=20 \
     guest=touch-all,memory=8M,limit=60s,count=40 guest=hello,memory=4M,count=100 \
     guest=spin,memory=16M,limit=500ms,expect=time-limit,count=20 guest=touch-all,memory=32M,limit=60s,count=10 together=8";

/// Random operations on the pool, by all CPUs, while guests run.
fn stress() -> Vec<Row> {
    let row = |name: &str, about, operations: u64, stops: u64| Row {
        flavor: Flavor::TestHooks,
        smp: 4,
        check: checks::stress,
        limit: Duration::from_secs(600),
        ..Row::passing(name, about, &format!("{CROWD} stress={operations}+{stops}"))
    };
    let long = |name: &str, about, operations: u64| Row {
        kinds: &[Kind::Tcg],
        long: true,
        limit: Duration::from_secs(3600),
        line: format!("{LONG_CROWD} quiet stress={operations}+100"),
        ..row(name, about, operations, 100)
    };
    let no_kick = |kind: &'static [Kind]| Row {
        kinds: kind,
        // On Bochs that takes more than a minute.
        long: kind == [Kind::Bochs],
        verdict: "FAIL",
        says: &["kicks were sent, and none came"],
        check: |_| Ok(()),
        line: format!("{SMALL_CROWD} stress=4000+4 test=no-kick"),
        ..row("stress-no-kick", "the stress notices that nobody is kicked", 0, 0)
    };
    vec![
        Row {
            kinds: QEMU,
            ..row(
                "stress",
                "all CPUs use the pool at random while guests run, and everything is checked at random stops",
                20_000,
                20,
            )
        },
        Row {
            kinds: &[Kind::Bochs],
            line: format!("{SMALL_CROWD} stress=10000+10"),
            ..row("stress-few", "the same with VMX and fewer guests", 0, 0)
        },
        Row {
            kinds: &[Kind::Tcg],
            threads: true,
            ..row(
                "stress-threads",
                "the same on CPUs that run at the same time",
                20_000,
                20,
            )
        },
        Row {
            kinds: &[Kind::Tcg],
            repeats: true,
            line: format!("{SMALL_CROWD} stress=5000+5"),
            ..row(
                "stress-repeats",
                "with the same seed the stress does the same again, to the instruction",
                0,
                0,
            )
        },
        no_kick(&[Kind::Tcg]),
        no_kick(&[Kind::Bochs]),
        long("stress-million", "a million operations on 4 CPUs", 1_000_000),
        Row {
            threads: true,
            ..long(
                "stress-million-threads",
                "a million operations on 4 CPUs that run at the same time",
                1_000_000,
            )
        },
        Row {
            smp: 16,
            ..long("stress-16-cpus", "200,000 operations on 16 CPUs", 200_000)
        },
        Row {
            // A quarter of it is for the stress, which takes whole gigablocks, all over RAM.
            memory_mib: 8192,
            host_mib: 9216,
            ..long(
                "stress-8G",
                "100,000 operations where extents reach 1 GiB",
                100_000,
            )
        },
        Row {
            kinds: &[Kind::Bochs],
            line: format!("{SMALL_CROWD} quiet stress=100000+100"),
            ..long("stress-100k", "100,000 operations with VMX", 0)
        },
    ]
}
