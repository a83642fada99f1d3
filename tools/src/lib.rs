//! Programs that look at Lacuna from outside: at the RAM of an emulated machine, kept in a file.
//!
//! Nothing here asks the hypervisor. [`registers`] takes CR3 from the emulator; [`layout`] says which byte of the file is which
//! physical address; [`ram`] reads the file; the tables are walked with the crate `audit`, as host tables or as a second stage.
//! From there: [`dump`] keeps leaves and compares two moments leaf for leaf; [`mod@search`] finds the guests' patterns wherever they lie;
//! [`vmcb`] and [`vmcs`] find the guests' control blocks, AMD's and Bochs', and with them the roots of their tables; [`mod@owners`] walks
//! these and checks that no frame has two; [`reach`] checks that no host address leads to given frames. [`tlb`] is a model of what translations cost, for leaves that were dumped, and [`pressure`] shows what a benchmark found with it; [`chase`] holds the
//! model against this machine. Functions return data; the binary `lacuna-inspect` prints it, and `lacuna-tlb` runs the
//! model on a dump, and the chase.

pub mod chase;
pub mod dump;
pub mod layout;
pub mod owners;
pub mod pressure;
pub mod ram;
pub mod reach;
pub mod registers;
pub mod search;
pub mod tlb;
pub mod vmcb;
pub mod vmcs;

pub use audit;
pub use dump::{Difference, LeafDump, LeafRecord, compare};
pub use layout::Layout;
pub use owners::{Owners, owners};
pub use ram::{RamFile, RamView};
pub use reach::{Frames, reachable};
pub use registers::Registers;
pub use search::{Hit, search};
pub use vmcb::{Vmcb, find_vmcbs};
pub use vmcs::{Vmcs, find_vmcses};

/// The number of threads for work that spreads over cores: as many as the system offers, or one.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
