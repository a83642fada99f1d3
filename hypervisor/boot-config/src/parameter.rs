//! The tables of names: parameters of the line, and fields of a guest.

/// One parameter of the command line, or one field of a `guest=` word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// The name as it is written, without `=`.
    pub name: &'static str,
    /// The value as it is written in documents; empty when it takes none.
    pub form: &'static str,
    /// What value is accepted, as error texts say it.
    pub accepted: &'static str,
}

const fn parameter(name: &'static str, form: &'static str, accepted: &'static str) -> Parameter {
    Parameter { name, form, accepted }
}

/// Every parameter of the command line.
pub const PARAMETERS: &[Parameter] = &[
    parameter(
        "guest",
        "NAME[,FIELD...]",
        "the name of a file in the archive (letters, digits, `.`, `_`, `-`, `+`; at most 64), then fields such as `,memory=64M`",
    ),
    parameter("seed", "N", "a 64-bit number, decimal or 0x hexadecimal"),
    parameter("together", "N", "a number from 1 to 1000000"),
    parameter(
        "pause",
        "PHASE[+PHASE...]",
        "`boot`, `guests`, `after`, joined by `+`",
    ),
    parameter("quiet", "", ""),
    parameter("console", "", ""),
    parameter(
        "bench",
        "SIZE",
        "a multiple of 2M from 4M to 1T, such as 16M or 1G",
    ),
    parameter(
        "policy",
        "NAME",
        "`grouped`, `linux-fresh`, `linux-aged` or `scattered`",
    ),
    parameter("cache", "N", "a number of 2 MiB regions from 0 to 524288"),
    parameter("measure", "WHAT", "`tlb`"),
    parameter(
        "trace",
        "ACTION[+ACTION...]",
        "`all`, or `carve`, `hide`, `split`, `merge`, `flush`, `restore`, joined by `+`",
    ),
    parameter("view", "", ""),
    parameter(
        "test",
        "NAME",
        "`read-hole`, `write-text`, `stack-overflow`, `silent-cpu`, `show-hole` or `keep-copy`, in a test build",
    ),
    parameter(
        "stress",
        "OPERATIONS+STOPS",
        "a number of operations up to 1000000000, and one of stops, at least 1 and no more than operations, such as `100000+100`, in a test build",
    ),
];

/// Every field that can follow the name in a `guest=` word, and that the launch section of a guest's ELF file can hold.
pub const FIELDS: &[Parameter] = &[
    parameter(
        "memory",
        "SIZE",
        "a multiple of 2M from 4M to 1T, such as 64M, 1G or 4096K",
    ),
    parameter("count", "N", "a number from 1 to 1000000"),
    parameter("vcpus", "N", "a number from 1 to 1024"),
    parameter(
        "share",
        "SIZE",
        "a multiple of 4K from 0 to 1T, such as 0, 64K or 1M",
    ),
    parameter("tables", "N", "a number from 0 to 1048576"),
    parameter(
        "limit",
        "DURATION",
        "a time from 1ms to 3600s, such as 200ms or 30s",
    ),
    parameter(
        "expect",
        "ENDING",
        "`exit:CODE`, `memory-fault`, `time-limit`, `shutdown`, `halt`, `unexpected`, `refused`, `destroyed` or `any`",
    ),
    parameter("auto-accept", "", ""),
    parameter("auto-convert", "", ""),
    parameter("after", "", ""),
];

/// The names of [`PARAMETERS`].
pub(crate) const PARAMETER_NAMES: &[&str] = &names::<{ PARAMETERS.len() }>(PARAMETERS);
/// The names of [`FIELDS`].
pub(crate) const FIELD_NAMES: &[&str] = &names::<{ FIELDS.len() }>(FIELDS);

/// The names of `table`, which has `N` rows.
const fn names<const N: usize>(table: &[Parameter]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut row = 0;
    while row < N {
        names[row] = table[row].name;
        row += 1;
    }
    names
}

/// What is accepted for `name`, looked up in `table`.
pub(crate) fn accepted(table: &'static [Parameter], name: &str) -> &'static str {
    table
        .iter()
        .find(|parameter| parameter.name == name)
        .map_or("", |parameter| parameter.accepted)
}
