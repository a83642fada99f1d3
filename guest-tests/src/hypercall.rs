//! Calls to the hypervisor.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering};

use guest_abi::{Arguments, Hypercall, ReportName};

/// Whether the instruction is VMCALL (Intel) instead of VMMCALL (AMD). Each raises #UD on the other's CPUs.
pub(crate) static USE_VMCALL: AtomicBool = AtomicBool::new(false);

/// Chooses the instruction by the CPU's vendor: EBX of CPUID leaf 0 is "Genu" of "GenuineIntel".
pub(crate) fn choose_instruction() {
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");
    USE_VMCALL.store(intel, Ordering::Relaxed);
}

/// Makes any call, also one that the hypervisor does not know, and gives what comes back in RAX.
pub fn raw(number: u64, arguments: &Arguments) -> i64 {
    let result;
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: the hypervisor changes RAX and no other register, and reads no memory (guest_abi). The stack is not used.
            unsafe {
                asm!(
                    $instruction,
                    inlateout("rax") number => result,
                    in("rdi") arguments.rdi,
                    in("rsi") arguments.rsi,
                    in("rdx") arguments.rdx,
                    in("r8") arguments.r8,
                    in("r9") arguments.r9,
                    in("r10") arguments.r10,
                    options(nostack),
                )
            }
        };
    }
    if USE_VMCALL.load(Ordering::Relaxed) {
        call!("vmcall");
    } else {
        call!("vmmcall");
    }
    result
}

/// Makes a well-formed call. The result is zero but for a hypervisor of another version.
pub fn call(call: &Hypercall) -> i64 {
    let (number, arguments) = call.encode();
    raw(number, &arguments)
}

/// Ends the guest; 0 is success.
pub fn exit(code: u64) -> ! {
    call(&Hypercall::Exit(code));
    // Not reached under Lacuna. An undefined instruction without an IDT ends the guest anywhere.
    // SAFETY: UD2 does not return.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// Reports a value under a name of one to eight printable characters.
pub fn report(name: &str, value: u64) {
    let Some(name) = ReportName::new(name) else {
        panic!("`{name}` can't be the name of a report");
    };
    call(&Hypercall::Report { name, value });
}

/// Lets other guests run.
pub fn yield_now() {
    call(&Hypercall::Yield);
}
