//! The Lacuna hypervisor.
#![no_std]
#![no_main]
