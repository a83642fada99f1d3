//! What is typed on the machine's first serial port.

use std::io::{self, Write};
use std::thread;

use boot_config::COMMANDS_ARE_TAKEN;

/// What is typed on the first serial port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// Nothing.
    Nothing,
    /// What comes on our own standard input until that ends, from when the machine takes commands.
    Ours,
    /// For each of these in turn: once the machine's text has the first, behind what the one before has waited for, the second as a line.
    Script(&'static [(&'static str, &'static str)]),
}

/// Whoever types.
pub struct Keyboard {
    /// `None` once it types by itself.
    port: Option<Box<dyn Write + Send>>,
    typed: Typed,
    /// Bytes of the machine's text that the script has gone past.
    seen: usize,
}

impl Keyboard {
    /// One that is connected to the machine's serial port.
    pub fn new(port: Option<impl Write + Send + 'static>, typed: Typed) -> Self {
        Self {
            port: port.map(|port| Box::new(port) as Box<dyn Write + Send>),
            typed,
            seen: 0,
        }
    }

    /// Types what the machine's text, as far as it has come, is waited for.
    pub fn type_next(&mut self, text: &[u8]) {
        match &mut self.typed {
            Typed::Nothing => {}
            Typed::Ours => {
                if end_of(COMMANDS_ARE_TAKEN, text, 0).is_some()
                    && let Some(mut port) = self.port.take()
                {
                    // It ends with our input, with the machine, or with us: nobody waits for it.
                    thread::spawn(move || copy_lines(&mut port));
                }
            }
            Typed::Script(script) => {
                while let (Some(port), Some(((waits_for, line), rest))) =
                    (&mut self.port, script.split_first())
                    && let Some(end) = end_of(waits_for, text, self.seen)
                {
                    (self.seen, *script) = (end, rest);
                    // A machine that has ended says so by itself.
                    let _ = writeln!(port, "{line}").and_then(|()| port.flush());
                }
            }
        }
    }
}

/// Where the first `what` behind `from` ends.
fn end_of(what: &str, text: &[u8], from: usize) -> Option<usize> {
    let text = text.get(from..)?;
    let at = text
        .windows(what.len().max(1))
        .position(|window| window == what.as_bytes())?;
    Some(from + at + what.len())
}

fn copy_lines(port: &mut impl Write) {
    for line in io::stdin().lines().map_while(Result::ok) {
        if writeln!(port, "{line}").and_then(|()| port.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Port(Arc<Mutex<Vec<u8>>>);

    impl Write for Port {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_script_waits_for_each_text_behind_the_one_before() {
        let port = Port::default();
        let typed = || String::from_utf8(port.0.lock().unwrap().clone()).unwrap();
        let script = &[("ready", "list"), ("ready", "pause 1"), ("paused", "destroy 1")];
        let mut keyboard = Keyboard::new(Some(port.clone()), Typed::Script(script));
        keyboard.type_next(b"paused, not read");
        assert_eq!(typed(), "");
        keyboard.type_next(b"paused, not ready");
        assert_eq!(typed(), "list\n");
        keyboard.type_next(b"paused, not ready. ready, paused");
        assert_eq!(typed(), "list\npause 1\ndestroy 1\n");
    }
}
