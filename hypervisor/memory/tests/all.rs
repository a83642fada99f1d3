//! All tests of this folder in one program, for `cargo xtask mutants`: built for each of some two thousand changes, one program takes half the
//! time that many take. A plain `cargo test` leaves it out.

mod balloon;
mod baseline;
mod change;
mod destroy;
mod errors;
mod frames;
mod gigablocks;
mod guest_shootdown;
mod histories;
mod kept;
mod lifecycle;
mod magazine;
mod metadata;
mod no_memory;
mod pool;
mod prepare;
mod shootdown;
mod shrinker;
mod teardown;
