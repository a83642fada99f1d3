//! The operator: whoever types commands on the first serial port, in a run with `console` (docs/command-line.md).
//!
//! The port sends no interrupt. The boot CPU looks at it between two pieces of its work, between two steps of a long one, and, when it has nothing
//! to do, as often as a turn is long. One reader, so commands are done in the order in which they were typed.

use boot_config::{COMMANDS, COMMANDS_ARE_TAKEN, Command, MAX_COMMAND, Named};
use heapless::String;

use super::guest::Guest;
use super::lifecycle::{Doing, Known};
use super::world::World;
use crate::console;
use crate::println;
use crate::virt::Backend;

/// Bytes that are taken before this CPU goes on with its work: a line. A port that never runs dry, or one that is gone and reads as ones, must not keep it.
const AT_ONCE: usize = MAX_COMMAND;

/// What has been typed, on the boot CPU.
pub struct Operator {
    line: String<MAX_COMMAND>,
    /// The line is longer than a command can be: its rest is dropped.
    too_long: bool,
}

impl Operator {
    /// Nothing has been typed. Says that commands are taken.
    pub fn new() -> Self {
        println!("console: {COMMANDS_ARE_TAKEN}; `help` lists them");
        Self {
            line: String::new(),
            too_long: false,
        }
    }

    /// Takes what was typed since the last time, [`AT_ONCE`] bytes at most, and does what complete lines say. To be called with nothing locked, by a
    /// CPU that runs no vCPU at this moment.
    pub fn attend<B: Backend>(&mut self, world: &World<B>, cpu: u32) {
        for _ in 0..AT_ONCE {
            let Some(byte) = console::receive() else { return };
            match byte {
                // A terminal in raw mode sends the one, a pipe the other; both together are one line and an empty one.
                b'\r' | b'\n' => self.line_ends(world, cpu),
                // Backspace, and what most terminals send in its place.
                0x08 | 0x7f => {
                    self.line.pop();
                }
                b' '..=b'~' | b'\t' => self.too_long |= self.line.push(byte.into()).is_err(),
                _ => self.too_long |= self.line.push('?').is_err(),
            }
        }
    }

    fn line_ends<B: Backend>(&mut self, world: &World<B>, cpu: u32) {
        let line = core::mem::take(&mut self.line);
        if core::mem::take(&mut self.too_long) {
            println!("console: no command has more than {MAX_COMMAND} characters; nothing was done");
            return;
        }
        match Command::parse(&line) {
            Ok(None) => {}
            Ok(Some(command)) => {
                println!("console> {}", line.trim());
                obey(world, cpu, &command);
            }
            Err(error) => println!("console: {error}"),
        }
    }
}

fn obey<B: Backend>(world: &World<B>, cpu: u32, command: &Command<'_>) {
    match command {
        Command::Help => {
            for (form, meaning) in COMMANDS {
                println!("console: {form:<14} {meaning}");
            }
        }
        Command::List => list(world),
        Command::Pause(named) => with_guest(world, named, "paused", |guest| {
            if world.pause(cpu, guest) {
                println!("console: {} is paused", guest.label());
            } else {
                println!("console: {} is paused already", guest.label());
            }
        }),
        Command::Resume(named) => with_guest(world, named, "resumed", |guest| {
            if world.resume(cpu, guest) {
                println!("console: {} goes on", guest.label());
            } else {
                println!("console: {} is not paused", guest.label());
            }
        }),
        Command::Destroy(named) => {
            if let Known::Launching(launching) = world.known(named.instance)
                && has_name(named, launching.order.file.name())
                && world.cancel(named.instance)
            {
                println!("console: the launch of {} is cancelled", launching.label());
                return;
            }
            with_guest(world, named, "destroyed twice", |guest| {
                if world.destroy(cpu, guest) {
                    println!("console: {} is being destroyed", guest.label());
                } else {
                    println!("console: {} has ended already", guest.label());
                }
            });
        }
    }
}

fn has_name(named: &Named<'_>, name: &str) -> bool {
    named.name.is_none_or(|wanted| wanted == name)
}

/// Does something to the guest that is named, or says why it can't be `done`.
fn with_guest<B: Backend>(world: &World<B>, named: &Named<'_>, done: &str, work: impl FnOnce(&Guest)) {
    let instance = named.instance;
    match world.known(instance) {
        Known::Guest(guest) if !has_name(named, guest.file.name()) => {
            println!("console: guest {instance} is {}; nothing was done", guest.label());
        }
        Known::Guest(guest) => work(&guest),
        Known::Launching(launching) if !has_name(named, launching.order.file.name()) => {
            println!(
                "console: guest {instance} is {}; nothing was done",
                launching.label()
            );
        }
        Known::Launching(launching) => {
            println!(
                "console: {} is still being launched, and can't be {done}",
                launching.label()
            );
        }
        Known::Gone => println!("console: guest {instance} has ended, or was not launched"),
        Known::Never => println!("console: there has been no guest {instance}; `list` has those that live"),
    }
}

fn list<B: Backend>(world: &World<B>) {
    let mut last = 0;
    while let Some(guest) = world.guest_after(last) {
        last = guest.instance;
        let doing = match world.doing(&guest) {
            Doing::Ending => "ending",
            Doing::Paused => "paused",
            Doing::Running => "running",
            Doing::Waiting => "waiting for a turn",
        };
        println!(
            "console: {}, {} MiB: {doing}, {} ms of CPU time",
            guest.label(),
            guest.launch.memory >> 20,
            guest.used_us() / 1000
        );
    }
    let (launching, more) = world.launches();
    if let Some(launching) = launching {
        println!("console: {}: being launched", launching.label());
    }
    if more {
        println!("console: more guests are to be launched");
    } else if last == 0 && launching.is_none() {
        println!("console: there is no guest");
    }
}
