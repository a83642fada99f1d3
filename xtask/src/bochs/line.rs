//! The first serial port as a connection, for runs in which somebody types: a file takes no input.

use std::fs::OpenOptions;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::keyboard::{Keyboard, Typed};

/// Where Bochs connects its first serial port to.
pub struct Line {
    listener: TcpListener,
    copies: Option<JoinHandle<io::Result<u64>>>,
}

impl Line {
    /// Awaits the machine, on this host only.
    ///
    /// # Errors
    /// There is no port for it.
    pub fn bind() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("make a serial line")?;
        listener.set_nonblocking(true).context("make a serial line")?;
        Ok(Self {
            listener,
            copies: None,
        })
    }

    /// How Bochs' configuration says it.
    pub fn device(&self) -> String {
        let port = self.listener.local_addr().map_or(0, |address| address.port());
        format!("mode=socket-client, dev=127.0.0.1:{port}")
    }

    /// Once the machine has connected: copies what it says to the log from now on, and is its keyboard.
    ///
    /// # Errors
    /// The connection, or the log.
    pub fn accept(&mut self, log: &Path, typed: Typed) -> Result<Option<Keyboard>> {
        let machine = match self.listener.accept() {
            Ok((machine, _)) => machine,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("the serial line"),
        };
        machine.set_nonblocking(false).context("the serial line")?;
        let mut output = machine.try_clone().context("the serial line")?;
        let mut log = OpenOptions::new()
            .append(true)
            .open(log)
            .context("open the serial log")?;
        self.copies = Some(thread::spawn(move || io::copy(&mut output, &mut log)));
        Ok(Some(Keyboard::new(Some(machine), typed)))
    }

    /// The machine is gone: returns when all that it has said is in the log.
    pub fn finish(self) {
        if let Some(copies) = self.copies {
            // What is missing is missed where the log is judged.
            let _ = copies.join();
        }
    }
}
