//! An independent page-table walker that checks what the memory subsystem did.
#![no_std]
