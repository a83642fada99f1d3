//! Somebody types commands while guests run.

use crate::machine::Kind;
use crate::test::checks;
use crate::test::row::Row;

use super::long_on_bochs;

/// Two guests that end only when they are destroyed: one while it is paused, one while it runs or waits for a turn. Each command is given once where
/// it does something, and once where it does not.
const TYPED: &[(&str, &str)] = &[
    ("launched spin#2", "help"),
    ("ends the guest", "pause 1"),
    ("spin#1 is paused", "list"),
    ("console: spin#2, 16 MiB", "list"),
    ("console: spin#2, 16 MiB", "pause 1"),
    ("spin#1 is paused already", "resume spin#1"),
    ("spin#1 goes on", "resume #1"),
    ("spin#1 is not paused", "pasue 1"),
    ("did you mean `pause`", "destroy"),
    ("`destroy` needs a guest's number", "destroy hello#1"),
    ("guest 1 is spin#1; nothing was done", "pause 1"),
    ("spin#1 is paused", "destroy 1"),
    ("spin#1 is being destroyed", "destroy 1"),
    ("spin#1 was destroyed on request", "destroy 1"),
    ("guest 1 has ended", "destroy 3"),
    ("there has been no guest 3", "pause 1"),
    ("guest 1 has ended", "list"),
    ("console: spin#2, 16 MiB", "destroy 2"),
];

/// Two guests that spin until they are destroyed.
pub(super) const SPINS: &str = "console guest=spin,memory=16M,limit=3600s,count=2";

/// A guest is destroyed while it is launched, twice; another comes after it.
const TYPED_AT_THE_LAUNCH: &[(&str, &str)] = &[
    ("launching spin#1", "pause 1"),
    ("spin#1 is still being launched, and can't be paused", "destroy 1"),
    ("the launch of spin#1 is cancelled", "list"),
];

/// Somebody types commands.
pub(super) fn console() -> Vec<Row> {
    let two_cpus = long_on_bochs(Row {
        smp: 2,
        typed: TYPED,
        check: |record| checks::destroyed(record, "spin", 2, true),
        ..Row::passing(
            "console-two-cpus",
            "the same where each guest has a CPU, and whoever listens runs another",
            SPINS,
        )
    });
    let mut rows = vec![
        Row {
            typed: TYPED,
            check: |record| {
                checks::destroyed(record, "spin", 2, true)?;
                checks::stands_still(record, "spin#1")
            },
            ..Row::passing(
                "console",
                "guests are paused, resumed and destroyed as somebody types",
                SPINS,
            )
        },
        Row {
            // Elsewhere the launch would be over before anybody had typed.
            kinds: &[Kind::Tcg, Kind::Bochs],
            typed: TYPED_AT_THE_LAUNCH,
            says: &["spin#1 was destroyed on request, before it was launched"],
            check: |record| checks::destroyed(record, "spin", 1, false),
            ..Row::passing(
                "console-launch",
                "a guest is destroyed while it is launched, and another launched after it",
                "console guest=spin,memory=384M,limit=3600s {hello}",
            )
        },
    ];
    rows.extend(two_cpus);
    rows
}
