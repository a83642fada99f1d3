//! Reads the guest archive and checks ELF files before they are loaded.
#![no_std]
