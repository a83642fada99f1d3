//! Nested KVM on a machine that has no virtualization: an emulator (level 0) boots the distribution's kernel with KVM (level 1), whose
//! QEMU boots Lacuna (level 2), whose guests are level 3.
//!
//! What level 1 is made of passes through these files in this order: `packages` fetches kernel and busybox from the distribution, `contents`
//! picks what level 1 needs of them and of the QEMU that is installed here, `base` packs that once (`cpio`) and keeps it. For each run,
//! `run_files` adds the hypervisor, the guests, and the command with which level 1 starts them: that of `--machine kvm`, written by the same
//! code ([`level_2`]). `level_0` writes the emulator's side: QEMU's command line, or a disc for Bochs.
//!
//! Level 0 has three serial ports: the first two are level 2's, as on every machine, the third has level 1's own messages. There it says
//! with which status QEMU ended ([`status`]); level 0's own status says nothing.

mod base;
mod contents;
mod cpio;
pub mod level_0;
mod packages;
mod run_files;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::folder::Folder;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Medium;

/// Names of the files in a run's folder that only these machines have.
pub mod file {
    /// What level 1 says itself: kernel, set-up, and QEMU's own messages.
    pub const LOG: &str = "level-1.log";
    /// Level 1's files.
    pub const FILES: &str = "level-1.cpio";
    /// Level 1's kernel.
    pub const KERNEL: &str = "level-1.kernel";
    /// Both on a disc, for Bochs.
    pub const DISC: &str = "level-1.iso";
}

/// Where level 1 has the files of a run.
const RUN: &str = "/run/lacuna";
/// How the line begins with which level 1 says how QEMU ended.
const STATUS: &str = "level 1: QEMU ended with status ";
/// How the line begins that comes after QEMU's last.
const DONE: &str = "level 1: after ";

/// KVM's module for the CPU that level 0 emulates; `None` for a machine without levels.
const fn module(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NestedAmd => Some("kvm-amd"),
        Kind::NestedIntel => Some("kvm-intel"),
        Kind::Kvm | Kind::Tcg | Kind::Bochs => None,
    }
}

/// Makes sure that what every run on such a machine shares is there, and says what it is.
///
/// # Errors
/// See [`base::ensure`].
pub fn set_up(kind: Kind) -> Result<String> {
    module(kind).map_or(Ok(String::new()), |module| Ok(base::ensure(module)?.about))
}

/// Packs what `machine` starts from, in the run's folder, which has its other files already.
///
/// # Errors
/// What all runs share can't be made, or the folder can't be written to.
pub fn prepare(machine: &Machine, folder: &Folder) -> Result<()> {
    let Some(module) = module(machine.kind) else {
        return Ok(());
    };
    let base = base::ensure(module)?;
    let files = run_files::pack(machine)?;
    level_0::prepare(machine, &base, &files, folder)
}

/// The machine that level 1 starts: what `--machine kvm` would start on a user's host, with the paths that level 1 has.
pub fn level_2(machine: &Machine) -> Machine {
    let at = |name: &str| PathBuf::from(RUN).join(name);
    Machine {
        kind: Kind::Kvm,
        counted: false,
        threads: false,
        ram: Ram::Anonymous,
        image: at("lacuna"),
        archive: machine.archive.as_ref().map(|_| at("guests.tar")),
        // Nobody could connect: level 1 has no network.
        monitor: None,
        debugger: None,
        // A link to the second serial port. A boot medium is looked for beside it.
        json: at("report.jsonl"),
        ..machine.clone()
    }
}

/// Files of a run on the host, and where level 1 has them.
fn run_sources(machine: &Machine) -> Vec<(PathBuf, PathBuf)> {
    let inner = level_2(machine);
    let mut files = vec![(machine.image.clone(), inner.image.clone())];
    files.extend(machine.archive.clone().zip(inner.archive.clone()));
    if let Some(medium) = Medium::of(machine.kind, machine.boot) {
        let name = medium.file_name();
        files.push((machine.json.with_file_name(name), inner.json.with_file_name(name)));
    }
    files
}

/// With which status level 1's QEMU ended; `None` when level 1 did not get that far. `log` is its own serial port.
pub fn status(log: &str) -> Option<i32> {
    log.lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix(STATUS))
        .and_then(|number| number.trim().parse().ok())
}

/// What most likely says why there is no verdict: the last thing that QEMU said in level 1, else the last of all before level 1 was done.
pub fn last_message(log: &str) -> Option<String> {
    let lines = || {
        let said = log.lines().map(str::trim).filter(|line| !line.is_empty());
        said.take_while(|line| !line.starts_with(DONE))
    };
    let of_qemu = lines().filter(|line| line.starts_with(crate::setup::QEMU)).last();
    of_qemu.or_else(|| lines().last()).map(str::to_owned)
}

/// What level 1 said, as far as it came.
pub fn log(folder: &Path) -> String {
    let bytes = std::fs::read(folder.join(file::LOG)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::Boot;

    pub(super) fn machine(kind: Kind) -> Machine {
        Machine {
            kind,
            boot: Boot::Direct,
            memory: 512 << 20,
            smp: 2,
            cpu_flags: "npt=off",
            counted: false,
            threads: false,
            ram: Ram::Anonymous,
            image: "target/lacuna".into(),
            archive: Some("runs/1/guests.tar".into()),
            command_line: "guest=hello,memory=4M seed=1".into(),
            json: "runs/1/report.jsonl".into(),
            monitor: None,
            debugger: None,
        }
    }

    #[test]
    fn level_1_starts_what_kvm_would_start() {
        let kvm = machine(Kind::Kvm).arguments();
        let inner = level_2(&machine(Kind::NestedAmd)).arguments();
        assert_eq!(kvm.len(), inner.len());
        let mut differing = kvm.iter().zip(&inner).filter(|(kvm, inner)| kvm != inner);
        let mut next = || differing.next().map(|(_, inner)| inner.as_str());
        assert_eq!(next(), Some("file,id=json,path=/run/lacuna/report.jsonl"));
        assert_eq!(next(), Some("/run/lacuna/lacuna"));
        assert_eq!(next(), Some("/run/lacuna/guests.tar"));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_boot_medium_comes_along() {
        let disk = Machine {
            boot: Boot::Disk,
            ..machine(Kind::NestedAmd)
        };
        let sources = run_sources(&disk);
        let medium = ("runs/1/disk.img".into(), "/run/lacuna/disk.img".into());
        assert!(sources.contains(&medium), "{sources:?}");
        let line = level_2(&disk).arguments().join(" ");
        assert!(line.contains("file=/run/lacuna/disk.img"), "{line}");
    }

    #[test]
    fn qemu_s_own_words_come_first() {
        let log = "level 1: up after 2 s\r\nqemu-system-x86_64: no KVM\r\n[ 2.1] kvm: no hardware support\r\nlevel 1: after 3 s\r\nlevel 1: QEMU ended with status 1\r\nreboot: Power down\r\n";
        assert_eq!(last_message(log).as_deref(), Some("qemu-system-x86_64: no KVM"));
        let silent = log.replace("qemu-system-x86_64: no KVM\r\n", "");
        assert_eq!(
            last_message(&silent).as_deref(),
            Some("[ 2.1] kvm: no hardware support")
        );
        assert_eq!(last_message("Kernel panic\n\n").as_deref(), Some("Kernel panic"));
        assert_eq!(last_message(""), None);
    }

    #[test]
    fn the_last_status_counts() {
        assert_eq!(
            status("level 1: QEMU ended with status 33\r\nreboot: Power down\n"),
            Some(33)
        );
        assert_eq!(status("[1.0] level 1: QEMU ended with status 33"), None);
        assert_eq!(status("level 1: QEMU ended with status "), None);
        assert_eq!(status(""), None);
    }
}
