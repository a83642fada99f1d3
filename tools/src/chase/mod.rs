//! The model held against the machine it runs on: a pointer chase in user space over pages of 4K and of 2M, predicted beside measured.
//!
//! One object in each 4K page, in random order, each with the place of the next. The same addresses are chased in memory with 4K pages and in memory
//! with 2M pages ([`arena`]), so caches do the same in both, and the difference is what translation costs. Many short windows are timed,
//! because a machine that is preempted makes long ones mean nothing; [`Times`] keeps all of them. [`predict`] asks the model.

pub mod arena;
mod measure;
pub mod predict;

pub use measure::{Chased, LargeEntries, Times, chase, cycle, large_entries, places};
