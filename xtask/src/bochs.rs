//! One Bochs from start to end. The machine's text is read from the file that its first serial port writes. It pauses and ends by a break in
//! Bochs' `debugger`, which is told to go on (`c`), or to end (`q`) when no pause was announced. For a look from outside the RAM of a paused
//! machine is copied to a file (`memory`).

mod debugger;
mod line;
mod memory;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use boot_config::{Config, Phase};

use crate::emulator::{Record, Watch, file, harmless, nested_outcome};
use crate::folder::Folder;
use crate::interrupt;
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Medium;
use crate::nested;
use crate::process::{LOOK, Process};
use crate::report::Report;
use crate::setup::{BOCHS, BOCHS_BIOS, BOCHS_VGA};
use crate::verdict::Outcome;
use debugger::Debugger;
use line::Line;

pub use memory::obstacle;

/// Names of the files in a run's folder that only Bochs has.
const CONFIGURATION: &str = "bochsrc";
const SCRIPT: &str = "debugger.rc";
const LOG: &str = "bochs.log";

/// Instructions per second of the machine's clock, about half of what Bochs really makes on one CPU. The clock follows the instructions, so
/// it is repeatable, and no guest waits for the host: a 200 ms limit is 10 million instructions, and one of 30 s is enough for a guest that
/// looks at all of 64 MiB (260 million).
const INSTRUCTIONS_PER_SECOND: u32 = 50_000_000;

/// The same for level 1, whose software waits more than it works: a slow CPU has less idle time to emulate.
const NESTED_INSTRUCTIONS_PER_SECOND: u32 = 20_000_000;

/// Most memory that Bochs keeps in RAM, in MiB; the rest of a larger machine goes to a file of its own.
const HOST_MIB: u64 = 2048;

/// What differs between the hypervisor on Bochs and level 1 on Bochs.
struct Setup {
    /// The emulated CPU and how its MSRs are.
    cpu: &'static str,
    instructions_per_second: u32,
    /// RAM in bytes, and how many CPUs.
    memory: u64,
    cpus: u32,
    /// The boot medium's line, and which it is.
    drive: String,
    boot: &'static str,
    /// More lines.
    more: String,
}

impl Setup {
    fn of(machine: &Machine) -> Self {
        if machine.kind == Kind::NestedIntel {
            return Self {
                // Linux reads MSRs of a Haswell that Bochs does not know before it could handle a fault. KVM in level 1 knows for itself which ones
                // level 2 has.
                cpu: "model=corei7_haswell_4770, ignore_bad_msrs=1",
                instructions_per_second: NESTED_INSTRUCTIONS_PER_SECOND,
                memory: nested::level_0::memory(machine),
                cpus: 1,
                drive: disc(nested::file::DISC),
                boot: "cdrom",
                // A message while a signal handler runs can deadlock Bochs' log (measured with 2.7).
                more: format!(
                    "com3: enabled=1, mode=file, dev={}\nerror: action=ignore\ninfo: action=ignore\n",
                    nested::file::LOG
                ),
            };
        }
        let medium = Medium::of(machine.kind, machine.boot).unwrap_or(Medium::Disk);
        let path = medium.file_name();
        let (drive, boot) = match medium {
            Medium::Disk => (format!("type=disk, mode=flat, path={path}, cylinders=0"), "disk"),
            Medium::Disc => (disc(path), "cdrom"),
        };
        Self {
            // Unknown MSRs must fault: by default Bochs lets them read zero.
            cpu: "model=corei7_skylake_x, ignore_bad_msrs=0",
            instructions_per_second: INSTRUCTIONS_PER_SECOND,
            memory: machine.memory,
            cpus: machine.smp,
            drive,
            boot,
            more: "error: action=report\n".into(),
        }
    }
}

fn disc(path: &str) -> String {
    format!("type=cdrom, path={path}, status=inserted")
}

/// Bochs' configuration. Paths are relative to the run's folder, where it is started: its syntax has no way to quote them.
fn configuration(machine: &Machine, line: Option<&Line>) -> String {
    let text = line.map_or(format!("mode=file, dev={}", file::SERIAL), Line::device);
    let Setup {
        cpu,
        instructions_per_second,
        memory,
        cpus,
        drive,
        boot,
        more,
    } = Setup::of(machine);
    let mib = memory >> 20;
    let host = mib.min(HOST_MIB);
    // A text of one screen is all that the display ever gets: its terminal is never read, and more would stop the machine.
    format!(
        "display_library: term
config_interface: textconfig
plugin_ctrl: speaker=0, unmapped=1
memory: guest={mib}, host={host}
romimage: file={BOCHS_BIOS}, options=fastboot
vgaromimage: file={BOCHS_VGA}
cpu: {cpu}, count={cpus}, ips={instructions_per_second}, reset_on_triple_fault=0
clock: sync=none, time0=1000000000
port_e9_hack: enabled=1
com1: enabled=1, {text}
com2: enabled=1, mode=file, dev={}
ata0-master: {drive}
boot: {boot}
log: {LOG}
panic: action=fatal
{more}",
        file::JSON,
    )
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(BOCHS);
    command
        .args(["-q", "-f", CONFIGURATION])
        .current_dir(folder)
        .env("TERM", "dumb")
        .stdin(Stdio::piped());
    command
}

/// What the debugger is told when a run is repeated by hand: go on, also after each pause, then end.
fn script(machine: &Machine) -> String {
    let pauses = Config::parse(&machine.command_line).map_or(0, |config| {
        let asked = |phase: &&Phase| config.pauses.contains(**phase);
        Phase::ALL.iter().filter(asked).count()
    });
    format!("{}q\n", "c\n".repeat(1 + pauses))
}

/// The command as a line that can be pasted into a shell once the run's folder is kept.
pub fn shell_line(folder: &Path) -> String {
    let folder = folder.display().to_string();
    format!(
        "cd {} && TERM=dumb {BOCHS} -q -f {CONFIGURATION} -rc {SCRIPT}",
        shell_words::quote(&folder)
    )
}

/// Runs `machine`, whose medium is in the folder already, until it ends, its time is up, or Ctrl-C comes.
///
/// # Errors
/// Bochs can't be started or spoken to, or the visitor failed. No process is left in any case.
pub fn run(machine: &Machine, folder: &Folder, watch: Watch<'_>) -> Result<Record> {
    let mut line = match watch.typed {
        Typed::Nothing => None,
        Typed::Ours | Typed::Script(_) => Some(Line::bind()?),
    };
    folder.write(CONFIGURATION, configuration(machine, line.as_ref()))?;
    folder.write(SCRIPT, script(machine))?;
    folder.write(file::COMMAND, format!("{}\n", shell_line(folder.path())))?;
    folder.write(file::SERIAL, "")?;
    let log = File::create(folder.file(file::EMULATOR)).context("make a file for the emulator's messages")?;
    let errors = log.try_clone().context("share a file")?;
    let answers = File::open(folder.file(file::EMULATOR)).context("open the emulator's messages")?;

    let start = Instant::now();
    let mut process = Process::start(command(folder.path()).stdout(log).stderr(errors))?;
    let input = process.child().stdin.take().context("the debugger's input")?;
    let mut debugger = Debugger::new(input, answers);
    let mut serial = Serial {
        file: File::open(folder.file(file::SERIAL)).context("open the serial log")?,
        text: Vec::new(),
        show: watch.show,
    };
    let mut started = false;
    let mut pauses = 0;
    let mut keyboard = None;
    let ended = loop {
        let status = process.poll()?;
        serial.read()?;
        if let Some(line) = &mut line {
            if keyboard.is_none() {
                keyboard = line.accept(&folder.file(file::SERIAL), watch.typed)?;
            }
            if let Some(keyboard) = &mut keyboard {
                keyboard.type_next(&serial.text);
            }
        }
        if let Some(status) = status {
            break Ok(status.code());
        }
        if interrupt::asked() {
            break Err(Outcome::Interrupted);
        }
        if let Some(limit) = watch.limit
            && start.elapsed() > limit
        {
            break Err(Outcome::TimeLimit(limit));
        }
        if !debugger.waits()? {
            std::thread::sleep(LOOK);
        } else if !started {
            started = true;
            debugger.tell("c")?;
        } else if let Some(phase) = Report::read(&folder.file(file::JSON)).pauses().nth(pauses) {
            pauses += 1;
            if watch.show {
                eprintln!("paused at `{phase}`");
            }
            let looked = look(machine, folder, &mut debugger, &mut process);
            looked
                .and_then(|registers| (watch.visitor)(phase, &registers))
                .with_context(|| format!("look at the machine at `{phase}`"))?;
            debugger.tell("c")?;
        } else {
            debugger.tell("q")?;
        }
    };
    drop(process);
    if let Some(line) = line {
        line.finish();
        serial.read()?;
    }
    let text = String::from_utf8_lossy(&serial.text).into_owned();
    let report = Report::read(&folder.file(file::JSON));
    let outcome = match ended {
        Ok(_) if machine.kind.is_nested() => nested_outcome(&text, folder).confirmed(&report),
        Ok(status) => Outcome::judge_bochs(&text, status).confirmed(&report),
        Err(outcome) => outcome,
    };
    let outcome = match outcome {
        Outcome::NoVerdict(reason) => Outcome::NoVerdict(
            match panic_line(folder).or_else(|| nested_line(machine, folder)) {
                Some(line) => format!("{reason}; it says `{line}`"),
                None => reason,
            },
        ),
        outcome => outcome,
    };
    Ok(Record {
        outcome,
        text,
        report,
        stopped_at: Vec::new(),
        took: start.elapsed(),
    })
}

/// Takes what a visitor wants of a machine that stands still: its RAM, where that shall be a file, and the text of the first CPU's registers.
fn look(
    machine: &Machine,
    folder: &Folder,
    debugger: &mut Debugger,
    process: &mut Process,
) -> Result<String> {
    if let Ram::SharedFile(path) = &machine.ram {
        let blocks = debugger.ask(memory::ASK_BLOCKS, process)?;
        let log = fs::read_to_string(folder.file(LOG)).context("read Bochs' log")?;
        memory::save(process.child().id(), &log, &blocks, machine.memory, path)?;
    }
    debugger.ask("creg", process)
}

/// The serial log as it grows.
struct Serial {
    file: File,
    text: Vec<u8>,
    show: bool,
}

impl Serial {
    /// Takes what is new, and shows it.
    fn read(&mut self) -> Result<()> {
        let old = self.text.len();
        self.file
            .read_to_end(&mut self.text)
            .context("read the serial log")?;
        if self.show {
            let new = self.text.get(old..).unwrap_or_default();
            let mut terminal = std::io::stdout().lock();
            // A closed terminal is no reason to lose the log.
            let _ = terminal.write_all(&harmless(new)).and_then(|()| terminal.flush());
        }
        Ok(())
    }
}

/// The last thing that level 1 said, where there is one.
fn nested_line(machine: &Machine, folder: &Folder) -> Option<String> {
    let log = machine.kind.is_nested().then(|| nested::log(folder.path()))?;
    nested::last_message(&log)
}

/// What Bochs says when it panics, or when a triple fault makes it.
fn panic_line(folder: &Folder) -> Option<String> {
    // Before it has read its configuration it has no log.
    let (log, early) = (folder.file(LOG), folder.file(file::EMULATOR));
    [log, early]
        .iter()
        .find_map(|path| last_panic(&fs::read(path).unwrap_or_default()))
}

/// The last line of a log that reports a panic: time, the letter `p`, the device in brackets, the text.
fn last_panic(log: &[u8]) -> Option<String> {
    let log = String::from_utf8_lossy(log);
    let panic = |line: &&str| {
        let time = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
        time.len() < line.len() && time.starts_with("p[")
    };
    let line = log.lines().rev().find(panic)?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Ram;
    use crate::medium::Boot;

    fn machine() -> Machine {
        Machine {
            kind: Kind::Bochs,
            boot: Boot::Direct,
            memory: 512 << 20,
            smp: 2,
            cpu_flags: "",
            counted: false,
            threads: false,
            ram: Ram::Anonymous,
            image: "lacuna".into(),
            archive: None,
            command_line: String::new(),
            json: "runs/a,b/report.jsonl".into(),
            monitor: None,
            debugger: None,
        }
    }

    #[test]
    fn panics_are_found_in_the_log() {
        let log = "00000000000i[MEM0  ] allocated\n00001231234p[CPU0  ] >>PANIC<< 3rd fault\n00001231234i[SIM   ] p[";
        let line = last_panic(log.as_bytes()).unwrap();
        assert_eq!(line, "00001231234p[CPU0  ] >>PANIC<< 3rd fault");
        assert_eq!(last_panic(b"plain\n0001i[CPU0  ] fine\np[no time]"), None);
    }

    #[test]
    fn a_run_by_hand_goes_on_after_each_pause() {
        let with = |line: &str| {
            let machine = Machine {
                command_line: line.into(),
                ..machine()
            };
            script(&machine)
        };
        assert_eq!(with("guest=hello"), "c\nq\n");
        assert_eq!(with("guest=hello pause=guests+after"), "c\nc\nc\nq\n");
        assert_eq!(with("no line of ours"), "c\nq\n");
    }

    #[test]
    fn the_configuration_names_memory_cpus_and_what_to_boot() {
        let mut machine = machine();
        let text = configuration(&machine, None);
        assert!(text.contains("memory: guest=512, host=512\n"), "{text}");
        assert!(
            text.contains("model=corei7_skylake_x, ignore_bad_msrs=0, count=2, ips=50000000"),
            "{text}"
        );
        assert!(
            text.contains("mode=flat, path=disk.img, cylinders=0\nboot: disk\n"),
            "{text}"
        );
        machine.boot = Boot::Iso;
        let text = configuration(&machine, None);
        assert!(
            text.contains("type=cdrom, path=lacuna.iso, status=inserted\nboot: cdrom\n"),
            "{text}"
        );
    }
}
