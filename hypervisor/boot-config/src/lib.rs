//! The hypervisor's command line.
#![no_std]
