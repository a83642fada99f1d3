//! What can be done to a [`World`](crate::World).

use memory::guest::{Change, Kept, SecondStageKind};

/// Something that is done to the machine. Numbers choose among what there is, by remainder; where there is nothing to choose, nothing is done.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Takes a guest's memory out of the direct map, or refuses it; nothing else comes in between.
    Launch {
        /// On which CPU.
        cpu: usize,
        /// Its size.
        regions: u64,
        /// The layout of its tables.
        kind: SecondStageKind,
    },
    /// Begins to take a guest's memory; other things may come between any two steps, which are those of [`Op::Advance`].
    Prepare {
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
    /// A launch that is under way is cancelled.
    Cancel {
        /// On which CPU.
        cpu: usize,
        /// Whose.
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
    /// A guest asks for a change of its memory; one that it has asked for already goes on first.
    Change {
        /// On which CPU.
        cpu: usize,
        /// Which guest.
        guest: usize,
        /// Of what kind.
        change: Change,
        /// First page.
        at: u64,
        /// How many pages.
        pages: u64,
        /// By how many steps it goes on now.
        steps: usize,
    },
    /// A guest takes back what it shares, or accepts what is pending: a run of pages that are alike. What it has asked for already goes on first.
    TakeBack {
        /// On which CPU.
        cpu: usize,
        /// Which guest.
        guest: usize,
        /// From which of the pages that are not accepted.
        which: usize,
        /// By how many steps it goes on now.
        steps: usize,
    },
    /// Memory is low: frames that are kept for pages of a guest are taken for other uses.
    TakeKept {
        /// On which CPU.
        cpu: usize,
        /// From which guest.
        guest: usize,
        /// Which of them.
        which: Kept,
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
    /// The host takes memory for itself, and uses it; cached regions are given back for it if they must.
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
    /// Starts to get hidden memory for the pool.
    Grow {
        /// On which CPU.
        cpu: usize,
        /// log2 of the frames.
        order: u8,
    },
    /// Goes on with that.
    AdvanceGrowth {
        /// On which CPU.
        cpu: usize,
        /// Which.
        which: usize,
        /// By how many steps.
        steps: usize,
    },
    /// Takes hidden memory, which the pool gets first if it has to.
    TakePrivate {
        /// On which CPU.
        cpu: usize,
        /// log2 of the frames.
        order: u8,
    },
    /// Puts something into hidden memory.
    UsePrivate {
        /// Which extent.
        which: usize,
    },
    /// Gives hidden memory back.
    FreePrivate {
        /// On which CPU.
        cpu: usize,
        /// Which extent.
        which: usize,
    },
    /// Takes a frame from a CPU's magazine, which is filled if it has to be.
    TakeFrame {
        /// On which CPU.
        cpu: usize,
    },
    /// Puts a used frame into a CPU's magazine.
    PutFrame {
        /// On which CPU.
        cpu: usize,
        /// Which extent, if it is a frame.
        which: usize,
    },
    /// Empties a CPU's magazine down to some frames.
    TrimMagazine {
        /// On which CPU.
        cpu: usize,
        /// How many stay.
        keep: usize,
    },
    /// Says how many empty regions are kept.
    SetCache {
        /// How many.
        regions: u64,
    },
    /// Gives regions that are kept back to the host.
    Shrink {
        /// On which CPU.
        cpu: usize,
        /// How many.
        regions: u64,
    },
    /// Empties the cache, and flushes what waits.
    Drain {
        /// On which CPU.
        cpu: usize,
    },
    /// Lets guests be mapped by 1G leaves, or not.
    LargeLeaves {
        /// Whether.
        allowed: bool,
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
