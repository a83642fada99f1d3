//! Bochs' debugger: commands go to its standard input, answers come in the file that its standard output was sent to.

use std::fs::File;
use std::io::{Read, Write};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// How long it may take for an answer. It answers within a second.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a waiting loop looks.
const LOOK: Duration = Duration::from_millis(2);

/// The debugger of a running Bochs.
pub struct Debugger<I = ChildStdin> {
    input: I,
    output: File,
    /// What it has written since the last command.
    text: Vec<u8>,
    /// Commands sent. The prompt for the first one has the number 1.
    sent: u64,
}

impl<I: Write> Debugger<I> {
    /// A debugger that was just started, without commands of its own (`-rc`).
    pub fn new(input: I, output: File) -> Self {
        Self {
            input,
            output,
            text: Vec::new(),
            sent: 0,
        }
    }

    /// Sends a command and does not wait.
    ///
    /// # Errors
    /// Bochs has ended.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.text.clear();
        self.sent += 1;
        let line = format!("{command}\n");
        let sent = self.input.write_all(line.as_bytes());
        sent.and_then(|()| self.input.flush())
            .with_context(|| format!("tell Bochs' debugger `{command}`"))
    }

    /// Whether the machine stands still and the debugger waits for the next command: the last it wrote is the prompt for that one.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn waits(&mut self) -> Result<bool> {
        self.output
            .read_to_end(&mut self.text)
            .context("read what Bochs' debugger says")?;
        Ok(self.text.ends_with(self.prompt().as_bytes()))
    }

    fn prompt(&self) -> String {
        format!("<bochs:{}> ", self.sent + 1)
    }

    /// Sends a command and returns what the debugger says to it.
    ///
    /// # Errors
    /// Bochs has ended, or does not answer in time.
    pub fn ask(&mut self, command: &str, process: &mut Process) -> Result<String> {
        self.tell(command)?;
        let start = Instant::now();
        while !self.waits()? {
            if process.poll()?.is_some() {
                bail!("Bochs ended instead of answering `{command}`");
            }
            if start.elapsed() > ANSWER {
                bail!("Bochs' debugger does not answer `{command}`");
            }
            std::thread::sleep(LOOK);
        }
        let text = String::from_utf8_lossy(&self.text).into_owned();
        Ok(text.trim_end_matches(&self.prompt()).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_the_prompt_for_the_next_command_is_a_stop() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut debugger = Debugger::new(Vec::new(), log.reopen().unwrap());
        let mut says = |text: &str| log.write_all(text.as_bytes()).unwrap();
        assert!(!debugger.waits().unwrap());
        says("Next at t=0\n<bochs:1> ");
        assert!(debugger.waits().unwrap());
        debugger.tell("c").unwrap();
        // The same prompt is still the last it wrote, and a guest may print one.
        assert!(!debugger.waits().unwrap());
        says("c\n<bochs:1> ");
        assert!(!debugger.waits().unwrap());
        says("\nNext at t=12\n<bochs:2> ");
        assert!(debugger.waits().unwrap());
        assert_eq!(debugger.input, b"c\n");
    }

    #[test]
    fn an_answer_is_what_comes_before_the_next_prompt() {
        // An emulator made of a shell: it answers when it is asked.
        let log = tempfile::NamedTempFile::new().unwrap();
        let script =
            "printf '<bochs:1> '; read line; printf '%s\\nCR3=0x1000\\n<bochs:2> ' \"$line\"; read line";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(log.reopen().unwrap());
        let mut process = Process::start(&mut command).unwrap();
        let input = process.child().stdin.take().unwrap();
        let mut debugger = Debugger::new(input, log.reopen().unwrap());
        let answer = debugger.ask("creg", &mut process).unwrap();
        assert!(answer.ends_with("creg\nCR3=0x1000\n"), "{answer}");
        let error = debugger.ask("q", &mut process).unwrap_err().to_string();
        assert_eq!(error, "Bochs ended instead of answering `q`");
    }
}
