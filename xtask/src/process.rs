//! A child process that can't be left behind: it has a process group of its own, which ends with this value, and the kernel
//! ends the child should this program be killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// How often a waiting loop looks.
pub const LOOK: Duration = Duration::from_millis(20);
/// How long a child may take to end after a polite request.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running child. Dropping it ends the child and everything the child started.
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in a process group of its own.
    ///
    /// # Errors
    /// The program can't be started; the error names it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        let die_with_parent =
            || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a bare system call.
        unsafe { command.pre_exec(die_with_parent) };
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, ended: None })
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The status of a child that has ended.
    ///
    /// # Errors
    /// The system can't tell.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("look at a child process")?;
        }
        Ok(self.ended)
    }

    /// Waits for the child, for at most `limit`.
    ///
    /// # Errors
    /// Ctrl-C came or the time is up; the child is ended then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if interrupt::asked() {
                self.end();
                bail!("interrupted");
            }
            if start.elapsed() > limit {
                self.end();
                bail!("not done within {}", humantime::format_duration(limit));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits a moment for a child that is about to end; `None` when it goes on.
    pub fn wait_briefly(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.poll() {
                return Some(status);
            }
            std::thread::sleep(LOOK);
        }
        None
    }

    /// Ends the child and its whole group: politely, then not.
    pub fn end(&mut self) {
        let Ok(id) = i32::try_from(self.child.id()) else {
            return;
        };
        let group = Pid::from_raw(id);
        let start = Instant::now();
        let mut signal = Signal::SIGTERM;
        while let Ok(None) = self.poll() {
            // The child is not reaped yet, so the group still is the child's. An error means that it just ended.
            let _ = killpg(group, signal);
            if start.elapsed() > PATIENCE {
                signal = Signal::SIGKILL;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn alive(id: u32) -> bool {
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(id).unwrap()), None).is_ok()
    }

    #[test]
    fn a_dropped_child_takes_its_children_along() {
        let mut command = Command::new("sh");
        // The shell ignores the polite signal and has a child of its own.
        command
            .args(["-c", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60"])
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command).unwrap();
        let mut line = String::new();
        let mut pipe = std::io::BufReader::new(process.child().stdout.take().unwrap());
        std::io::BufRead::read_line(&mut pipe, &mut line).unwrap();
        let grandchild = line.trim().parse().unwrap();
        let child = process.child().id();
        assert!(alive(child) && alive(grandchild));
        drop(process);
        assert!(!alive(child));
        // The grandchild is reaped by whoever adopts it; wait for that a moment.
        let start = Instant::now();
        while alive(grandchild) && !zombie(grandchild) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "the grandchild lives on"
            );
            std::thread::sleep(LOOK);
        }
    }

    fn zombie(id: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{id}/stat")).map_or(true, |stat| stat.contains(") Z "))
    }

    #[test]
    fn waiting_has_an_end() {
        let mut process = Process::start(Command::new("sleep").arg("60")).unwrap();
        let error = process.wait(Duration::from_millis(50)).unwrap_err().to_string();
        assert_eq!(error, "not done within 50ms");
        assert!(process.poll().unwrap().is_some());
        let status = Process::start(&mut Command::new("true"))
            .unwrap()
            .wait(Duration::MAX)
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Process::start(&mut Command::new("no-such-program"))
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("start no-such-program"));
    }
}
