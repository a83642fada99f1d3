//! What hypervisor and guests agree on.
#![no_std]
