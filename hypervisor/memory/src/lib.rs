//! Lacuna's memory subsystem.
#![no_std]
pub mod address;
pub mod layout;
