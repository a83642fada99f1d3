//! What is refused before any guest runs.

use crate::machine::Kind;
use crate::test::checks;
use crate::test::inputs::{self, HOSTILE};
use crate::test::row::{Archive, Row};

/// Command lines that are refused before anything else happens.
pub(super) fn bad_lines() -> Vec<Row> {
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
pub(super) fn bad_input() -> Vec<Row> {
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
pub(super) fn bad_machines() -> Vec<Row> {
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
