//! Printing through hypercalls of up to 40 bytes. A `print!` sends its last bytes at its end, so nothing is held back.

use core::fmt::{self, Write};

use guest_abi::{Hypercall, PRINT_MAX, Text};

use crate::hypercall;

/// Prints as `std` does, on the hypervisor's console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::print_arguments(format_args!($($argument)*)) };
}

/// Prints a line as `std` does, on the hypervisor's console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print_arguments(format_args!("{}\n", format_args!($($argument)*))) };
}

/// What one `print!` has yet to send.
struct Pending {
    bytes: [u8; PRINT_MAX],
    length: usize,
}

impl Pending {
    fn send(&mut self) {
        let (text, _) = Text::split_from(self.bytes.split_at(self.length).0);
        hypercall::call(&Hypercall::Print(text));
        self.length = 0;
    }
}

impl Write for Pending {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.bytes[self.length] = byte;
            self.length += 1;
            if self.length == PRINT_MAX {
                self.send();
            }
        }
        Ok(())
    }
}

#[doc(hidden)]
pub fn print_arguments(arguments: fmt::Arguments<'_>) {
    let mut pending = Pending {
        bytes: [0; PRINT_MAX],
        length: 0,
    };
    // Only an argument's own Display can fail, and then what it wrote is still worth sending.
    let _ = pending.write_fmt(arguments);
    if pending.length > 0 {
        pending.send();
    }
}
