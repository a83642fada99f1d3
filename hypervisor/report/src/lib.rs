//! The report: JSON lines and text.
#![no_std]
