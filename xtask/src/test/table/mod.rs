//! Every test on a machine, one row each.

use crate::machine::Kind;
use crate::test::measuring;
use crate::test::row::{EVERYWHERE, QEMU, Row};

mod attacks;
mod console;
mod machines;
mod mistakes;
mod refused;
mod sizes;
mod stress;
mod together;

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
                // On Bochs `squeeze` does all of it and more.
                "squeeze" => QEMU,
                _ => EVERYWHERE,
            },
            ..Row::passing(
                format!("guest-{name}"),
                "ends as its own launch text says",
                &format!("{{{name}}}"),
            )
        })
        .collect();
    rows.extend(together::together());
    rows.extend(console::console());
    rows.extend(attacks::attacks());
    rows.extend(sizes::sizes());
    rows.extend(refused::bad_lines());
    rows.extend(refused::bad_input());
    rows.extend(refused::bad_machines());
    rows.extend(machines::other_cpus());
    rows.extend(machines::boots());
    rows.extend(machines::seen_from_outside());
    rows.extend(mistakes::deliberate_mistakes());
    rows.extend(stress::stress());
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
