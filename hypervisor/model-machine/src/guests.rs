//! Guests as hardware sees them: second-stage tables, walked by whatever runs under them, with translations that stay until the
//! guest is flushed.

use audit::Format;
use memory::address::Pfn;
use memory::guest::SecondStageKind;

use crate::journal::Time;
use crate::reach::PHYSICAL_BITS;

/// Whose hardware walks the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// AMD's nested tables.
    Nested,
    /// Intel's extended tables.
    Extended,
}

impl From<SecondStageKind> for TableKind {
    fn from(kind: SecondStageKind) -> Self {
        match kind {
            SecondStageKind::Nested => Self::Nested,
            SecondStageKind::Extended | SecondStageKind::ExtendedSplit => Self::Extended,
        }
    }
}

impl TableKind {
    pub(crate) const fn format(self) -> Format {
        match self {
            Self::Nested => Format::nested(false, PHYSICAL_BITS),
            Self::Extended => Format::extended(false, PHYSICAL_BITS),
        }
    }

    /// The accessed and the dirty bit of an entry, set by hardware (APM vol. 2, 5.4.2; SDM vol. 3C, 29.3.5).
    pub(crate) const fn accessed_dirty(self) -> (u64, u64) {
        match self {
            Self::Nested => (1 << 5, 1 << 6),
            Self::Extended => (1 << 8, 1 << 9),
        }
    }
}

/// The bit of a guest-physical address that tells the shared alias: the highest that the model's guests have.
pub(crate) const SHARED_BIT: u64 = 1 << (PHYSICAL_BITS - 1);

/// Whether a leaf of a second stage is one of the shared alias.
pub(crate) const fn is_shared(leaf: &audit::Leaf) -> bool {
    leaf.va.get() & SHARED_BIT != 0
}

/// A guest's second stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestTree {
    pub(crate) number: u16,
    pub(crate) kind: TableKind,
    pub(crate) root: Pfn,
    /// When its translations were flushed last, on every CPU; at first, when it began.
    pub(crate) flushed: Time,
    /// Its virtual CPUs have stopped for good: its tables must lead nowhere.
    pub(crate) stopped: bool,
}
