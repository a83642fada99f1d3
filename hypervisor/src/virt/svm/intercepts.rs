//! What ends guest mode (AMD APM vol. 2, 15.7 to 15.14; bit numbers: appendix B, table B-1).

/// Bits of the first word of intercepts, at offset 00CH.
mod first {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const CR0_SELECTIVE_WRITE: u32 = 1 << 5;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const INVD: u32 = 1 << 22;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const PORTS: u32 = 1 << 27;
    pub const MSRS: u32 = 1 << 28;
    pub const TASK_SWITCH: u32 = 1 << 29;
    pub const FERR_FREEZE: u32 = 1 << 30;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of the second word, at offset 010H.
mod second {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Word at offset 004H: writes of all debug registers, for the reason that `vcpu_policy::debug_registers` gives.
pub const DEBUG_REGISTERS: u32 = 0xffff_0000;

/// Word at offset 000H: writes of CR4, so that a guest can't switch on what CPUID hides (`vcpu_policy::cr4`). Bits 31:16 are writes.
pub const CONTROL_REGISTERS: u32 = 1 << (16 + 4);

/// Word at offset 00CH.
///
/// Physical events, so that they stay the host's; what would leave the guest (ports, MSRs, HLT, shutdown, FERR, task switch); what is
/// filtered (CPUID, CR0, RDPMC); what acts on the CPU's caches and other guests' translations (INVD, INVLPGA). Not VINTR: no virtual
/// interrupt is ever given.
pub const FIRST: u32 = first::INTR
    | first::NMI
    | first::SMI
    | first::INIT
    | first::CR0_SELECTIVE_WRITE
    | first::RDPMC
    | first::CPUID
    | first::INVD
    | first::HLT
    | first::INVLPGA
    | first::PORTS
    | first::MSRS
    | first::TASK_SWITCH
    | first::FERR_FREEZE
    | first::SHUTDOWN;

/// Word at offset 010H. VMRUN must be intercepted (APM vol. 2, 15.5.1); the other SVM instructions would change the host's state.
const SECOND: u32 = second::VMRUN
    | second::VMMCALL
    | second::VMLOAD
    | second::VMSAVE
    | second::STGI
    | second::CLGI
    | second::SKINIT
    | second::RDTSCP
    | second::WBINVD
    | second::MONITOR
    | second::MWAIT
    | second::XSETBV;

/// Word at offset 010H, for a CPU that has RDPRU or not (CPUID leaf 8000_0008H EBX bit 4).
pub const fn second(has_rdpru: bool) -> u32 {
    if has_rdpru { SECOND | second::RDPRU } else { SECOND }
}

/// #DB and #AC: a guest can make each raise itself again in its own delivery, and the CPU would never leave that loop
/// (CVE-2015-8104, CVE-2015-5307). #MC: the host must see it. Word at offset 008H, one bit a vector.
pub const EXCEPTIONS: u32 = 1 << DEBUG | 1 << ALIGNMENT_CHECK | 1 << MACHINE_CHECK;

/// Vector of #DB (AMD APM vol. 2, 8.2).
pub const DEBUG: u8 = 1;
/// Vector of #UD.
pub const INVALID_OPCODE: u8 = 6;
/// Vector of #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// Vector of #AC.
pub const ALIGNMENT_CHECK: u8 = 17;
/// Vector of #MC.
pub const MACHINE_CHECK: u8 = 18;
