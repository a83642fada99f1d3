//! Guests that attack, and those that change their memory, where a row of their own is not enough.

use std::time::Duration;

use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::Row;

/// A row for many guests that have rows of their own: all in one boot, for machines on which each boot takes long.
fn suite(name: &str, about: &'static str, guests: &str) -> Row {
    Row {
        long: true,
        limit: Duration::from_secs(3600),
        ..Row::passing(name, about, &format!("{guests} together=2 quiet"))
    }
}

/// All that attack, but for `attack-task-switch`, which ends otherwise on QEMU's emulation, and those that try ranges as a whole.
const ATTACKS: &str = "{attack-accessed} {attack-caches} {attack-control-registers} {attack-endless} {attack-fetch} \
     {attack-pause} {attack-port-strings} {attack-stale-walk} {attack-walk} {control-registers} {escape} \
     {escape-device} {escape-exec} {escape-mapping} {escape-table} {escape-write} {exceptions} {halt} {hypercalls} \
     {msr} {port} {self-modifying-code} {spin-open} {triple-fault}";

/// Those that try all there is of something, more than 200,000 exits together. A machine with levels takes up to a millisecond for each, so the two with the most get time.
const SWEEPS: &str = "guest=attack-msrs,memory=4M,limit=1800s guest=attack-ports,memory=4M,limit=1800s {cpuid-sweep} {hypercalls-at-random}";

/// All that change their memory.
const CONVERSIONS: &str = "{attack-in-place} {attack-races} {auto-accept} {auto-convert} {auto-convert-limit} {balloon} {changes-at-random} {conversion-storm} \
     {page-states} {share-and-stay} {share-and-take-back} {share-in-place} {share-limit} {share-much} {shared-page-tables} {squeeze} {table-limit} \
     {touch-given-back} {touch-pending} {touch-private-as-shared} {touch-shared-as-private} {touch-shared-in-place} {vcpus-share} \
     {vcpus-revoked} {reads-zero}";

/// Guests that attack, where more than one is needed, or a machine has a way of its own.
pub(super) fn attacks() -> Vec<Row> {
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
            "suite-sweeps",
            "every guest that tries all registers, ports, CPUID leaves or calls, in one boot",
            SWEEPS,
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Not of the suite: what other rows are made of, and what ends otherwise on QEMU's emulation.
    const NOT_OF_THE_SUITE: [&str; 10] = [
        "attack-task-switch",
        "hello",
        "measured",
        "no-room",
        "panic",
        "spin",
        "touch-all",
        "two-at-once",
        "vcpus",
        "vcpus-left-behind",
    ];

    #[test]
    fn each_guest_is_in_one_suite() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tests/src/bin");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path());
        let mut names: Vec<String> = files
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| !name.starts_with("bench-"))
            .collect();
        names.sort();
        let suites = [ATTACKS, SWEEPS, CONVERSIONS].join(" ");
        let mut listed: Vec<&str> = suites
            .split_whitespace()
            .map(|word| word.trim_start_matches("guest=").trim_matches(['{', '}']))
            .filter_map(|word| word.split(',').next())
            .chain(NOT_OF_THE_SUITE)
            .collect();
        listed.sort_unstable();
        assert_eq!(names, listed);
    }
}
