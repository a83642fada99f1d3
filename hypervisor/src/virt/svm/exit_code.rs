//! The exit codes (AMD APM vol. 2, appendix C).

use super::intercepts::{ALIGNMENT_CHECK, DEBUG, MACHINE_CHECK};

/// Why the guest exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitCode {
    /// #DB.
    Debug,
    /// #AC.
    AlignmentCheck,
    /// #MC.
    MachineCheck,
    /// A physical interrupt is pending.
    Interrupt,
    /// A physical NMI is pending.
    Nmi,
    /// A physical SMI is pending.
    Smi,
    /// A physical INIT is pending.
    Init,
    /// A write to CR0 that changes more than TS and MP.
    WriteCr0,
    /// A write to CR4.
    WriteCr4,
    /// A write to the debug register with this number.
    WriteDebug(u8),
    /// RDPMC.
    Rdpmc,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// IN, OUT, INS, OUTS.
    Port,
    /// RDMSR, WRMSR.
    Msr,
    /// A task switch.
    TaskSwitch,
    /// An x87 error froze the CPU.
    FerrFreeze,
    /// A triple fault.
    Shutdown,
    /// VMMCALL.
    Vmmcall,
    /// INVD, WBINVD, WBNOINVD.
    InvalidateCaches,
    /// XSETBV.
    Xsetbv,
    /// An instruction that guests do not have: the SVM ones, RDTSCP, MONITOR, MWAIT, RDPRU.
    HiddenInstruction,
    /// A nested page fault.
    NestedPageFault,
    /// VMRUN refused the guest's state.
    Invalid,
    /// Anything else.
    Other(u64),
}

/// The exit code of exception 0; the others follow by vector.
const EXCEPTIONS: u64 = 0x40;
const DEBUG_EXIT: u64 = EXCEPTIONS + DEBUG as u64;
const ALIGNMENT_CHECK_EXIT: u64 = EXCEPTIONS + ALIGNMENT_CHECK as u64;
const MACHINE_CHECK_EXIT: u64 = EXCEPTIONS + MACHINE_CHECK as u64;

impl ExitCode {
    /// Reads the field EXITCODE.
    pub const fn new(code: u64) -> Self {
        match code {
            0x14 => Self::WriteCr4,
            0x30..=0x3f => Self::WriteDebug((code & 0xf) as u8),
            DEBUG_EXIT => Self::Debug,
            ALIGNMENT_CHECK_EXIT => Self::AlignmentCheck,
            MACHINE_CHECK_EXIT => Self::MachineCheck,
            0x60 => Self::Interrupt,
            0x61 => Self::Nmi,
            0x62 => Self::Smi,
            0x63 => Self::Init,
            0x65 => Self::WriteCr0,
            0x6f => Self::Rdpmc,
            0x72 => Self::Cpuid,
            0x76 | 0x89 => Self::InvalidateCaches,
            0x78 => Self::Hlt,
            0x7b => Self::Port,
            0x7c => Self::Msr,
            0x7d => Self::TaskSwitch,
            0x7e => Self::FerrFreeze,
            0x7f => Self::Shutdown,
            0x81 => Self::Vmmcall,
            0x8d => Self::Xsetbv,
            // INVLPGA; VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, RDTSCP; MONITOR, MWAIT, armed MWAIT; RDPRU.
            0x7a | 0x80 | 0x82..=0x87 | 0x8a..=0x8c | 0x8e => Self::HiddenInstruction,
            0x400 => Self::NestedPageFault,
            // -1. QEMU's emulation writes only the low half (measured with 7.2).
            0xffff_ffff_ffff_ffff | 0xffff_ffff => Self::Invalid,
            _ => Self::Other(code),
        }
    }
}
