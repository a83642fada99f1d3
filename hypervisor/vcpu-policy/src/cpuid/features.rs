//! The feature bits that a guest may see (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E).
//!
//! A bit is here when its instructions touch nothing but registers that are kept for each vCPU and memory that second-stage tables
//! guard. Hidden, with the reason:
//!
//! - virtualization (VMX, SVM, SMX, SKINIT): guests do not nest;
//! - APIC, x2APIC, TSC-deadline, MONITOR, MWAITX, WAITPKG: a guest has no interrupts;
//! - what works through MSRs that guests do not have: MCE, MCA, MTRR, PMU and its relatives (PDCM, DTES64, DS, IBS, LWP, PERFCTR), TSC_ADJUST,
//!   thermal and power (ACPI, TM, EIST), CET, XSAVES, speculation controls, SGX, PT, MPX, RDT, FFXSR, TCE, OSVW, PKS;
//! - RDTSCP and RDPID: TSC_AUX is the host's;
//! - TSX: aborts tell about the host's caches;
//! - PCID and INVPCID: the guest's ASID already tags its translations;
//! - LA57: the launch tables have four levels;
//! - HTT and topology: a guest has one CPU; PSN: the serial number is the host's.

use crate::xcr0;

/// Leaf 1 ECX: a hypervisor is present. Set whatever the host says.
pub(super) const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 ECX: XSAVE and its companions.
pub(super) const XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX: CR4.OSXSAVE, as the guest has set it.
pub(super) const OSXSAVE: u32 = 1 << 27;
/// Leaf 7 ECX: protection keys.
pub(super) const PKU: u32 = 1 << 3;
/// Leaf 7 ECX: CR4.PKE, as the guest has set it.
pub(super) const OSPKE: u32 = 1 << 4;

/// The bits, when XCR0 may have all of `state`.
const fn with(state: u64, allowed: u64, bits: u32) -> u32 {
    if state != 0 && allowed & state == state {
        bits
    } else {
        0
    }
}

/// Leaf 1 ECX.
pub(super) const fn leaf_1_ecx(allowed: u64) -> u32 {
    let plain = 1 << 0 // SSE3
        | 1 << 1 // PCLMULQDQ
        | 1 << 9 // SSSE3
        | 1 << 13 // CMPXCHG16B
        | 1 << 19 // SSE4.1
        | 1 << 20 // SSE4.2
        | 1 << 22 // MOVBE
        | 1 << 23 // POPCNT
        | 1 << 25 // AES
        | 1 << 30; // RDRAND
    let avx = 1 << 12 // FMA
        | 1 << 28 // AVX
        | 1 << 29; // F16C
    plain | with(xcr0::SSE, allowed, XSAVE) | with(xcr0::AVX, allowed, avx)
}

/// Leaf 1 EDX.
pub(super) const LEAF_1_EDX: u32 = 1 << 0 // FPU
    | 1 << 1 // VME
    | 1 << 2 // DE
    | 1 << 3 // PSE
    | 1 << 4 // TSC; RDTSC is not intercepted
    | 1 << 5 // MSR: RDMSR and WRMSR exist
    | 1 << 6 // PAE
    | 1 << 8 // CMPXCHG8B
    | 1 << 11 // SYSENTER: its MSRs are swapped
    | 1 << 13 // PGE
    | 1 << 15 // CMOV
    | 1 << 16 // PAT: kept as a value
    | 1 << 17 // PSE36
    | 1 << 19 // CLFLUSH: of lines the guest owns
    | 1 << 23 // MMX
    | 1 << 24 // FXSAVE
    | 1 << 25 // SSE
    | 1 << 26 // SSE2
    | 1 << 27; // self-snoop: says only that mixed memory types are safe

/// Leaf 7, subleaf 0, EBX.
pub(super) const fn leaf_7_ebx(allowed: u64) -> u32 {
    let plain = 1 << 0 // FSGSBASE: the bases are swapped
        | 1 << 3 // BMI1
        | 1 << 6 // FDP_EXCPTN_ONLY: tells how the x87 unit behaves
        | 1 << 7 // SMEP
        | 1 << 8 // BMI2
        | 1 << 9 // ERMS
        | 1 << 13 // x87 CS and DS are deprecated: tells how the x87 unit behaves
        | 1 << 18 // RDSEED
        | 1 << 19 // ADX
        | 1 << 20 // SMAP
        | 1 << 23 // CLFLUSHOPT
        | 1 << 24 // CLWB
        | 1 << 29; // SHA
    let avx = 1 << 5; // AVX2
    let avx512 = 1 << 16 // F
        | 1 << 17 // DQ
        | 1 << 21 // IFMA
        | 1 << 28 // CD
        | 1 << 30 // BW
        | 1 << 31; // VL
    plain | with(xcr0::AVX, allowed, avx) | with(xcr0::AVX512, allowed, avx512)
}

/// Leaf 7, subleaf 0, ECX.
pub(super) const fn leaf_7_ecx(allowed: u64) -> u32 {
    let plain = 1 << 2 // UMIP
        | 1 << 8; // GFNI
    let avx = 1 << 9 // VAES
        | 1 << 10; // VPCLMULQDQ
    let avx512 = 1 << 1 // VBMI
        | 1 << 6 // VBMI2
        | 1 << 11 // VNNI
        | 1 << 12 // BITALG
        | 1 << 14; // VPOPCNTDQ
    plain
        | with(xcr0::PKRU, allowed, PKU)
        | with(xcr0::AVX, allowed, avx)
        | with(xcr0::AVX512, allowed, avx512)
}

/// Leaf 7, subleaf 0, EDX.
pub(super) const LEAF_7_EDX: u32 = 1 << 4; // FSRM: short REP MOVSB is fast

/// Leaf 8000_0001H ECX.
pub(super) const fn extended_1_ecx(allowed: u64) -> u32 {
    let plain = 1 << 0 // LAHF and SAHF in 64-bit code
        | 1 << 5 // LZCNT
        | 1 << 6 // SSE4A
        | 1 << 7 // misaligned SSE
        | 1 << 8 // PREFETCHW
        | 1 << 21; // TBM
    let avx = 1 << 11 // XOP
        | 1 << 16; // FMA4
    plain | with(xcr0::AVX, allowed, avx)
}

/// Leaf 8000_0001H EDX. The low bits repeat leaf 1 EDX on AMD and are reserved on Intel.
pub(super) const EXTENDED_1_EDX: u32 = (LEAF_1_EDX & 0x0183_f3ff)
    | 1 << 11 // SYSCALL: its MSRs are swapped
    | 1 << 20 // NX
    | 1 << 22 // MMX extensions
    | 1 << 26 // 1G pages
    | 1 << 29 // long mode
    | 1 << 30 // 3DNow! extensions
    | 1 << 31; // 3DNow!

/// Leaf 8000_0007H EDX.
pub(super) const EXTENDED_7_EDX: u32 = 1 << 8; // the TSC has a constant rate: guests read the real one

/// Leaf 8000_0008H EBX.
pub(super) const EXTENDED_8_EBX: u32 = 1 << 0 // CLZERO: of a line the guest owns
    | 1 << 2; // XRSTOR always restores the x87 error pointers
