//! What Bochs has instead of devices for a harness: a port that stops it in its debugger (its `iodev/unmapped.cc`, and `port_e9_hack` in its
//! manual).

/// A port that tells Bochs, where its configuration says `port_e9_hack: enabled=1`: reading it gives its own number. Nothing else
/// listens there on a PC.
const IDENTITY_PORT: u16 = 0xe9;
/// Bochs' control port: `D` stops in its debugger, the word "Shutdown" ends it with status 1.
const CONTROL_PORT: u16 = 0x8900;

/// Whether this is Bochs. Elsewhere the control port may belong to some device.
pub fn is_here() -> bool {
    // SAFETY: reading the port has no effect.
    unsafe { x86::io::inb(IDENTITY_PORT) == IDENTITY_PORT as u8 }
}

/// Stops in the debugger if this is Bochs, and returns when that lets the machine go on. False when it is not Bochs. A Bochs without a
/// debugger does not stop.
pub fn stop() -> bool {
    let here = is_here();
    if here {
        // SAFETY: on Bochs only we write to this port.
        unsafe { x86::io::outb(CONTROL_PORT, b'D') };
    }
    here
}

/// Ends the run if this is Bochs. Whoever drives the debugger ends Bochs by `q` after the stop; a Bochs without a debugger goes on to
/// the second way. Returns on any other machine.
pub fn end() {
    if !stop() {
        return;
    }
    for letter in *b"Shutdown" {
        // SAFETY: this is Bochs, where only we write to this port.
        unsafe { x86::io::outb(CONTROL_PORT, letter) };
    }
}
