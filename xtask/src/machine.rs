//! The emulator's command line, made in one place for every machine and every purpose.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::medium::{Boot, Medium, UEFI};
use crate::setup::QEMU;
use crate::{bochs, nested};

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// QEMU with the host's KVM, which must offer its guests hardware virtualization.
    Kvm,
    /// QEMU's own CPU emulation with AMD's SVM and nested paging; works anywhere.
    Tcg,
    /// Bochs, which emulates Intel's VMX and EPT; works anywhere, slowly.
    Bochs,
    /// KVM in a Linux on QEMU's emulation of an AMD CPU; works on Debian.
    NestedAmd,
    /// KVM in a Linux on Bochs' emulation of an Intel CPU; works on Debian, very slowly.
    NestedIntel,
}

impl Kind {
    /// The word for it on the command line and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Bochs => "bochs",
            Self::NestedAmd => "nested-amd",
            Self::NestedIntel => "nested-intel",
        }
    }

    /// Whether Bochs is the emulator, else it is QEMU.
    pub const fn is_bochs(self) -> bool {
        matches!(self, Self::Bochs | Self::NestedIntel)
    }

    /// Whether the machine is one inside another, see [`nested`].
    pub const fn is_nested(self) -> bool {
        matches!(self, Self::NestedAmd | Self::NestedIntel)
    }
}

/// What the guest's RAM is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ram {
    /// Memory of the emulator. Nothing is reserved: only what is touched costs memory of the host.
    Anonymous,
    /// A file that other programs can read while the machine is paused; in QEMU the RAM itself.
    SharedFile(PathBuf),
}

/// One machine, ready to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Emulated or by KVM.
    pub kind: Kind,
    /// What starts the hypervisor.
    pub boot: Boot,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of CPUs.
    pub smp: u32,
    /// Added to the CPU's name, such as `svm=off`; empty for all features.
    pub cpu_flags: &'static str,
    /// Whether it counts. On TCG its clocks follow the instructions executed, so that equal runs are equal to the instruction; on the machines
    /// with levels, level 1 counts VM exits. Others can't.
    pub counted: bool,
    /// Whether QEMU's emulation has a thread for each CPU, so that they really run at the same time. Else one thread takes turns.
    pub threads: bool,
    /// What the RAM is made of.
    pub ram: Ram,
    /// The hypervisor's image.
    pub image: PathBuf,
    /// The guest archive, or whatever a test gives instead of one.
    pub archive: Option<PathBuf>,
    /// The hypervisor's command line.
    pub command_line: String,
    /// Where the JSON lines of the second serial port go.
    pub json: PathBuf,
    /// The unix socket at which we await the emulator's monitor protocol.
    pub monitor: Option<PathBuf>,
    /// The TCP port at which the emulator awaits a debugger, halted.
    pub debugger: Option<u16>,
}

/// A path as a value inside a list of options: commas are doubled there.
pub fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl Machine {
    /// The emulator's arguments. All of them are known to QEMU 7.2 and 10.0 alike.
    pub fn arguments(&self) -> Vec<String> {
        if self.kind.is_nested() {
            return nested::level_0::arguments(self);
        }
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));

        add(&["-nodefaults", "-no-user-config", "-display", "none"]);
        // A reset is a triple fault of the hypervisor: the emulator ends instead of starting over.
        add(&["-no-reboot"]);
        add(&["-machine", "q35,memory-backend=ram"]);
        let (accelerator, cpu) = match self.kind {
            Kind::Kvm => ("kvm", "host"),
            // One thread for all CPUs: with more, a shootdown costs milliseconds on a small host. (Bochs has no such arguments, see
            // `bochs`.)
            Kind::Tcg if self.threads => ("tcg,thread=multi", "max"),
            Kind::Tcg | Kind::Bochs | Kind::NestedAmd | Kind::NestedIntel => ("tcg,thread=single", "max"),
        };
        add(&["-accel", accelerator]);
        let comma = if self.cpu_flags.is_empty() { "" } else { "," };
        add(&["-cpu", &format!("{cpu}{comma}{}", self.cpu_flags)]);
        if self.counted {
            // One tick of the TSC for each instruction; no clock and no random number of the host's.
            add(&["-icount", "shift=0,sleep=off"]);
            add(&["-rtc", "clock=vm,base=2026-01-01", "-seed", "1"]);
        }
        add(&["-smp", &self.smp.to_string()]);
        add(&["-m", &format!("{}k", self.memory >> 10)]);
        let backend = match &self.ram {
            Ram::Anonymous => format!(
                "memory-backend-ram,id=ram,size={}k,reserve=off",
                self.memory >> 10
            ),
            Ram::SharedFile(path) => format!(
                "memory-backend-file,id=ram,size={}k,mem-path={},share=on",
                self.memory >> 10,
                value(path)
            ),
        };
        add(&["-object", &backend]);

        // First port: text for people. Second port: the report as JSON lines.
        add(&["-chardev", "stdio,id=text,signal=off", "-serial", "chardev:text"]);
        add(&[
            "-chardev",
            &format!("file,id=json,path={}", value(&self.json)),
            "-serial",
            "chardev:json",
        ]);
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        add(&["-device", "pvpanic", "-action", "panic=pause"]);
        if let Some(socket) = &self.monitor {
            add(&["-chardev", &format!("socket,id=monitor,path={}", value(socket))]);
            add(&["-mon", "chardev=monitor,mode=control"]);
        }
        if let Some(port) = self.debugger {
            add(&["-gdb", &format!("tcp:127.0.0.1:{port}"), "-S"]);
        }

        let medium = Medium::of(self.kind, self.boot);
        let path = medium.map(|medium| value(&self.json.with_file_name(medium.file_name())));
        match (medium, path) {
            (Some(Medium::Disk), Some(path)) => {
                add(&["-drive", &format!("format=raw,file={path}")]);
            }
            (Some(Medium::Disc), Some(path)) => {
                add(&[
                    "-drive",
                    &format!("media=cdrom,format=raw,readonly=on,file={path}"),
                ]);
            }
            _ => {
                add(&["-kernel", &self.image.display().to_string()]);
                if let Some(archive) = &self.archive {
                    // The value may be a list of modules: a comma in the name is doubled here too.
                    add(&["-initrd", &value(archive)]);
                }
                add(&["-append", &self.command_line]);
            }
        }
        if self.boot == Boot::Uefi {
            add(&["-bios", UEFI]);
        }
        arguments
    }

    /// The command that starts the emulator.
    pub fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        command.args(self.arguments()).stdin(Stdio::null());
        command
    }

    /// The command as a line that can be pasted into a shell.
    pub fn shell_line(&self) -> String {
        if self.kind.is_bochs() {
            return bochs::shell_line(self.json.parent().unwrap_or(Path::new(".")));
        }
        let mut words = vec![QEMU.to_owned()];
        words.extend(self.arguments());
        shell_words::join(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kind: Kind::Tcg,
            boot: Boot::Direct,
            memory: 512 << 20,
            smp: 1,
            cpu_flags: "",
            counted: false,
            threads: false,
            ram: Ram::Anonymous,
            image: "target/it's here/lacuna".into(),
            archive: Some("runs/a,b/guests.tar".into()),
            command_line: "guest=hello,memory=4M seed=1".into(),
            json: "runs/a,b/report.jsonl".into(),
            monitor: None,
            debugger: None,
        }
    }

    #[test]
    fn the_shell_line_quotes_what_a_shell_would_split() {
        let line = machine().shell_line();
        assert_eq!(shell_words::split(&line).unwrap()[1..], machine().arguments());
        assert!(line.contains(r"-kernel 'target/it'\''s here/lacuna'"), "{line}");
        assert!(line.contains("-append 'guest=hello,memory=4M seed=1'"), "{line}");
        assert!(line.contains("path=runs/a,,b/report.jsonl"), "{line}");
    }

    #[test]
    fn kinds_and_memory_show_in_the_arguments() {
        let line = machine().arguments().join(" ");
        assert!(
            line.contains("-accel tcg,thread=single -cpu max -smp 1 -m 524288k"),
            "{line}"
        );
        assert!(
            line.contains("memory-backend-ram,id=ram,size=524288k,reserve=off"),
            "{line}"
        );
        assert!(!line.contains("-icount"), "{line}");
        let counted = Machine {
            counted: true,
            threads: false,
            ..machine()
        };
        let line = counted.arguments().join(" ");
        assert!(
            line.contains("-icount shift=0,sleep=off -rtc clock=vm,base=2026-01-01 -seed 1"),
            "{line}"
        );
        let threads = Machine {
            threads: true,
            ..machine()
        };
        assert!(threads.arguments().join(" ").contains("-accel tcg,thread=multi "));
        let kvm = Machine {
            kind: Kind::Kvm,
            cpu_flags: "svm=off",
            ram: Ram::SharedFile("ram".into()),
            debugger: Some(1234),
            archive: None,
            ..machine()
        };
        let line = kvm.arguments().join(" ");
        assert!(line.contains("-accel kvm -cpu host,svm=off"), "{line}");
        assert!(
            line.contains("memory-backend-file,id=ram,size=524288k,mem-path=ram,share=on"),
            "{line}"
        );
        assert!(line.contains("-gdb tcp:127.0.0.1:1234 -S"), "{line}");
        assert!(!line.contains("-initrd"), "{line}");
    }

    #[test]
    fn media_are_beside_the_report() {
        let line = |boot| Machine { boot, ..machine() }.arguments().join(" ");
        let disk = line(Boot::Disk);
        assert!(
            disk.contains("-drive format=raw,file=runs/a,,b/disk.img"),
            "{disk}"
        );
        assert!(!disk.contains("-kernel") && !disk.contains("-append"), "{disk}");
        let disc = line(Boot::Iso);
        assert!(disc.contains("readonly=on,file=runs/a,,b/lacuna.iso"), "{disc}");
        assert!(!disc.contains("-bios"), "{disc}");
        assert_eq!(line(Boot::Uefi), format!("{disc} -bios {UEFI}"));
        let bochs = Machine {
            kind: Kind::Bochs,
            ..machine()
        };
        assert!(bochs.shell_line().starts_with("cd runs/a,b && TERM=dumb bochs "));
    }
}
