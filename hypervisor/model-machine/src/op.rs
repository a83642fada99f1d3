//! What can be done to a [`World`](crate::World).

use memory::guest::SecondStageKind;

/// Something that is done to the machine. Numbers choose among what there is, by remainder; where there is nothing to choose, nothing is done.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Starts to launch a guest.
    Launch {
        /// On which CPU.
        cpu: usize,
        /// Its size.
        regions: u64,
        /// The layout of its tables.
        kind: SecondStageKind,
    },
    /// Goes on with a launch or a teardown.
    Advance {
        /// On which CPU.
        cpu: usize,
        /// Whose.
        guest: usize,
        /// By how many steps.
        steps: usize,
    },
    /// A guest dies: its tables are cut.
    Die {
        /// On which CPU.
        cpu: usize,
        /// Which.
        guest: usize,
    },
    /// A guest writes into its memory.
    GuestWrite {
        /// Which.
        guest: usize,
        /// Where.
        at: u64,
    },
    /// The host writes into a guest's memory and reads it back.
    HostWrite {
        /// On which CPU.
        cpu: usize,
        /// Whose memory.
        guest: usize,
        /// Where.
        at: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// A guest fetches an instruction.
    Fetch {
        /// On which CPU.
        cpu: usize,
        /// Which guest.
        guest: usize,
        /// Where.
        at: u64,
    },
    /// The host takes memory for itself, and uses it.
    Allocate {
        /// On which CPU.
        cpu: usize,
        /// log2 of the frames.
        order: u8,
    },
    /// The host frees some of it.
    Free {
        /// Which extent.
        which: usize,
    },
    /// The host takes regions and thinks better of it.
    Carve {
        /// How many.
        regions: u64,
    },
    /// The host takes all memory that is free, and goes on doing so until it relents: every allocation fails.
    Hoard,
    /// The host gives back what it hoarded.
    Relent,
    /// A CPU goes to run a guest.
    Enter {
        /// Which CPU.
        cpu: usize,
    },
    /// A CPU goes to sleep.
    Sleep {
        /// Which CPU.
        cpu: usize,
    },
    /// A CPU is started, if it is not, and takes its time.
    Announce {
        /// Which CPU.
        cpu: usize,
    },
    /// A CPU comes: from a guest, from sleep, from its start. Every operation on a CPU begins with this.
    Leave {
        /// Which CPU.
        cpu: usize,
    },
    /// An NMI comes.
    Nmi {
        /// To which CPU.
        cpu: usize,
    },
}
