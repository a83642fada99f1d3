//! The end of a run on Bochs (its `iodev/unmapped.cc`, and `port_e9_hack` in its manual).

/// A port that tells Bochs, where its configuration says `port_e9_hack: enabled=1`: reading it gives its own number. Nothing else
/// listens there on a PC.
const IDENTITY_PORT: u16 = 0xe9;
/// Bochs' control port: `D` stops in its debugger, the word "Shutdown" ends it with status 1.
const CONTROL_PORT: u16 = 0x8900;

/// Ends the run if this is Bochs. Where the debugger has a script, `q` after the stop ends it with status 0; a Bochs without a debugger
/// goes on to the second way. Returns on any other machine, where the control port may belong to some device and is not touched.
pub fn end() {
    // SAFETY: reading the port has no effect; on Bochs only we write to the other one.
    unsafe {
        if x86::io::inb(IDENTITY_PORT) != IDENTITY_PORT as u8 {
            return;
        }
        x86::io::outb(CONTROL_PORT, b'D');
        for letter in *b"Shutdown" {
            x86::io::outb(CONTROL_PORT, letter);
        }
    }
}
