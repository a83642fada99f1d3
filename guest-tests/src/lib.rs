//! The test guests.
#![no_std]
