//! Marks for whoever counts VM exits from below (`cargo xtask exits`): one byte to the port of the firmware's progress codes, which nobody listens
//! to. In test builds only, because under a hypervisor each is an exit itself.

/// The port of the firmware's progress codes (POST codes); writes to it do nothing.
const PORT: u16 = 0x80;

/// A moment between two counts. `xtask/src/nested/count.awk` has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// A launch begins.
    Launch = 1,
    /// The guest has its memory and can run.
    Launched = 2,
    /// The guest will not run again; a teardown begins.
    Teardown = 3,
    /// All of its memory is given back.
    TornDown = 4,
}

/// Makes a mark.
pub fn mark(mark: Mark) {
    // SAFETY: no device of the machines in use has the port; on others it shows progress.
    unsafe { x86::io::outb(PORT, mark as u8) };
}
