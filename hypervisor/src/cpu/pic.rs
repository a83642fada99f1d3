//! The two legacy 8259 interrupt controllers: moved out of the exceptions' way and masked.

use super::exception::PIC_VECTOR;

const FIRST_COMMAND: u16 = 0x20;
const FIRST_DATA: u16 = 0x21;
const SECOND_COMMAND: u16 = 0xa0;
const SECOND_DATA: u16 = 0xa1;

/// Masks all lines. Firmware leaves the controllers on exception vectors (8 and up), and even a masked one can still send a
/// spurious interrupt, so they are moved first (Intel 8259A data sheet, initialization command words 1 to 4).
pub fn mask() {
    // SAFETY: every PC has the two controllers at these ports; nothing uses their interrupts.
    unsafe {
        for (command, data, vector, cascade) in [
            (FIRST_COMMAND, FIRST_DATA, PIC_VECTOR, 0x04),
            (SECOND_COMMAND, SECOND_DATA, PIC_VECTOR + 8, 0x02),
        ] {
            x86::io::outb(command, 0x11);
            x86::io::outb(data, vector);
            x86::io::outb(data, cascade);
            x86::io::outb(data, 0x01);
            x86::io::outb(data, 0xff);
        }
    }
}
