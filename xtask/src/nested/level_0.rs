//! The emulator's side of a machine with levels: QEMU's command line, and the disc for Bochs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use super::base::Base;
use super::file;
use crate::folder::Folder;
use crate::iso;
use crate::machine::{Kind, Machine, value};

/// The emulated CPU. Without XSAVE: QEMU's emulation (7.2 and 10.0) lets level 2 execute XSETBV although KVM intercepts it, and KVM, which did
/// not see it, puts the old XCR0 back at the next exit; the XRSTOR after that is a #GP (docs/nested-kvm.md).
const CPU: &str = "EPYC,+svm,+npt,-xsave";
/// RAM of level 1 besides level 2's: kernel, its files twice while they are unpacked, QEMU itself.
const OWN: u64 = 1 << 30;
/// As much on Bochs, whose own start-up grows with the square of it.
const OWN_BOCHS: u64 = 768 << 20;
/// Level 1's kernel: its own messages on the third serial port, few of them; no reboot after a panic; no trial of the timer, which fails where
/// the host is too busy to emulate it in time.
const COMMAND_LINE: &str =
    "console=ttyS2,115200 quiet panic=-1 mitigations=off cryptomgr.notests no_timer_check";
/// More of it on Bochs: trust the TSC, which runs with the instructions, and don't move the kernel.
const COMMAND_LINE_BOCHS: &str = "nokaslr tsc=reliable";

/// RAM of level 2 where exits are counted: enough for a whole 1G leaf above 4 GiB. It touches little of it, so level 1 need not have as much.
pub const COUNTED_MEMORY: u64 = 3 << 30;
/// How much of that level 1 has for it.
const COUNTED_SHARE: u64 = 512 << 20;

/// RAM of level 1 in bytes.
pub fn memory(machine: &Machine) -> u64 {
    let share = if machine.counted {
        COUNTED_SHARE
    } else {
        machine.memory
    };
    share + own(machine.kind)
}

/// RAM of level 1 besides level 2's, in MiB; 0 for a machine without levels.
pub fn own_mib(kind: Kind) -> u64 {
    own(kind) >> 20
}

const fn own(kind: Kind) -> u64 {
    match kind {
        Kind::NestedAmd => OWN,
        Kind::NestedIntel => OWN_BOCHS,
        Kind::Kvm | Kind::Tcg | Kind::Bochs => 0,
    }
}

/// The arguments of QEMU as level 0.
pub fn arguments(machine: &Machine) -> Vec<String> {
    let beside = |name: &str| machine.json.with_file_name(name);
    let port = |id: &str, path: &Path| {
        [
            "-chardev".to_owned(),
            format!("file,id={id},path={}", value(path)),
            "-serial".to_owned(),
            format!("chardev:{id}"),
        ]
    };
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", CPU]);
    add(&["-m", &format!("{}k", memory(machine) >> 10)]);
    add(&["-chardev", "stdio,id=text,signal=off", "-serial", "chardev:text"]);
    arguments.extend(port("json", &machine.json));
    arguments.extend(port("level-1", &beside(file::LOG)));
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-kernel", &beside(file::KERNEL).display().to_string()]);
    add(&["-initrd", &value(&beside(file::FILES))]);
    add(&["-append", COMMAND_LINE]);
    arguments
}

/// Puts kernel and files into the run's folder, as level 0 wants them.
///
/// # Errors
/// The folder can't be written to, or GRUB's tools fail.
pub fn prepare(machine: &Machine, base: &Base, run: &[u8], folder: &Folder) -> Result<()> {
    folder.write(file::LOG, "")?;
    if machine.kind == Kind::NestedIntel {
        let own = folder.write(file::FILES, run)?;
        let configuration = format!(
            "linux /boot/kernel {COMMAND_LINE} {COMMAND_LINE_BOCHS}\ninitrd /boot/base.cpio /boot/run.cpio\nboot\n"
        );
        return iso::disc(
            &[
                ("kernel", &base.kernel),
                ("base.cpio", &base.files),
                ("run.cpio", &own),
            ],
            &configuration,
            &folder.file(file::DISC),
            &folder.file("level-1.contents"),
        );
    }
    symlink(&base.kernel, folder.file(file::KERNEL)).context("link level 1's kernel")?;
    let path = folder.file(file::FILES);
    fs::copy(&base.files, &path).with_context(|| format!("write {}", path.display()))?;
    // The kernel takes archives one after the other.
    let mut all = File::options()
        .append(true)
        .open(&path)
        .context("open level 1's files")?;
    all.write_all(run)
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nested::tests::machine;

    #[test]
    fn level_0_emulates_svm_and_has_three_serial_ports() {
        let line = machine(Kind::NestedAmd).arguments().join(" ");
        assert!(
            line.contains("-accel tcg,thread=single -cpu EPYC,+svm,+npt,-xsave -m 1572864k"),
            "{line}"
        );
        let text = line.find("chardev:text").unwrap();
        let json = line.find("chardev:json").unwrap();
        let own = line.find("chardev:level-1").unwrap();
        assert!(text < json && json < own, "{line}");
        assert!(
            line.contains("-kernel runs/1/level-1.kernel -initrd runs/1/level-1.cpio -append console=ttyS2"),
            "{line}"
        );
    }
}
