//! How the 2M blocks of the physical address space are mapped in the direct map.

/// 2M blocks in a gigablock.
pub(crate) const PER_GIGABLOCK: u64 = 512;

/// The state of a 2M block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// No RAM in it.
    NotRam,
    /// Part of a 1G leaf.
    In1G,
    /// One 2M leaf.
    Leaf2M,
    /// 4K leaves.
    Small4K {
        /// Number of them, 1 to 512.
        leaves: u16,
    },
    /// Private memory, absent from the direct map.
    Hole,
    /// RAM that the direct map should show and doesn't.
    Missing,
}

/// Neighbouring 2M blocks in one state. Spans come in order; what lies between two is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Physical address of the first block / 2 MiB.
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The state of each.
    pub state: BlockState,
}

impl Span {
    /// One block.
    pub const fn block(first: u64, state: BlockState) -> Self {
        Self {
            first,
            blocks: 1,
            state,
        }
    }
}
