//! One CPU: what it can do, its control registers, descriptor tables, exceptions and local APIC.
//!
//! In the order of bring-up:
//! - `features`: CPUID into a struct.
//! - `registers`: control registers, MSRs, the interrupt flag; `enable_protections` switches on what CPUID offers.
//! - `msr`: registers that may not be there, without ending the run.
//! - `mtrr`: the memory types that the firmware set up.
//! - `tlb`: every TLB instruction of the project.
//! - `stack`: a stack's range. `descriptor`: GDT, TSS and IDT in `CpuTables`, one for each CPU.
//! - `exception`: the 256 entry stubs and what each vector leads to; `fault_report` prints a fatal one, `backtrace` its callers.
//! - `apic`, `pic`, `timer`: the local APIC, the legacy controllers it replaces, its timer and the TSC as a clock.
//! - `ipi`: interrupts from one CPU to another. `guest_mode`: whom a shootdown's interrupt finds in a guest.

pub mod apic;
pub mod backtrace;
pub mod descriptor;
pub mod exception;
pub mod fault_report;
pub mod features;
pub mod guest_mode;
pub mod ipi;
pub mod msr;
pub mod mtrr;
pub mod pic;
pub mod registers;
pub mod stack;
pub mod timer;
pub mod tlb;
