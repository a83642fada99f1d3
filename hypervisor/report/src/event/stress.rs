//! What the stress did.

use serde::Serialize;

/// What the stress did, once all is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Stress {
    /// CPUs that took part.
    pub cpus: u32,
    /// Operations of all of them.
    pub operations: u64,
    /// Times that all CPUs stopped for a check of everything while operations went on.
    pub stops: u64,
    /// Stops at which no guest lived.
    pub stops_without_guests: u64,
    /// What did not hold, in all.
    pub failures: u64,
    /// Frames asked of the CPU's magazine.
    pub take_frame: u64,
    /// Extents of any size asked of the pool.
    pub take: u64,
    /// Extents of at least a region asked of the pool.
    pub take_large: u64,
    /// Extents below a region asked for while no whole region was free.
    pub take_pieces: u64,
    /// Extents given back.
    pub give: u64,
    /// Extents given to another CPU, or taken from one.
    pub exchange: u64,
    /// Extents looked at and written again.
    pub rewrite: u64,
    /// Extents of ordinary memory asked for.
    pub host_take: u64,
    /// Extents of ordinary memory given back.
    pub host_give: u64,
    /// Times that cached regions were given back to the host.
    pub shrink: u64,
    /// Times that the pool's cache was emptied.
    pub drain: u64,
    /// Times that the size of the cache changed.
    pub cache: u64,
    /// Times that the shrinker's watermarks changed.
    pub watermarks: u64,
    /// Times that a CPU asked for what is in all magazines.
    pub ask: u64,
    /// Of these, those that got all of it within the time that one waits.
    pub asked_in_full: u64,
    /// Requests that were not met: the bound on what is held, or no memory.
    pub refused: u64,
    /// Extents given back by another CPU than had taken them.
    pub given_elsewhere: u64,
    /// Frames taken from magazines and put into them.
    pub magazine_operations: u64,
    /// Takes of the memory subsystem's lock for them.
    pub magazine_locks: u64,
    /// Frames that magazines gave back because another CPU had asked.
    pub magazine_returned: u64,
    /// CPUs in guest mode at the same time, at most, as other CPUs saw it.
    pub most_in_guests: u32,
    /// Interrupts that were to be sent for shootdowns.
    pub interrupts_sent: u64,
    /// Those that a handler has taken.
    pub interrupts_taken: u64,
    /// NMIs that were taken for kicks.
    pub kicks_taken: u64,
}

impl Stress {
    /// The operations by kind, with their names.
    pub const fn kinds(&self) -> [(&'static str, u64); 14] {
        [
            ("take_frame", self.take_frame),
            ("take", self.take),
            ("take_large", self.take_large),
            ("take_pieces", self.take_pieces),
            ("give", self.give),
            ("exchange", self.exchange),
            ("rewrite", self.rewrite),
            ("host_take", self.host_take),
            ("host_give", self.host_give),
            ("shrink", self.shrink),
            ("drain", self.drain),
            ("cache", self.cache),
            ("watermarks", self.watermarks),
            ("ask", self.ask),
        ]
    }
}
