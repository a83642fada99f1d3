//! What a guest may see of the CPU, and how its intercepted instructions are decoded.
#![no_std]
