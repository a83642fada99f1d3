//! What hidden memory costs the TLB: the results of `cargo xtask bench tlb`, and how they are shown.
//!
//! [`results`] is what a run found, as it is kept in a file, sorted by [`axes`], with the chase of the machine that made it ([`chased`]); [`goals`] judges it; [`table`] shows it as text and [`page`] as a page with
//! pictures, for which [`picture`] draws the direct map, [`chart`] the figures and [`spread`] the distributions. [`compare`] holds runs against each other.

pub mod axes;
pub mod chart;
pub mod chased;
pub mod compare;
pub mod goals;
pub mod measured;
pub mod page;
pub mod picture;
pub mod results;
#[cfg(test)]
mod sample;
pub mod spread;
pub mod table;

pub use axes::{Phase, Policy};
pub use compare::Comparison;
pub use results::{Core, Figure, PhaseResult, PolicyResult, Results, Skip};
