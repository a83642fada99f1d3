//! One emulator from start to end: its text is shown and kept, its pauses are answered, and it ends in time.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::folder::Folder;
use crate::keyboard::{Keyboard, Typed};
use crate::machine::Machine;
use crate::process::{LOOK, Process};
use crate::qmp::{Listener, Qmp, register};
use crate::report::Report;
use crate::verdict::Outcome;
use crate::{bochs, interrupt, medium, nested};

/// Names of the files that a run leaves in its folder.
pub mod file {
    /// The text of the first serial port.
    pub const SERIAL: &str = "serial.log";
    /// The JSON lines of the second serial port.
    pub const JSON: &str = "report.jsonl";
    /// What the emulator itself had to say.
    pub const EMULATOR: &str = "emulator.log";
    /// The emulator's command line.
    pub const COMMAND: &str = "command.sh";
    /// The CPU's registers when the time was up.
    pub const REGISTERS: &str = "registers.txt";
    /// The guest archive.
    pub const ARCHIVE: &str = "guests.tar";
}

/// Addresses of the hypervisor's own stacks and image are above this (the layout in `docs/architecture.md`).
const IMAGE: u64 = 0xffff_8000_0000_0000;
/// The most return addresses that are looked for.
const DEEPEST: usize = 24;

/// What came out of a run.
#[derive(Debug)]
pub struct Record {
    /// The verdict, or what was in its way.
    pub outcome: Outcome,
    /// The text of the first serial port.
    pub text: String,
    /// The lines of the second serial port, in order.
    pub report: Report,
    /// Where the CPU was when its time was up: the instruction, then the return addresses on its stack.
    pub stopped_at: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

/// Whoever looks at the machine while it is paused: called with the phase, and with what the emulator says of the first CPU's registers. Where the
/// machine's RAM is to be a file, that has at this moment what the RAM has.
pub type Visitor<'a> = dyn FnMut(&str, &str) -> Result<()> + 'a;

/// How to watch a run.
pub struct Watch<'a> {
    /// Ends the run; `None` waits for ever (with a debugger).
    pub limit: Option<Duration>,
    /// Shows the text on the terminal as it comes.
    pub show: bool,
    /// Looks at the machine at each pause.
    pub visitor: &'a mut Visitor<'a>,
    /// What is typed meanwhile.
    pub typed: Typed,
}

/// Runs `machine` until it ends, its time is up, or Ctrl-C comes. `machine.monitor` is set here.
///
/// # Errors
/// The emulator can't be started or spoken to, or the visitor failed. No process is left in any case.
pub fn run(machine: Machine, folder: &Folder, watch: Watch<'_>) -> Result<Record> {
    run_under(&[], machine, folder, watch)
}

/// The same with QEMU started by another program: these words stand before its command line.
///
/// # Errors
/// As for [`run`].
pub fn run_under(
    prefix: &[String],
    mut machine: Machine,
    folder: &Folder,
    watch: Watch<'_>,
) -> Result<Record> {
    medium::prepare(&machine, folder)?;
    nested::prepare(&machine, folder)?;
    if machine.kind.is_bochs() {
        return bochs::run(&machine, folder, watch);
    }
    let listener = Listener::bind()?;
    machine.monitor = Some(listener.path());
    folder.write(file::COMMAND, format!("{}\n", machine.shell_line()))?;
    let log = File::create(folder.file(file::EMULATOR)).context("make a file for the emulator's messages")?;

    let start = Instant::now();
    let mut command = under(prefix, machine.command());
    command.stdin(match watch.typed {
        Typed::Nothing => Stdio::null(),
        Typed::Ours | Typed::Script(_) => Stdio::piped(),
    });
    let mut process = Process::start(command.stdout(Stdio::piped()).stderr(log))?;
    let keyboard = Keyboard::new(process.child().stdin.take(), watch.typed);
    let pipe = process.child().stdout.take().context("the emulator's output")?;
    let text = Arc::new(Mutex::new(Vec::new()));
    let reader = thread::spawn({
        let (text, file) = (Arc::clone(&text), folder.file(file::SERIAL));
        let show = watch.show;
        move || copy_text(pipe, &text, &file, show)
    });

    let mut run = Running {
        process,
        listener,
        qmp: None,
        folder,
        keyboard,
    };
    let ended = run.until_end(start, watch, &text);
    drop(run);
    reader
        .join()
        .map_err(|_| anyhow!("the reader of the serial port failed"))?
        .context("keep the serial log")?;
    let text = std::mem::take(&mut *text.lock().unwrap_or_else(PoisonError::into_inner));
    let text = String::from_utf8_lossy(&text).into_owned();
    let (outcome, stopped_at) = match ended? {
        End::Status(_) if machine.kind.is_nested() => (nested_outcome(&text, folder), Vec::new()),
        End::Status(status) => (Outcome::judge(&text, status), Vec::new()),
        End::Interrupted => (Outcome::Interrupted, Vec::new()),
        End::TimeIsUp(limit, stopped_at) => (Outcome::TimeLimit(limit), stopped_at),
    };
    let took = start.elapsed();
    let report = Report::read(&folder.file(file::JSON));
    let outcome = with_messages(outcome.confirmed(&report), || {
        let nested = machine.kind.is_nested();
        let of_level_1 = nested.then(|| nested::last_message(&nested::log(folder.path())));
        of_level_1.flatten().or_else(|| last_line(folder))
    });
    Ok(Record {
        outcome,
        text,
        report,
        stopped_at,
        took,
    })
}

/// The command, started by the program that these words begin with.
fn under(prefix: &[String], command: Command) -> Command {
    let Some((program, words)) = prefix.split_first() else {
        return command;
    };
    let mut outer = Command::new(program);
    outer
        .args(words)
        .arg(command.get_program())
        .args(command.get_args());
    outer
}

/// Judges a machine with levels: the status that counts is the one of level 1's QEMU.
pub fn nested_outcome(text: &str, folder: &Folder) -> Outcome {
    match nested::status(&nested::log(folder.path())) {
        Some(status) => Outcome::judge(text, Some(status)),
        None => Outcome::NoVerdict("level 1 ended before it said how QEMU did".into()),
    }
}

/// Adds what the emulator itself said to a run without a verdict: often it did not even start.
fn with_messages(outcome: Outcome, message: impl FnOnce() -> Option<String>) -> Outcome {
    let Outcome::NoVerdict(reason) = outcome else {
        return outcome;
    };
    Outcome::NoVerdict(message().map_or(reason.clone(), |line| format!("{reason}; it says `{line}`")))
}

/// The last line of the emulator's own messages.
fn last_line(folder: &Folder) -> Option<String> {
    let log = std::fs::read(folder.file(file::EMULATOR)).ok()?;
    let log = String::from_utf8_lossy(&log);
    let mut lines = log.lines().rev().map(str::trim);
    lines.find(|line| !line.is_empty()).map(str::to_owned)
}

/// How the emulator came to its end.
enum End {
    /// By itself; `None`: by a signal that we did not send.
    Status(Option<i32>),
    /// Ctrl-C came.
    Interrupted,
    /// Its time was up; where it was then.
    TimeIsUp(Duration, Vec<u64>),
}

/// An emulator that runs.
struct Running<'a> {
    process: Process,
    listener: Listener,
    qmp: Option<Qmp>,
    folder: &'a Folder,
    keyboard: Keyboard,
}

impl Running<'_> {
    fn until_end(&mut self, start: Instant, watch: Watch<'_>, text: &Mutex<Vec<u8>>) -> Result<End> {
        loop {
            self.keyboard
                .type_next(&text.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(status) = self.process.poll()? {
                return Ok(End::Status(status.code()));
            }
            if interrupt::asked() {
                return Ok(End::Interrupted);
            }
            if let Some(limit) = watch.limit
                && start.elapsed() > limit
            {
                return Ok(End::TimeIsUp(limit, self.position()));
            }
            let Some(qmp) = &mut self.qmp else {
                // An emulator that ends at once may close the connection before the greeting: its status says more.
                self.qmp = self
                    .listener
                    .accept()
                    .or_else(|error| match self.process.wait_briefly() {
                        Some(_) => Ok(None),
                        None => Err(error),
                    })?;
                thread::sleep(LOOK);
                continue;
            };
            let Some(event) = qmp.event(LOOK) else { continue };
            if event["event"] == "GUEST_PANICKED" {
                let phase = Report::read(&self.folder.file(file::JSON)).paused_at();
                if watch.show {
                    eprintln!("paused at `{phase}`");
                }
                let registers = qmp.human("info registers");
                registers
                    .and_then(|registers| (watch.visitor)(&phase, &registers))
                    .with_context(|| format!("look at the machine at `{phase}`"))?;
                qmp.resume()?;
            }
        }
    }

    /// Where the machine is, now that its time is up; nothing when the emulator does not say.
    fn position(&mut self) -> Vec<u64> {
        let Some(qmp) = &mut self.qmp else {
            return Vec::new();
        };
        let registers = qmp
            .execute("stop", json!({}))
            .and_then(|_| qmp.human("info registers"));
        let Ok(registers) = registers else {
            return Vec::new();
        };
        // Kept for the reader; the run has failed already.
        let _ = self.folder.write(file::REGISTERS, &registers);
        let Some(rip) = register(&registers, "RIP") else {
            return Vec::new();
        };
        let mut addresses = vec![rip];
        let mut frame = register(&registers, "RBP");
        // The image keeps frame pointers: at RBP lie the caller's RBP and the return address. A guest may have anything there.
        while let Some(at) = frame
            && at >= IMAGE
            && addresses.len() < DEEPEST
        {
            let Some((next, address)) = qmp
                .human(&format!("x /2gx {at:#x}"))
                .ok()
                .and_then(|text| two_words(&text))
            else {
                break;
            };
            if address < IMAGE {
                break;
            }
            addresses.push(address);
            // Stacks grow down, so callers lie higher; anything else is no chain.
            frame = (next > at).then_some(next);
        }
        addresses
    }
}

/// The two words in the monitor's answer to `x /2gx`: `address: 0x… 0x…`.
fn two_words(text: &str) -> Option<(u64, u64)> {
    let mut words = text
        .split_once(':')?
        .1
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    Some((words.next()??, words.next()??))
}

/// Copies the serial port to the log, to memory, and to the terminal.
fn copy_text(
    mut pipe: impl Read,
    text: &Mutex<Vec<u8>>,
    file: &std::path::Path,
    show: bool,
) -> std::io::Result<()> {
    let mut log = File::create(file)?;
    let mut buffer = [0; 4096];
    loop {
        let length = pipe.read(&mut buffer)?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        log.write_all(bytes)?;
        text.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        if show {
            let mut terminal = std::io::stdout().lock();
            // A closed terminal is no reason to lose the log.
            let _ = terminal
                .write_all(&harmless(bytes))
                .and_then(|()| terminal.flush());
        }
    }
}

/// Guests print what they like: control characters other than line feed and tab don't reach the terminal.
pub fn harmless(bytes: &[u8]) -> Vec<u8> {
    let shown = bytes.iter().filter(|byte| **byte != b'\r');
    shown
        .map(|byte| {
            if byte.is_ascii_control() && !b"\n\t".contains(byte) {
                b'?'
            } else {
                *byte
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_monitor() {
        let text = "ffffff8000001000: 0xffffff8000001040 0xffffffff80201234\r\n";
        assert_eq!(
            two_words(text),
            Some((0xffff_ff80_0000_1040, 0xffff_ffff_8020_1234))
        );
        assert_eq!(two_words("Cannot access memory"), None);
        assert_eq!(two_words("1000: 0x1"), None);
    }

    #[test]
    fn control_characters_stay_off_the_terminal() {
        assert_eq!(harmless(b"a\r\n\tb\x1b[2J\x7f"), b"a\n\tb?[2J?");
        assert_eq!(harmless("é█".as_bytes()), "é█".as_bytes());
    }
}
