//! One serial port, with bounded waits, on top of the crate `uart_16550`.

use core::fmt;

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

/// Polls for room in the transmitter before the rest of a write is dropped. A full FIFO drains in 1.4 ms at 115200 baud, and a
/// poll takes about 1 us on hardware, so this is about a second.
const POLLS: u32 = 1_000_000;
/// Polls once a port has been found stuck: dropping each write slowly would make the whole run hang.
const POLLS_WHEN_STUCK: u32 = 100;

/// A serial port that output goes to.
pub struct Serial {
    uart: Uart16550<PioBackend>,
    stuck: bool,
}

impl Serial {
    /// Looks for a port by its scratch register and sets it to 115200 8N1 with FIFOs and without interrupts.
    pub fn open(base: u16) -> Option<Self> {
        let mut serial = Self::attach(base)?;
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            ..Config::DEFAULT
        };
        serial.uart.init(config).ok()?;
        Some(serial)
    }

    /// A handle on a port that has been set up already.
    pub fn attach(base: u16) -> Option<Self> {
        // SAFETY: COM1 and COM2 are 16550s or absent on every PC; when absent, reads give all ones and writes go nowhere.
        let uart = unsafe { Uart16550::new_port(base) }.ok()?;
        Some(Self { uart, stuck: false })
    }

    /// A byte that has come, if there is one.
    pub fn receive(&mut self) -> Option<u8> {
        self.uart.try_receive_byte().ok()
    }

    /// Sends bytes; drops the rest when the port takes none for about a second.
    pub fn write_bytes(&mut self, mut bytes: &[u8]) {
        let mut polls = 0;
        while !bytes.is_empty() {
            let sent = self.uart.send_bytes(bytes);
            bytes = &bytes[sent..];
            if sent > 0 {
                polls = 0;
                self.stuck = false;
                continue;
            }
            polls += 1;
            if polls > if self.stuck { POLLS_WHEN_STUCK } else { POLLS } {
                self.stuck = true;
                return;
            }
            core::hint::spin_loop();
        }
    }
}

/// Waits until the port at `base` has sent everything, for about a second at most: what ends a machine does not wait for its FIFO.
/// Needs no handle and no lock, so that a fatal report can use it.
pub fn drain(base: u16) {
    /// Line status register, and its bit "transmitter empty" (National Semiconductor PC16550D data sheet, 8.4).
    const LINE_STATUS: u16 = 5;
    const ALL_SENT: u8 = 0x40;
    for _ in 0..POLLS {
        // SAFETY: as for `attach`. Reading clears error bits, which nothing looks at. An absent port reads all ones.
        if unsafe { x86::io::inb(base + LINE_STATUS) } & ALL_SENT != 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes());
        Ok(())
    }
}
