//! `docs/command-line.md` and the tables of names say the same.

use std::collections::BTreeSet;

use boot_config::{FIELDS, PARAMETERS, Parameter};

const DOCUMENT: &str = include_str!("../../../docs/command-line.md");

/// The first cell of each row of the table under the heading `title`, without its backticks.
fn rows(title: &str) -> BTreeSet<String> {
    let section = DOCUMENT
        .split("\n## ")
        .filter(|section| section.starts_with(title));
    let cells = section
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

/// Each entry as the document writes it.
fn entries(table: &[Parameter]) -> BTreeSet<String> {
    let write = |p: &Parameter| match p.form {
        "" => p.name.to_owned(),
        form => format!("{}={form}", p.name),
    };
    table.iter().map(write).collect()
}

#[test]
fn the_document_lists_every_parameter_and_no_other() {
    assert_eq!(rows("Parameters"), entries(PARAMETERS));
    assert_eq!(rows("Fields of a guest"), entries(FIELDS));
}

#[test]
fn the_document_lists_every_ending_and_hook() {
    let endings: BTreeSet<_> = [
        "exit:CODE",
        "memory-fault",
        "time-limit",
        "shutdown",
        "halt",
        "unexpected",
        "refused",
        "destroyed",
        "any",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(rows("Endings"), endings);
    for ending in &endings {
        let text = format!("a,expect={}", ending.replace("CODE", "3"));
        assert!(boot_config::GuestSpec::parse(&text).is_ok(), "{text}");
    }
    let hooks: BTreeSet<_> = boot_config::Hook::ALL.map(|hook| hook.name().to_owned()).into();
    assert_eq!(rows("Deliberate mistakes"), hooks);
}
