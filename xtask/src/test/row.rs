//! One test on a machine, as data.

use std::time::Duration;

use crate::build::Flavor;
use crate::emulator::Record;
use crate::machine::Kind;
use crate::medium::Boot;

/// Every kind of machine; what runs on KVM runs on the machines with KVM inside, too ([`Row::is_for`]).
pub const EVERYWHERE: &[Kind] = &[Kind::Tcg, Kind::Kvm, Kind::Bochs];
/// Those of QEMU. Bochs can't take part in all: its CPU's features are a fixed set, and more than 2 GiB of RAM it keeps in a slow file.
pub const QEMU: &[Kind] = &[Kind::Tcg, Kind::Kvm];

/// The most RAM of level 2 in MiB.
const MOST_NESTED_MIB: u64 = 4096;
/// The most RAM of level 2 on Bochs in MiB.
const MOST_ON_BOCHS_MIB: u64 = 1024;

/// One test on a machine.
#[derive(Clone)]
pub struct Row {
    /// Its name, without the machine's.
    pub name: String,
    /// What it shows, in a few words.
    pub about: &'static str,
    /// The machines that it runs on.
    pub kinds: &'static [Kind],
    /// What starts the hypervisor.
    pub boot: Boot,
    /// RAM of the machine in MiB.
    pub memory_mib: u64,
    /// Number of CPUs.
    pub smp: u32,
    /// RAM that the host needs, in MiB: what the run touches, not what the machine seems to have.
    pub host_mib: u64,
    /// Whether a CPU must keep an old translation until it is told to drop it, which only the emulators are sure to do.
    pub keeps_translations: bool,
    /// Added to the CPU's name.
    pub cpu_flags: &'static str,
    /// Which hypervisor.
    pub flavor: Flavor,
    /// What is handed over as archive.
    pub archive: Archive,
    /// The hypervisor's command line; `{guests}` stands for every bundled guest of the main job with its launch text, `{NAME}` for one of
    /// them. A seed goes before it.
    pub line: String,
    /// The word of the verdict: `PASS`, `FAIL`, `PANIC` or `REFUSED`.
    pub verdict: &'static str,
    /// Each of these must be in the verdict's reason or in the text on the serial port.
    pub says: &'static [&'static str],
    /// Looks at the record; the error is why the test fails. Runs that must pass are also looked at by `checks::standing`.
    pub check: fn(&Record) -> Result<(), String>,
    /// Whether RAM is looked at, as a file, while the machine is paused, and what must be seen.
    pub outside: Outside,
    /// Whether each CPU has a thread of the emulator's, where QEMU emulates it. Only with `long`: QEMU 7.2 loses what CPU 0 notes about nested paging
    /// when another CPU loads x87 state meanwhile, and one run of a main job in 65 fails by that (docs/testing.md, the stress).
    pub threads: bool,
    /// Whether it runs twice with the same seed, on QEMU's emulation with clocks that follow the instructions, and must do the same each time.
    pub repeats: bool,
    /// Whether it takes so long that it is left to `--long`.
    pub long: bool,
    /// What is typed on the machine's first serial port, and what is waited for before each line. The command line says `console` then.
    pub typed: &'static [(&'static str, &'static str)],
    /// After this time the run is a failure.
    pub limit: Duration,
}

/// The look from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// There is none.
    NotLookedAt,
    /// Nothing that must not be is seen.
    Holds,
    /// A mistake was made that must be seen: its description has these words in it.
    Finds(&'static str),
}

/// What is handed over as archive.
#[derive(Clone, Copy)]
pub enum Archive {
    /// Every bundled guest.
    Bundled,
    /// Nothing at all.
    Missing,
    /// The bundled archive, spoilt.
    Spoilt(fn(Vec<u8>) -> Vec<u8>),
    /// Files made for the test, with their names.
    Files(fn() -> Vec<(&'static str, Vec<u8>)>),
}

/// The rows that `cargo xtask test` runs on the machines with KVM inside; all others take `--long`. Together a minute on two cores (measured).
const SHORT: [(Kind, &str); 6] = [
    (Kind::NestedAmd, "main-job-512M"),
    (Kind::NestedAmd, "main-job-512M-two-cpus"),
    (Kind::NestedAmd, "nothing-left-over"),
    (Kind::NestedAmd, "no-npt"),
    (Kind::NestedAmd, "bad-control-block"),
    (Kind::NestedIntel, "guest-hello"),
];

impl Row {
    /// Whether the row is one for this kind of machine.
    pub fn is_for(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind) || kind.is_nested() && self.kinds.contains(&Kind::Kvm)
    }

    /// Why the row can't run on this kind of machine although it is one for it.
    pub fn obstacle(&self, kind: Kind) -> Option<&'static str> {
        if self.keeps_translations && kind.is_nested() {
            return Some(
                "inside an emulator each exit of level 1 drops old translations, and the test needs one",
            );
        }
        if self.keeps_translations && kind == Kind::Kvm {
            return Some("a real TLB may drop an old translation at any time, and the test needs one");
        }
        if !kind.is_nested() {
            return None;
        }
        if !self.typed.is_empty() {
            return Some("level 1 hands nothing on that is typed");
        }
        if self.memory_mib > MOST_NESTED_MIB {
            Some("level 1 would need as much RAM, and a second for each GiB to set it up")
        } else if kind == Kind::NestedIntel && self.memory_mib > MOST_ON_BOCHS_MIB {
            Some("Bochs is too slow for level 1 with so much RAM")
        } else {
            None
        }
    }

    /// Whether the row is left to `--long` on this kind of machine.
    pub fn is_long(&self, kind: Kind) -> bool {
        self.long || kind.is_nested() && !SHORT.contains(&(kind, self.name.as_str()))
    }

    /// A run of bundled guests on 512 MiB that must pass, on every kind of machine. The table changes what differs.
    pub fn passing(name: impl Into<String>, about: &'static str, line: &str) -> Self {
        Self {
            name: name.into(),
            about,
            kinds: EVERYWHERE,
            boot: Boot::Direct,
            memory_mib: 512,
            smp: 1,
            host_mib: 384,
            keeps_translations: false,
            cpu_flags: "",
            flavor: Flavor::Plain,
            archive: Archive::Bundled,
            line: line.to_owned(),
            verdict: "PASS",
            says: &[],
            check: |_| Ok(()),
            outside: Outside::NotLookedAt,
            threads: false,
            repeats: false,
            long: false,
            typed: &[],
            limit: Duration::from_secs(240),
        }
    }

    /// A run that must end with another verdict and say why.
    pub fn ending(
        verdict: &'static str,
        says: &'static [&'static str],
        name: &str,
        about: &'static str,
        line: &str,
    ) -> Self {
        Self {
            verdict,
            says,
            ..Self::passing(name, about, line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::table;

    fn on(kind: Kind) -> Vec<Row> {
        let mut rows = table::rows(&["hello".to_owned()]);
        rows.retain(|row| row.kinds.contains(&kind));
        rows
    }

    #[test]
    fn no_row_asks_of_bochs_what_it_can_not_do() {
        for row in on(Kind::Bochs) {
            let name = &row.name;
            assert!(row.cpu_flags.is_empty(), "{name} changes the CPU");
            assert!(row.memory_mib <= 2048, "{name} has too much RAM");
            assert_ne!(row.boot, Boot::Uefi, "{name} boots by UEFI");
        }
    }

    #[test]
    fn what_kvm_runs_is_a_row_for_the_machines_with_kvm_inside() {
        let rows = table::rows(&["hello".to_owned()]);
        for kind in [Kind::NestedAmd, Kind::NestedIntel] {
            for row in &rows {
                assert!(
                    row.is_for(kind) || !row.kinds.contains(&Kind::Kvm),
                    "{}",
                    row.name
                );
            }
        }
        for (kind, name) in SHORT {
            let row = rows.iter().find(|row| row.name == name && row.is_for(kind));
            assert!(
                row.is_some_and(|row| row.obstacle(kind).is_none() && !row.is_long(kind)),
                "{name}"
            );
        }
        assert!(
            rows.iter()
                .all(|row| row.is_long(Kind::Tcg) == row.long && row.obstacle(Kind::Tcg).is_none())
        );
    }

    #[test]
    fn what_needs_an_old_translation_is_skipped_where_none_is_sure_to_stay() {
        let rows = table::rows(&["hello".to_owned()]);
        let row = rows.iter().find(|row| row.name == "no-interrupt");
        for (kind, runs) in [
            (Kind::Tcg, true),
            (Kind::Bochs, true),
            (Kind::Kvm, false),
            (Kind::NestedAmd, false),
            (Kind::NestedIntel, false),
        ] {
            let runs_there = row.is_some_and(|row| row.is_for(kind) && row.obstacle(kind).is_none());
            assert_eq!(runs_there, runs, "{kind:?}");
            assert!(
                row.is_some_and(|row| row.is_for(kind)),
                "{kind:?} says nothing of it"
            );
        }
    }

    #[test]
    fn what_qemu_does_wrongly_is_left_to_long_runs() {
        assert!(on(Kind::Tcg).iter().all(|row| row.long || !row.threads));
    }

    #[test]
    fn what_bochs_can_do_is_tried_there() {
        let bochs: Vec<_> = on(Kind::Bochs).into_iter().map(|row| row.name).collect();
        for row in on(Kind::Tcg) {
            let possible = row.cpu_flags.is_empty()
                && row.memory_mib <= 2048
                && row.boot != Boot::Uefi
                && row.smp <= 4
                // That mistake is in a VMCB.
                && !row.line.contains("test=bad-control-block")
                // These are about QEMU's threads and clocks.
                && !matches!(row.name.as_str(), "stress-threads" | "stress-million-threads")
                && !row.repeats
                && row.name != "task-switch-unseen"
                // `stress-few` is Bochs' own.
                && row.name != "stress"
                // A million exits, or operations.
                && row.name != "stress-million"
                && row.name != "million-hypercalls";
            assert_eq!(bochs.contains(&row.name), possible, "{}", row.name);
        }
    }
}
