//! A small client of QEMU's machine protocol: JSON lines over a unix socket. We listen, the emulator connects, so there is no
//! moment at which the socket does not exist yet.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long the emulator may take for an answer. It answers within milliseconds; a large guest may be busy for a while.
const ANSWER: Duration = Duration::from_secs(30);

/// A socket at which an emulator is awaited. Dropping it removes the socket's file.
pub struct Listener {
    listener: UnixListener,
    folder: PathBuf,
}

impl Listener {
    /// Listens at a fresh path. It lies in the system's folder for temporary files, because the name of a unix socket
    /// must be short and a workspace can be anywhere.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn bind() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lacuna-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let path = folder.join("monitor");
        // Left over by a process of the same id that was killed.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("listen at {} (a shorter TMPDIR may help)", path.display()))?;
        listener.set_nonblocking(true).context("listen without waiting")?;
        Ok(Self { listener, folder })
    }

    /// Where the emulator shall connect.
    pub fn path(&self) -> PathBuf {
        self.folder.join("monitor")
    }

    /// The connection, once the emulator has made it.
    ///
    /// # Errors
    /// The socket broke, or what connected does not speak the protocol.
    pub fn accept(&self) -> Result<Option<Qmp>> {
        match self.listener.accept() {
            Ok((stream, _)) => Qmp::greet(stream).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("await the emulator's connection"),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only untidy when it fails.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A connection to a running emulator.
pub struct Qmp {
    stream: UnixStream,
    messages: Receiver<Value>,
    events: Vec<Value>,
}

impl Qmp {
    fn greet(stream: UnixStream) -> Result<Self> {
        stream
            .set_nonblocking(false)
            .context("wait on the emulator's socket")?;
        let reader = BufReader::new(stream.try_clone().context("share the emulator's socket")?);
        let (sender, messages) = channel();
        // Ends when the emulator closes the socket, or when nobody listens any more.
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if let Ok(message) = serde_json::from_str(&line)
                    && sender.send(message).is_err()
                {
                    return;
                }
            }
        });
        let mut qmp = Self {
            stream,
            messages,
            events: Vec::new(),
        };
        let greeting = qmp
            .messages
            .recv_timeout(ANSWER)
            .context("the emulator's greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("this is not the emulator's greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer. Events that come meanwhile are kept for [`Qmp::event`].
    ///
    /// # Errors
    /// The emulator ended, does not answer, or refuses; the text names the command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("send `{command}` to the emulator"))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self
                .messages
                .recv_timeout(left)
                .with_context(|| format!("the emulator does not answer `{command}`"))?;
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = message.get("error") {
                bail!(
                    "the emulator refuses `{command}`: {}",
                    error["desc"].as_str().unwrap_or("no reason given")
                );
            }
            self.events.push(message);
        }
    }

    /// Lets a paused machine go on. It may come to its end, and the emulator be gone, before the answer is out: that is no error here, what the
    /// machine said decides.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn resume(&mut self) -> Result<()> {
        match self.execute("cont", json!({})) {
            Err(error) if error.downcast_ref() != Some(&RecvTimeoutError::Disconnected) => Err(error),
            Err(_) | Ok(_) => Ok(()),
        }
    }

    /// Runs a command of the monitor for people, such as `info registers`.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The next event, awaited for at most `patience`. `None`: none came, or the emulator closed the connection.
    pub fn event(&mut self, patience: Duration) -> Option<Value> {
        if !self.events.is_empty() {
            return Some(self.events.remove(0));
        }
        match self.messages.recv_timeout(patience) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The process ends in a moment; don't spin until it does.
                thread::sleep(patience);
                None
            }
        }
    }
}

/// The value of a register such as `CR3` or `RIP` in the text of `info registers`.
pub fn register(text: &str, name: &str) -> Option<u64> {
    let start = text
        .match_indices(&format!("{name}="))
        .map(|(at, _)| at)
        .find(|at| *at == 0 || text.as_bytes().get(at - 1).is_some_and(u8::is_ascii_whitespace))?;
    let value = text.get(start + name.len() + 1..)?.trim_start();
    let digits = value.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_from_the_emulators_text() {
        let text = "RAX=0000000000000001 RIP=ffffffff80201234 RFL=00000002\nCR0=80010033 CR2=0 CR3=000000000020a000 CR4=20";
        assert_eq!(register(text, "RIP"), Some(0xffff_ffff_8020_1234));
        assert_eq!(register(text, "CR3"), Some(0x20_a000));
        assert_eq!(register(text, "RAX"), Some(1));
        assert_eq!(register(text, "AX"), None);
        assert_eq!(register(text, "DR7"), None);
    }

    /// A machine that ends at once when it goes on takes the emulator with it.
    #[test]
    fn an_emulator_that_ends_instead_of_answering_has_gone_on() {
        for answers in [0, 1] {
            let listener = Listener::bind().unwrap();
            let path = listener.path();
            let emulator = thread::spawn(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                stream.write_all(b"{\"QMP\": {}}\n").unwrap();
                lines.next().unwrap().unwrap();
                stream.write_all(b"{\"return\": {}}\n").unwrap();
                assert!(lines.next().unwrap().unwrap().contains("cont"));
                for _ in 0..answers {
                    stream.write_all(b"{\"error\": {\"desc\": \"no\"}}\n").unwrap();
                }
            });
            let mut qmp = loop {
                if let Some(qmp) = listener.accept().unwrap() {
                    break qmp;
                }
            };
            assert_eq!(qmp.resume().is_ok(), answers == 0);
            emulator.join().unwrap();
        }
    }

    /// A made-up emulator: speaks the protocol on the other end of the socket.
    #[test]
    fn commands_events_and_refusals() {
        let listener = Listener::bind().unwrap();
        let path = listener.path();
        assert!(listener.accept().unwrap().is_none());
        let emulator = thread::spawn(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut say = |text: &str| stream.write_all(format!("{text}\n").as_bytes()).unwrap();
            say(r#"{"QMP": {"version": {}, "capabilities": []}}"#);
            assert!(lines.next().unwrap().unwrap().contains("qmp_capabilities"));
            say(r#"{"return": {}}"#);
            assert!(lines.next().unwrap().unwrap().contains("info registers"));
            say(r#"{"event": "STOP"}"#);
            say(r#"{"return": "CR3=1000"}"#);
            assert!(lines.next().unwrap().unwrap().contains("nonsense"));
            say(r#"{"error": {"class": "CommandNotFound", "desc": "no such command"}}"#);
        });
        let mut qmp = loop {
            if let Some(qmp) = listener.accept().unwrap() {
                break qmp;
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(qmp.human("info registers").unwrap(), "CR3=1000");
        assert_eq!(qmp.event(Duration::ZERO).unwrap()["event"], "STOP");
        let error = qmp.execute("nonsense", json!({})).unwrap_err().to_string();
        assert_eq!(error, "the emulator refuses `nonsense`: no such command");
        emulator.join().unwrap();
        assert!(qmp.event(Duration::from_millis(1)).is_none());
        let path = listener.path();
        drop(listener);
        assert!(!path.exists());
    }
}
