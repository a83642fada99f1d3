//! What the pool of hidden memory must do: one definition, two runners.
//!
//! A [`Place`] is where a behaviour is tried: the model machine in this crate's tests, the booted hypervisor with `test=pool`. It says by
//! a walk of its own which leaf reaches a frame. [`all`] lists the behaviours; [`try_one`] runs one and looks whether everything is as it
//! was before. `steps` has what they are made of. Nothing here needs an allocator.
#![no_std]

mod extents;
mod merging;
mod steps;

use core::fmt;

use memory::HostMemory;
use memory::address::Pfn;
use memory::machine::Machine;
use memory::window::Windows;

pub use steps::State;

/// A machine with memory on which behaviours can be tried.
pub trait Place {
    /// The machine.
    type Machine: Machine + Copy;

    /// The machine, as the CPU that runs this sees it.
    fn machine(&self) -> Self::Machine;

    /// Runs `work` on the memory subsystem, under its lock, with the windows of this CPU.
    fn with<R>(&mut self, work: impl FnOnce(&mut HostMemory<'_>, &mut Windows) -> R) -> R;

    /// The size in bytes of the leaf through which the direct map reaches a frame, found by a walker that shares nothing with the mapper;
    /// `None` when the frame is hidden.
    fn leaf(&self, pfn: Pfn) -> Option<u64>;

    /// All leaves of the direct map by size, 1G, 2M and 4K, found in the same way.
    fn leaves(&self) -> [u64; 3];
}

/// How a behaviour ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Held,
    /// This machine has not what it takes.
    Skipped(&'static str),
}

/// What was not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: u64,
    /// What must be.
    pub wanted: u64,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, wanted } = self;
        write!(f, "{what}: {found:#x}, and must be {wanted:#x}")
    }
}

/// A behaviour that can be tried.
pub struct Behaviour<P> {
    /// What it shows, as a sentence.
    pub name: &'static str,
    run: fn(&mut P) -> Result<Outcome, Failed>,
}

/// Every behaviour.
pub fn all<P: Place>() -> [Behaviour<P>; 8] {
    let behaviour = |name, run| Behaviour { name, run };
    [
        behaviour(
            "extents of all sizes live side by side, hidden and zeroed",
            extents::side_by_side,
        ),
        behaviour(
            "nothing that a user left reaches the next one",
            extents::nothing_is_left,
        ),
        behaviour(
            "a gigablock is hidden by one entry and comes back by one",
            extents::gigablock,
        ),
        behaviour("cached regions are used again without a flush", extents::cache),
        behaviour(
            "without a whole region, pieces are hidden and merged back",
            extents::pieces,
        ),
        behaviour("two users that alternate flush nothing", extents::alternate),
        behaviour("a request that cannot be met changes nothing", extents::refused),
        behaviour(
            "512 leaves that agree merge from every start, others never",
            merging::from_every_start,
        ),
    ]
}

/// Tries one behaviour, and drains the pool: everything must be as before.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn try_one<P: Place>(behaviour: &Behaviour<P>, place: &mut P) -> Result<Outcome, Failed> {
    let before = State::of(place);
    let outcome = (behaviour.run)(place)?;
    steps::drain(place);
    before.compare(&State::of(place))?;
    Ok(outcome)
}
