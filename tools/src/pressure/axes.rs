//! By what results are sorted: how memory was hidden, and when was measured.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How memory is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Lacuna: whole regions, gathered, merged back.
    Grouped,
    /// The same, and while guests live what is left of a gigablock that is partly hidden is hidden with it, empty.
    GroupedWhole,
    /// As `Grouped`, but what is split stays split.
    GroupedNoMerge,
    /// Page by page, in the allocator's own order.
    LinuxFresh,
    /// Page by page among unmovable neighbours.
    LinuxAged,
    /// Page by page at random over all RAM.
    Scattered,
    /// Nothing is hidden, all leaves are 4K.
    #[serde(rename = "all-4k")]
    All4K,
    /// Nothing is hidden, leaves are 2M.
    #[serde(rename = "all-2m")]
    All2M,
    /// Nothing is hidden, leaves are as large as they can be.
    #[serde(rename = "all-1g")]
    All1G,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Grouped,
        Self::GroupedWhole,
        Self::GroupedNoMerge,
        Self::LinuxFresh,
        Self::LinuxAged,
        Self::Scattered,
        Self::All4K,
        Self::All2M,
        Self::All1G,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grouped => "grouped",
            Self::GroupedWhole => "grouped-whole",
            Self::GroupedNoMerge => "grouped-no-merge",
            Self::LinuxFresh => "linux-fresh",
            Self::LinuxAged => "linux-aged",
            Self::Scattered => "scattered",
            Self::All4K => "all-4k",
            Self::All2M => "all-2m",
            Self::All1G => "all-1g",
        }
    }

    /// Whether it is a direct map without holes, to compare with.
    pub const fn is_yardstick(self) -> bool {
        matches!(self, Self::All4K | Self::All2M | Self::All1G)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A moment at which is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before the first guest.
    Boot,
    /// One guest lives.
    #[serde(rename = "guests-1")]
    Guests1,
    /// Eight do.
    #[serde(rename = "guests-8")]
    Guests8,
    /// 64 do.
    #[serde(rename = "guests-64")]
    Guests64,
    /// After many conversions of pages between private and shared.
    Conversions,
    /// After many lifetimes, guests alive.
    AgedAlive,
    /// The same, all guests gone, the host's own memory still in use.
    AgedEmpty,
    /// All guests gone, and what the host took too.
    After,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Boot,
        Self::Guests1,
        Self::Guests8,
        Self::Guests64,
        Self::Conversions,
        Self::AgedAlive,
        Self::AgedEmpty,
        Self::After,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Guests1 => "guests-1",
            Self::Guests8 => "guests-8",
            Self::Guests64 => "guests-64",
            Self::Conversions => "conversions",
            Self::AgedAlive => "aged-alive",
            Self::AgedEmpty => "aged-empty",
            Self::After => "after",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
